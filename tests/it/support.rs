//! What the tests share: a shop, what stands behind it, clients in front of it, and what an answer must be.

use std::time::Duration;

pub(crate) mod answers;
pub(crate) mod books;
pub(crate) mod calls;
pub(crate) mod frames;
pub(crate) mod http2;
pub(crate) mod log;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod routes;
pub(crate) mod server;
pub(crate) mod settings;
mod setup;
mod shop;
pub(crate) mod snapshot;
mod sold;
pub(crate) mod teller;
pub(crate) mod upstream;
pub(crate) mod websocket;

pub(crate) use setup::{Setup, table_selling};
pub(crate) use shop::{Closed, Shop, ledger_in, master_key, new_folder};
pub(crate) use sold::Sold;

/// When the tests take place, Unix seconds.
pub(crate) const NOW_SECS: u64 = 1_800_000_000;

/// How long an invoice can be paid.
pub(crate) const INVOICE_EXPIRY: Duration = Duration::from_secs(600);

/// What stands in `page.txt`, and nowhere else: whoever reads it was served.
pub(crate) const PAGE: &str = "what was paid for";

/// Longer than anything in these tests takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
