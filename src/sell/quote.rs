//! What must be asked of the world: what a bitcoin costs in a currency, the operator's price hook, where a withdrawal goes. Whatever is asked is
//! asked with a deadline and a limit, and what cannot be right is refused: rather no challenge than one at a wrong price.
//!
//! What was wrong is logged here, where it is known which source it was and what it said.

mod address;
mod ask;
mod hook;
mod invoices;
mod rates;
mod source;

use std::sync::Arc;

use crate::base::price::{Currency, Fiat};

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

/// Why there is no price now. `Display` is for the operator; a client reads [`Unpriced::detail`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpriced {
    /// No `[[rate]]` in the settings.
    #[error("no rate is set up for {0}")]
    NoRate(Currency),
    /// No source has given one yet that could be taken.
    #[error("the rate of {0} is not known yet")]
    RateUnknown(Currency),
    /// The last one that could be taken is too old to sell by.
    #[error("the rate of {currency} is {age_secs} s old, and too old to sell by")]
    RateTooOld {
        /// Of this currency.
        currency: Currency,
        /// Seconds since its sources were asked; 0 if the clock has gone back since.
        age_secs: u64,
    },
    /// No `[[hook]]` of this name in the settings, or none any more.
    #[error("there is no price hook {0}")]
    NoHook(Arc<str>),
    /// The price hook gave none, and the settings say that then nothing is sold.
    #[error("the price hook {name} gave no price: {why}")]
    Hook {
        /// Its name in the settings.
        name: Arc<str>,
        /// What was wrong.
        #[source]
        why: HookError,
    },
    /// No amount of bitcoin is worth that.
    #[error("{0} comes to more than all the bitcoin that will exist")]
    TooLarge(Fiat),
}

impl Unpriced {
    /// What a client reads: not whom we asked, and not what was said.
    pub fn detail(&self) -> &'static str {
        match self {
            Self::NoRate(_) | Self::NoHook(_) | Self::TooLarge(_) => {
                "this cannot be priced, and nobody but its seller can change that"
            }
            Self::RateUnknown(_) | Self::RateTooOld { .. } => {
                "this cannot be priced now: the rate of its currency is not known; nothing was charged"
            }
            Self::Hook { .. } => "this cannot be priced now; nothing was charged",
        }
    }
}
