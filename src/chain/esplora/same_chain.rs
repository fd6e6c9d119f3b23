//! Which chain is ours. A height says nothing of that: another network may well have more blocks, and all signets begin with the
//! same one. LDK closes a channel whose funding transaction is in a block that an endpoint has not, and no other chain has it.
//! So nobody is listened to who has not shown a block of ours.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use bitcoin::constants::genesis_block;
use bitcoin::{BlockHash, Network};

use super::Relay;
use super::block::Block;
use super::fault::Fault;
use super::question::{Answer, Question, Worth};

/// Blocks on top of one that no honest server takes back: as many as LDK waits for (`ANTI_REORG_DELAY`).
const SETTLED: u32 = 6;

/// Newest blocks that are remembered, some 50 bytes each: those of a day.
const BLOCKS_MAX: usize = 144;

/// What is known of our chain.
#[derive(Debug)]
pub(super) struct Ours {
    /// The first block of the network.
    first: Block,
    /// The newest one that is settled.
    settled: Option<Block>,
    /// The newest ones, by height.
    newest: BTreeMap<u32, BlockHash>,
}

impl Ours {
    /// What is known at the start: the network, and what an earlier start has seen.
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

    /// The block by which our chain is told from others.
    pub(super) fn mark(&self) -> Block {
        self.settled.unwrap_or(self.first)
    }

    /// What the next start should know.
    pub(super) fn settled(&self) -> Option<Block> {
        self.settled
    }

    /// The block at that height, if it is one of the newest.
    pub(super) fn at(&self, height: u32) -> Option<Block> {
        let hash = self.newest.get(&height).copied()?;
        Some(Block { height, hash })
    }

    /// The endpoint in use says that these are the newest, each upon the next.
    pub(super) fn learn(&mut self, blocks: &[(BlockHash, u32)]) {
        let (Some((_, top)), Some((oldest, at))) = (blocks.first(), blocks.last()) else {
            return;
        };
        if self.newest.get(at).is_some_and(|known| known != oldest) {
            // A branch was left that began before them: of the older ones nobody knows which are still in the chain.
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

    /// Whether an endpoint may be asked: it is of our chain, and if it is not yet the one in use, has all blocks that are known.
    pub(super) async fn judge(&self, index: usize) -> Result<(), Fault> {
        let is_proven = self.endpoints[index].state().proven.is_some();
        if is_proven && index == self.current() {
            return Ok(());
        }
        // One after the other: questions that come together go by what the first one has heard.
        let _alone = self.judging.lock().await;
        if index != self.current() {
            self.is_level(index).await?;
        }
        self.is_ours(index).await
    }

    /// Whether an endpoint has the block by which our chain is told from others. It is asked once for each such block.
    pub(super) async fn is_ours(&self, index: usize) -> Result<(), Fault> {
        let mark = self.ours().mark();
        if self.endpoints[index].state().proven == Some(mark.hash) {
            return Ok(());
        }
        mark.is_this(self.hash_at(index, mark.height).await?)?;
        self.endpoints[index].state().proven = Some(mark.hash);
        Ok(())
    }

    /// An endpoint's block at a height. What it proves is worth what it guards.
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

    /// Blocks from that height up to the other one, the newest first; the branch tells them from others.
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
        // What an earlier start has seen is as good.
        let again = Ours::new(Network::Signet, Some(settled));
        assert_eq!(again.mark(), settled);
    }

    #[test]
    fn what_was_taken_back_is_forgotten() {
        let mut ours = ours();
        ours.learn(&page(1, 91, 100));
        // The last two.
        let mut branch = page(2, 99, 99);
        branch.extend(page(1, 90, 98));
        ours.learn(&branch);
        assert_eq!(ours.at(98).map(|block| block.hash), Some(hash(1, 98)));
        assert_eq!(ours.at(99).map(|block| block.hash), Some(hash(2, 99)));
        assert_eq!(ours.at(100), None);
        // More than are told of at once.
        ours.learn(&page(3, 95, 104));
        assert_eq!(ours.at(94), None);
        assert_eq!(ours.mark().hash, hash(3, 98));
        // With a gap, and no more than a day.
        ours.learn(&page(3, 200, 400));
        assert_eq!(ours.newest.len(), BLOCKS_MAX);
        assert_eq!(ours.mark().height, 394);
    }
}
