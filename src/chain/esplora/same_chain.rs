//! Recognises our chain. A height does not identify a chain: another network may have more blocks,
//! and all signets begin with the same block. LDK closes a channel if an endpoint lacks the block
//! of its funding transaction, and every other chain lacks it. So an endpoint is trusted only after
//! it has shown a block of our chain.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use bitcoin::constants::genesis_block;
use bitcoin::{BlockHash, Network};

use super::Relay;
use super::block::Block;
use super::fault::Fault;
use super::question::{Answer, Question, Worth};

/// The number of blocks on top of a block that no honest server takes back: as many as LDK waits
/// for (`ANTI_REORG_DELAY`).
const SETTLED: u32 = 6;

/// The number of newest blocks that are remembered, about 50 bytes each: the blocks of a day.
const BLOCKS_MAX: usize = 144;

/// The known blocks of our chain.
#[derive(Debug)]
pub(super) struct Ours {
    /// The first block of the network.
    first: Block,
    /// The newest settled block.
    settled: Option<Block>,
    /// The newest blocks, by height.
    newest: BTreeMap<u32, BlockHash>,
}

impl Ours {
    /// Starts with the network and with the settled block that an earlier run has seen.
    pub(super) fn new(network: Network, settled: Option<Block>) -> Self {
        let first = Block {
            height: 0,
            hash: genesis_block(network).block_hash(),
        };
        Self {
            first,
            settled,
            newest: BTreeMap::new(),
        }
    }

    /// Returns the block that identifies our chain: the newest settled one, or else the network's
    /// first one.
    pub(super) fn mark(&self) -> Block {
        self.settled.unwrap_or(self.first)
    }

    /// Returns the newest settled block, which the next start should know.
    pub(super) fn settled(&self) -> Option<Block> {
        self.settled
    }

    /// Returns the block at this height, if it is one of the newest.
    pub(super) fn at(&self, height: u32) -> Option<Block> {
        let hash = self.newest.get(&height).copied()?;
        Some(Block { height, hash })
    }

    /// Records the newest blocks that the endpoint in use reports, the newest first. Each block
    /// follows the next one in the list.
    pub(super) fn learn(&mut self, blocks: &[(BlockHash, u32)]) {
        let (Some((_, top)), Some((oldest, at))) = (blocks.first(), blocks.last()) else {
            return;
        };
        if self.newest.get(at).is_some_and(|known| known != oldest) {
            // The chain branched off below these blocks, so the older known blocks may no longer be
            // in the chain.
            self.newest.clear();
        } else {
            self.newest.retain(|height, _| height <= top);
        }
        self.newest
            .extend(blocks.iter().map(|(hash, height)| (*height, *hash)));
        while self.newest.len() > BLOCKS_MAX {
            self.newest.pop_first();
        }
        let below = top.checked_sub(SETTLED);
        let settled = below.and_then(|below| self.newest.range(..=below).next_back());
        if let Some((height, hash)) = settled.map(|(height, hash)| (*height, *hash)) {
            self.settled = Some(Block { height, hash });
        }
    }
}

impl Relay {
    pub(super) fn ours(&self) -> MutexGuard<'_, Ours> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that an endpoint may be asked. It must be on our chain and, if it is not in use yet,
    /// have all known blocks.
    pub(super) async fn judge(&self, index: usize) -> Result<(), Fault> {
        let is_proven = self.endpoints[index].state().proven.is_some();
        if is_proven && index == self.current() {
            return Ok(());
        }
        // Only one check runs at a time. Concurrent questions then use the result of the first.
        let _alone = self.judging.lock().await;
        if index != self.current() {
            self.is_level(index).await?;
        }
        self.is_ours(index).await
    }

    /// Checks that an endpoint has the block that identifies our chain. Each endpoint is asked once
    /// for each such block.
    pub(super) async fn is_ours(&self, index: usize) -> Result<(), Fault> {
        let mark = self.ours().mark();
        if self.endpoints[index].state().proven == Some(mark.hash) {
            return Ok(());
        }
        mark.is_this(self.hash_at(index, mark.height).await?)?;
        self.endpoints[index].state().proven = Some(mark.hash);
        Ok(())
    }

    /// Returns an endpoint's block hash at a height. The request is charged as `Worth::Guard`,
    /// because the answer protects the channels.
    pub(super) async fn hash_at(&self, index: usize, height: u32) -> Result<BlockHash, Fault> {
        let question = Question::HashAt(height);
        let (answer, learned) = self.send(index, &question, Worth::Guard).await?;
        match (answer, learned.heights.first()) {
            (Answer::Body(_), Some((hash, _))) => Ok(*hash),
            (Answer::NotThere, _) | (Answer::Body(_), None) => Err(Fault::NoBlock { height }),
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    /// Returns blocks between these heights, the newest first. `branch` gives each branch different
    /// hashes.
    fn page(branch: u8, from: u32, to: u32) -> Vec<(BlockHash, u32)> {
        (from..=to)
            .rev()
            .map(|height| (hash(branch, height), height))
            .collect()
    }

    fn hash(branch: u8, height: u32) -> BlockHash {
        let mut bytes = [branch; 32];
        bytes[..4].copy_from_slice(&height.to_le_bytes());
        BlockHash::from_byte_array(bytes)
    }

    fn ours() -> Ours {
        Ours::new(Network::Signet, None)
    }

    #[test]
    fn a_chain_is_told_by_its_network_until_a_block_is_settled() {
        let mut ours = ours();
        let first = ours.mark();
        assert_eq!(
            (first.height, first.hash),
            (0, genesis_block(Network::Signet).block_hash())
        );
        ours.learn(&page(1, 1, 5));
        assert_eq!((ours.mark(), ours.settled()), (first, None));
        ours.learn(&page(1, 91, 100));
        let settled = Block {
            height: 94,
            hash: hash(1, 94),
        };
        assert_eq!((ours.mark(), ours.settled()), (settled, Some(settled)));
        assert!(settled.is_this(hash(1, 94)).is_ok());
        let other = settled.is_this(hash(2, 94)).unwrap_err().to_string();
        assert!(
            other.contains("block 94") && other.contains("node.network"),
            "{other}"
        );
        // A settled block of an earlier run counts as well.
        let again = Ours::new(Network::Signet, Some(settled));
        assert_eq!(again.mark(), settled);
    }

    #[test]
    fn what_was_taken_back_is_forgotten() {
        let mut ours = ours();
        ours.learn(&page(1, 91, 100));
        // The last two blocks are replaced.
        let mut branch = page(2, 99, 99);
        branch.extend(page(1, 90, 98));
        ours.learn(&branch);
        assert_eq!(ours.at(98).map(|block| block.hash), Some(hash(1, 98)));
        assert_eq!(ours.at(99).map(|block| block.hash), Some(hash(2, 99)));
        assert_eq!(ours.at(100), None);
        // More blocks are replaced than one answer holds.
        ours.learn(&page(3, 95, 104));
        assert_eq!(ours.at(94), None);
        assert_eq!(ours.mark().hash, hash(3, 98));
        // The new blocks follow a gap and are more than a day's.
        ours.learn(&page(3, 200, 400));
        assert_eq!(ours.newest.len(), BLOCKS_MAX);
        assert_eq!(ours.mark().height, 394);
    }
}
