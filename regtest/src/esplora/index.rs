//! The chain in memory: every block of the best chain, the mempool, and who touches which script and spends what.
//!
//! Pure: it is told about blocks and transactions and never asks anyone.

use std::collections::{HashMap, HashSet};

use bitcoin::block::Header;
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::{Block, BlockHash, MerkleBlock, OutPoint, Script, Transaction, TxOut, Txid};

/// Confirmed transactions on one page of a script's history, as Blockstream's server has it.
const CONFIRMED_PER_PAGE: usize = 25;
/// Unconfirmed transactions shown before the first page.
const MEMPOOL_PER_PAGE: usize = 50;
/// Blocks whose times a median is taken of.
const MEDIAN_BLOCKS: usize = 11;

/// The chain and the mempool as last seen.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The best chain by height, the genesis block first.
    blocks: Vec<IndexedBlock>,
    /// Heights of the best chain's blocks.
    heights: HashMap<BlockHash, u32>,
    /// Every header ever seen: a client asks for a block that a reorganisation has orphaned.
    headers: HashMap<BlockHash, Header>,
    /// Transactions of the best chain.
    confirmed: Table,
    /// Transactions that wait for a block.
    mempool: Table,
}

/// What is kept of a block besides its transactions.
#[derive(Debug)]
pub(super) struct IndexedBlock {
    /// Its hash.
    pub(super) hash: BlockHash,
    /// Its header.
    pub(super) header: Header,
    /// Its transactions, in their order.
    pub(super) txids: Vec<Txid>,
    /// Serialised length in bytes.
    pub(super) size: usize,
    /// Weight units.
    pub(super) weight: u64,
}

/// Transactions and the two ways to find them.
#[derive(Debug, Default)]
struct Table {
    /// The transactions, with the height of their block where they have one.
    txs: HashMap<Txid, Entry>,
    /// By SHA-256 of a script: the transactions that pay to it or spend from it, oldest first.
    histories: HashMap<sha256::Hash, Vec<Txid>>,
    /// By output: the transaction and the input that spend it.
    spends: HashMap<OutPoint, (Txid, u32)>,
    /// In the order of arrival.
    order: Vec<Txid>,
}

/// A transaction and where it is.
#[derive(Debug)]
struct Entry {
    tx: Transaction,
    height: Option<u32>,
}

/// Where a transaction is confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirmation<'a> {
    /// The height of the block.
    pub(super) height: u32,
    /// The block.
    pub(super) block: &'a IndexedBlock,
}

impl Index {
    /// The hash of the newest block, if there is one.
    pub(super) fn tip(&self) -> Option<BlockHash> {
        self.blocks.last().map(|block| block.hash)
    }

    /// The height of the newest block.
    pub(super) fn tip_height(&self) -> Option<u32> {
        self.tip().and_then(|hash| self.height(&hash))
    }

    /// The height of a block of the best chain.
    pub(super) fn height(&self, hash: &BlockHash) -> Option<u32> {
        self.heights.get(hash).copied()
    }

    /// The block of the best chain at that height.
    pub(super) fn block(&self, height: u32) -> Option<&IndexedBlock> {
        self.blocks.get(usize::try_from(height).ok()?)
    }

    /// The header of any block ever seen.
    pub(super) fn header(&self, hash: &BlockHash) -> Option<&Header> {
        self.headers.get(hash)
    }

