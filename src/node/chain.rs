//! The source of the node's chain data: Esplora APIs behind our own relay, an Electrum server, or
//! the operator's bitcoind.

pub(super) mod behind;
mod block_clock;
pub(super) mod source;
pub(super) mod status;
pub(super) mod told;
pub(super) mod watch;
