//! Chain data from outside: the kinds of sources, their clients, and the relay in front of Esplora
//! APIs. This module knows neither Lightning nor the node.

pub(crate) mod bitcoind;
pub(crate) mod clock_jump;
pub(crate) mod electrum;
pub mod esplora;
mod probe;
mod source;

pub use probe::{Seen, seen};
pub use source::{Bitcoind, ChainConfig, ChainSource, Login};
