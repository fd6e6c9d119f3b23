//! A block, as chains are told apart by one.

use bitcoin::BlockHash;
use serde::{Deserialize, Serialize};

/// A block of the best chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Block {
    /// Its height.
    pub(crate) height: u32,
    /// Its hash.
    pub(crate) hash: BlockHash,
}

/// Somebody has another block in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is of another chain, its block {} is {theirs} and not {}: is it one for node.network? If it is, and this node has never had money or \
     a channel, or test blocks were taken back while it was stopped, remove chain.json in its folder node/",
    ours.height,
    ours.hash
)]
pub(crate) struct OtherChain {
    ours: Block,
    theirs: BlockHash,
}

impl Block {
    /// Whether somebody who has that block at its height has this one.
    pub(crate) fn is_this(self, theirs: BlockHash) -> Result<(), OtherChain> {
        if theirs == self.hash {
            Ok(())
        } else {
            Err(OtherChain { ours: self, theirs })
        }
    }
}
