//! A block that identifies a chain.

use bitcoin::BlockHash;
use serde::{Deserialize, Serialize};

/// A block of the best chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Block {
    /// The block's height.
    pub(crate) height: u32,
    /// The block's hash.
    pub(crate) hash: BlockHash,
}

/// The error for a server that has another block at the same height.
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
    /// Checks that a server's block at this height, `theirs`, is this block.
    pub(crate) fn is_this(self, theirs: BlockHash) -> Result<(), OtherChain> {
        if theirs == self.hash {
            Ok(())
        } else {
            Err(OtherChain { ours: self, theirs })
        }
    }
}