    /// The median of the times of that block and the ten before it.
    pub(super) fn median_time(&self, height: u32) -> u32 {
        let above = usize::try_from(height)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
            .min(self.blocks.len());
        let from = above.saturating_sub(MEDIAN_BLOCKS);
        let mut times: Vec<u32> = self.blocks[from..above]
            .iter()
            .map(|block| block.header.time)
            .collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    /// Appends a block that follows the tip.
    ///
    /// # Panics
    /// When it does not follow the tip: the caller walked back to a common ancestor first.
    pub(super) fn connect(&mut self, block: Block) {
        let hash = block.block_hash();
        let height =
            u32::try_from(self.blocks.len()).expect("a regtest chain is shorter than 2^32 blocks");
        assert!(
            self.tip()
                .is_none_or(|tip| tip == block.header.prev_blockhash),
            "block {hash} does not follow the tip"
        );
        let indexed = IndexedBlock {
            hash,
            header: block.header,
            txids: block.txdata.iter().map(Transaction::compute_txid).collect(),
            size: block.total_size(),
            weight: block.weight().to_wu(),
        };
        for (tx, txid) in block.txdata.into_iter().zip(&indexed.txids) {
            let spent: Vec<_> = tx
                .input
                .iter()
                .filter_map(|input| self.output(&input.previous_output))
                .collect();
            let scripts = touched(&tx, &spent);
            self.confirmed.insert(
                *txid,
                Entry {
                    tx,
                    height: Some(height),
                },
                scripts,
            );
        }
        self.headers.insert(hash, indexed.header);
        self.heights.insert(hash, height);
        self.blocks.push(indexed);
    }

    /// Takes the newest block off again.
    pub(super) fn disconnect(&mut self) {
        let Some(block) = self.blocks.pop() else {
            return;
        };
        self.heights.remove(&block.hash);
        let gone: HashSet<Txid> = block.txids.iter().copied().collect();
        self.confirmed.remove(&gone);
    }

    /// The unconfirmed transactions that are known already.
    pub(super) fn mempool_txids(&self) -> &[Txid] {
        &self.mempool.order
    }

    /// Sets the mempool: keeps what is still in it, adds what is new, drops the rest.
    pub(super) fn set_mempool(&mut self, txids: &[Txid], new: Vec<(Txid, Transaction)>) {
        let wanted: HashSet<Txid> = txids.iter().copied().collect();
        let mut old = std::mem::take(&mut self.mempool);
        let kept = old
            .order
            .iter()
            .filter_map(|txid| Some((*txid, old.txs.remove(txid)?.tx)));
        let all: Vec<(Txid, Transaction)> = kept
            .chain(new)
            .filter(|(txid, _)| wanted.contains(txid))
            .collect();
        // Two passes: an input may spend an output of another transaction of the mempool, whatever their order.
        let outputs: HashMap<OutPoint, TxOut> = all
            .iter()
            .flat_map(|(txid, tx)| {
                (0..)
                    .zip(&tx.output)
                    .map(|(vout, output)| (OutPoint::new(*txid, vout), output.clone()))
            })
            .collect();
        let mut mempool = Table::default();
        for (txid, tx) in all {
            let spent: Vec<_> = tx
                .input
                .iter()
                .filter_map(|input| {
                    outputs
                        .get(&input.previous_output)
                        .or_else(|| self.output(&input.previous_output))
                })
                .collect();
            let scripts = touched(&tx, &spent);
            mempool.insert(txid, Entry { tx, height: None }, scripts);
        }
        self.mempool = mempool;
    }

    /// A transaction of the best chain or of the mempool.
    pub(super) fn tx(&self, txid: &Txid) -> Option<&Transaction> {
        self.confirmed
            .txs
            .get(txid)
            .or_else(|| self.mempool.txs.get(txid))
            .map(|entry| &entry.tx)
    }

    /// Where a transaction is confirmed, if it is.
    pub(super) fn confirmation(&self, txid: &Txid) -> Option<Confirmation<'_>> {
        let height = self.confirmed.txs.get(txid)?.height?;
        Some(Confirmation {
            height,
            block: self.block(height)?,
        })
    }

    /// The output that an input spends.
    pub(super) fn output(&self, outpoint: &OutPoint) -> Option<&TxOut> {
        self.tx(&outpoint.txid)?
            .output
            .get(usize::try_from(outpoint.vout).ok()?)
    }

    /// The transaction and the input that spend an output, confirmed or not.
    pub(super) fn spend(&self, outpoint: &OutPoint) -> Option<(Txid, u32)> {
        self.confirmed
            .spends
            .get(outpoint)
            .or_else(|| self.mempool.spends.get(outpoint))
            .copied()
    }

