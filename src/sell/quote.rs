//! Data that Tollhouse requests from other servers: bitcoin exchange rates, prices from the
//! operator's price hook, and invoices for withdrawals. Each request has a deadline and a limit on
//! the answer. An implausible answer is rejected, because no challenge is better than one at a
//! wrong price.
//!
//! This module logs the failures, because here it is known which source failed and how it answered.

mod address;
mod ask;
mod hook;
mod invoices;
mod rates;
mod source;
mod unpriced;

pub use address::{Address, AddressError};
pub use ask::AskError;
pub use hook::{
    Asking, Hook, HookConfig, HookError, HookRequest, HookStatus, Hooks, OnFailure, Quoted,
    QuotedGrant,
};
pub use invoices::{InvoiceSource, InvoiceSourceError, NoInvoiceSource};
pub use rates::{
    Converted, Doubt, RateConfig, RateOrigin, RateStatus, Rates, SourceStatus, Watched,
};
pub use source::{NoPointer, Pointer, Source, SourceError};
pub use unpriced::Unpriced;
