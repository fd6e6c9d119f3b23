//! Brings the index up to what bitcoind says now: new blocks, reorganised blocks, the mempool.

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Block, BlockHash, Transaction, Txid};
use serde::Deserialize;
use serde_json::json;

use super::index::Index;
use crate::rpc::{Rpc, RpcError};

/// Rounds after which a chain that changes faster than it can be read is given up on.
const ROUNDS_MAX: usize = 50;

/// The index and what is needed to keep it current.
#[derive(Debug)]
pub(super) struct Follower {
    /// The chain in memory.
    pub(super) index: Index,
    rpc: Rpc,
    /// bitcoind's counter of changes to the mempool at the last look.
    mempool_sequence: Option<u64>,
}

/// The mempool's content and its counter of changes.
#[derive(Deserialize)]
struct Mempool {
    txids: Vec<Txid>,
    mempool_sequence: u64,
}

impl Follower {
    /// An index that knows nothing yet.
    pub(super) fn new(rpc: Rpc) -> Self {
        Self {
            index: Index::default(),
            rpc,
            mempool_sequence: None,
        }
    }

    /// Follows until the mempool was read between two looks at one and the same tip. Read in the other order, a
    /// transaction that is mined in between would be in neither.
    pub(super) async fn follow(&mut self) -> Result<(), RpcError> {
        for _ in 0..ROUNDS_MAX {
            let mempool: Mempool = self.rpc.call("getrawmempool", json!([false, true])).await?;
            let tip: BlockHash = self.rpc.call("getbestblockhash", json!([])).await?;
            if self.index.tip() != Some(tip) {
                self.follow_blocks(tip).await?;
                self.mempool_sequence = None;
            } else if self.mempool_sequence == Some(mempool.mempool_sequence)
                || self.follow_mempool(&mempool).await?
            {
                self.mempool_sequence = Some(mempool.mempool_sequence);
                return Ok(());
            }
        }
        Err(RpcError::Unreachable(
            "the chain changes faster than it can be read".to_owned(),
        ))
    }

    /// Walks back from `tip` to a block of ours, takes off what is above it and appends the new branch.
    async fn follow_blocks(&mut self, tip: BlockHash) -> Result<(), RpcError> {
        let mut branch = Vec::new();
        let mut wanted = tip;
        let fork = loop {
            if let Some(height) = self.index.height(&wanted) {
                break Some(height);
            }
            let block: Block = self.fetch("getblock", json!([wanted, 0])).await?;
            let is_genesis = block.header.prev_blockhash == bitcoin::hashes::Hash::all_zeros();
            wanted = block.header.prev_blockhash;
            branch.push(block);
            if is_genesis {
                break None;
            }
        };
        while self.index.tip_height() > fork {
            self.index.disconnect();
        }
        for block in branch.into_iter().rev() {
            self.index.connect(block);
        }
        Ok(())
    }

    /// Fetches the transactions that are new. `false` if one has left the mempool meanwhile: look again.
    async fn follow_mempool(&mut self, mempool: &Mempool) -> Result<bool, RpcError> {
        let mut new = Vec::new();
        for txid in &mempool.txids {
            if self.index.mempool_txids().contains(txid) {
                continue;
            }
            match self
                .fetch::<Transaction>("getrawtransaction", json!([txid]))
                .await
            {
                Ok(tx) => new.push((*txid, tx)),
                Err(RpcError::Refused { .. }) => return Ok(false),
                Err(error @ RpcError::Unreachable(_)) => return Err(error),
            }
        }
        self.index.set_mempool(&mempool.txids, new);
        Ok(true)
    }

    async fn fetch<T: bitcoin::consensus::Decodable>(
        &self,
        method: &str,
        params: serde_json::Value,
    ) -> Result<T, RpcError> {
        let hex: String = self.rpc.call(method, params).await?;
        deserialize_hex(&hex).map_err(|error| RpcError::Unreachable(format!("{method}: {error}")))
    }
}