    /// The first page of a script's history: up to fifty unconfirmed transactions, then up to twenty-five confirmed ones,
    /// each part newest first.
    pub(super) fn history(&self, script: &sha256::Hash) -> Vec<Txid> {
        let waiting = self
            .mempool
            .history(script)
            .iter()
            .rev()
            .take(MEMPOOL_PER_PAGE);
        waiting
            .chain(
                self.confirmed
                    .history(script)
                    .iter()
                    .rev()
                    .take(CONFIRMED_PER_PAGE),
            )
            .copied()
            .collect()
    }

    /// The page of confirmed transactions that follows `last_seen`, newest first; empty if that one is not among them.
    pub(super) fn history_after(&self, script: &sha256::Hash, last_seen: &Txid) -> Vec<Txid> {
        let newest_first = self.confirmed.history(script).iter().rev();
        newest_first
            .skip_while(|txid| *txid != last_seen)
            .skip(1)
            .take(CONFIRMED_PER_PAGE)
            .copied()
            .collect()
    }

    /// The proof that a block contains a transaction, as bitcoind's `gettxoutproof` gives it.
    pub(super) fn proof(&self, txid: &Txid) -> Option<MerkleBlock> {
        let block = self.confirmation(txid)?.block;
        Some(MerkleBlock::from_header_txids_with_predicate(
            &block.header,
            &block.txids,
            |other| other == txid,
        ))
    }
}

impl Table {
    fn insert(&mut self, txid: Txid, entry: Entry, scripts: HashSet<sha256::Hash>) {
        for script in scripts {
            self.histories.entry(script).or_default().push(txid);
        }
        for (vin, input) in (0..).zip(&entry.tx.input) {
            self.spends.insert(input.previous_output, (txid, vin));
        }
        self.txs.insert(txid, entry);
        self.order.push(txid);
    }

    fn remove(&mut self, gone: &HashSet<Txid>) {
        self.txs.retain(|txid, _| !gone.contains(txid));
        self.spends.retain(|_, (txid, _)| !gone.contains(txid));
        self.order.retain(|txid| !gone.contains(txid));
        self.histories.retain(|_, txids| {
            txids.retain(|txid| !gone.contains(txid));
            !txids.is_empty()
        });
    }

    fn history(&self, script: &sha256::Hash) -> &[Txid] {
        self.histories.get(script).map_or(&[], Vec::as_slice)
    }
}

/// The hash under which Esplora looks up a script.
fn script_hash(script: &Script) -> sha256::Hash {
    sha256::Hash::hash(script.as_bytes())
}

