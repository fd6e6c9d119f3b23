//! Chain data from outside sources: what they are, how they are asked, and the relay in front of Esplora APIs. It knows
//! neither Lightning nor the node.

pub(crate) mod bitcoind;
pub(crate) mod clock_jump;
pub(crate) mod electrum;
pub mod esplora;
mod probe;
mod source;

pub use probe::{Seen, seen};
pub use source::{Bitcoind, ChainConfig, ChainSource, Login};