/// Every script that a transaction pays to or spends from, once.
fn touched(tx: &Transaction, spent: &[&TxOut]) -> HashSet<sha256::Hash> {
    tx.output
        .iter()
        .chain(spent.iter().copied())
        .map(|output| script_hash(&output.script_pubkey))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::absolute::LockTime;
    use bitcoin::{Amount, Network, ScriptBuf, Sequence, TxIn, Witness, transaction};

    fn script(name: u8) -> ScriptBuf {
        ScriptBuf::from_bytes(vec![0x51, name])
    }

    fn tx(previous_output: OutPoint, to: &ScriptBuf, sat: u64) -> Transaction {
        Transaction {
            version: transaction::Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![TxOut {
                value: Amount::from_sat(sat),
                script_pubkey: to.clone(),
            }],
        }
    }

    fn block(prev: BlockHash, nonce: u32, txdata: Vec<Transaction>) -> Block {
        let mut block = bitcoin::constants::genesis_block(Network::Regtest);
        block.header.prev_blockhash = prev;
        block.header.nonce = nonce;
        block.txdata = txdata;
        block.header.merkle_root = block.compute_merkle_root().unwrap();
        block
    }

    /// A coinbase-like transaction: what it spends does not exist.
    fn minted(to: &ScriptBuf, salt: u32) -> Transaction {
        tx(
            OutPoint {
                txid: Txid::all_zeros(),
                vout: salt,
            },
            to,
            5_000,
        )
    }

    #[test]
    fn a_block_that_is_taken_off_leaves_nothing_behind() {
        let genesis = bitcoin::constants::genesis_block(Network::Regtest);
        let mut index = Index::default();
        index.connect(genesis.clone());
        let (alice, bob) = (script(1), script(2));
        let first = minted(&alice, 7);
        let first_id = first.compute_txid();
        index.connect(block(genesis.block_hash(), 1, vec![first]));
        let spend = tx(OutPoint::new(first_id, 0), &bob, 4_000);
        let spend_id = spend.compute_txid();
        let stale = block(index.tip().unwrap(), 2, vec![spend.clone()]);
        let stale_hash = stale.block_hash();
        index.connect(stale);

        assert_eq!(index.history(&script_hash(&alice)), [spend_id, first_id]);
        assert_eq!(
            index.spend(&OutPoint::new(first_id, 0)),
            Some((spend_id, 0))
        );
        assert_eq!(index.confirmation(&spend_id).unwrap().height, 2);

        index.disconnect();
        assert_eq!(index.history(&script_hash(&alice)), [first_id]);
        assert!(index.history(&script_hash(&bob)).is_empty());
        assert_eq!(index.spend(&OutPoint::new(first_id, 0)), None);
        assert!(index.tx(&spend_id).is_none());
        assert_eq!(index.height(&stale_hash), None);
        assert!(
            index.header(&stale_hash).is_some(),
            "a client may still ask for an orphaned block"
        );

        index.set_mempool(&[spend_id], vec![(spend_id, spend)]);
        assert_eq!(index.history(&script_hash(&bob)), [spend_id]);
        assert!(index.confirmation(&spend_id).is_none());
    }

    #[test]
    fn a_chain_of_unconfirmed_transactions_is_found_whatever_their_order() {
        let mut index = Index::default();
        index.connect(bitcoin::constants::genesis_block(Network::Regtest));
        let (alice, bob) = (script(1), script(2));
        let parent = minted(&alice, 1);
        let parent_id = parent.compute_txid();
        let child = tx(OutPoint::new(parent_id, 0), &bob, 4_000);
        let child_id = child.compute_txid();
        index.set_mempool(
            &[child_id, parent_id],
            vec![(child_id, child), (parent_id, parent)],
        );
        let mut history = index.history(&script_hash(&alice));
        history.sort();
        let mut both = vec![child_id, parent_id];
        both.sort();
        assert_eq!(history, both);
        index.set_mempool(&[], Vec::new());
        assert!(index.history(&script_hash(&alice)).is_empty());
        assert_eq!(index.spend(&OutPoint::new(parent_id, 0)), None);
    }

    #[test]
    fn confirmed_history_comes_in_pages_of_twenty_five_newest_first() {
        let mut index = Index::default();
        index.connect(bitcoin::constants::genesis_block(Network::Regtest));
        let alice = script(1);
        let mut expected = Vec::new();
        for salt in 0..60 {
            let tx = minted(&alice, salt);
            expected.push(tx.compute_txid());
            index.connect(block(index.tip().unwrap(), salt, vec![tx]));
        }
        expected.reverse();
        let script = script_hash(&alice);
        let first = index.history(&script);
        let second = index.history_after(&script, first.last().unwrap());
        let third = index.history_after(&script, second.last().unwrap());
        assert_eq!((first.len(), second.len(), third.len()), (25, 25, 10));
        assert_eq!([first, second, third].concat(), expected);
        assert!(index.history_after(&script, &Txid::all_zeros()).is_empty());
    }

    #[test]
    fn the_proof_of_a_transaction_names_it_and_its_block() {
        let genesis = bitcoin::constants::genesis_block(Network::Regtest);
        let mut index = Index::default();
        index.connect(genesis.clone());
        let txs: Vec<_> = (0..5).map(|salt| minted(&script(3), salt)).collect();
        let wanted = txs[3].compute_txid();
        let block = block(genesis.block_hash(), 1, txs);
        index.connect(block.clone());
        let proof = index.proof(&wanted).unwrap();
        let (mut matches, mut positions) = (Vec::new(), Vec::new());
        let root = proof
            .txn
            .extract_matches(&mut matches, &mut positions)
            .unwrap();
        assert_eq!(root, block.header.merkle_root);
        assert_eq!((matches, positions), (vec![wanted], vec![3]));
    }
}
