//! The questions that ldk-node asks an Esplora API, and the checks of their answers. Pure
//! functions.

use std::collections::HashMap;
use std::fmt;

use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize, deserialize_hex};
use bitcoin::hashes::sha256;
use bitcoin::{BlockHash, MerkleBlock, Transaction, Txid};
use bytes::Bytes;
use esplora_client::{BlockInfo, BlockStatus, OutputStatus, Tx, TxStatus};
use serde::de::DeserializeOwned;

use super::resting;

/// A higher fee rate is a mistake, in sat/vB: blocks have been full at about 2,000.
const FEE_RATE_MAX: f64 = 10_000.0;

/// A question to an Esplora API. Each one is a path below the base URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// The fee rates, by target number of blocks.
    Fees,
    /// The hash of the newest block.
    TipHash,
    /// The height of the newest block.
    TipHeight,
    /// The newest blocks.
    Blocks,
    /// The hash of the block at a height.
    HashAt(u32),
    /// The 80 bytes of a block's header.
    Header(BlockHash),
    /// Whether a block is in the best chain, and its height.
    BlockStatus(BlockHash),
    /// A transaction as JSON.
    Tx(Txid),
    /// The bytes of a transaction.
    RawTx(Txid),
    /// Whether a transaction is confirmed, and its block.
    TxStatus(Txid),
    /// The proof that a transaction is in its block.
    Proof(Txid),
    /// The transaction that spends an output.
    Outspend(Txid, u32),
    /// The transactions of a script, or the confirmed ones that follow a given one.
    History(sha256::Hash, Option<Txid>),
}

/// The priority of a question when the budget runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// The on-chain wallet and fee rates, which may come later without harm.
    Wallet,
    /// The data that guards the channels: the tip, and the spenders of their outputs.
    Guard,
}

/// An answer that the relay can pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Status 200 with this body.
    Body(Bytes),
    /// Status 404: the chain does not have the requested item.
    NotThere,
}

/// The place in the chain that an answer depends on. Once the place is deep enough, the answer no
/// longer changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// No place: the answer may change with every block.
    #[default]
    Nowhere,
    /// The answer is identified by a hash and stays valid.
    Everywhere,
    /// At the tip: the answer is valid as long as this block is the tip.
    Tip(BlockHash),
    /// The block at this height.
    Height(u32),
    /// The block with this hash.
    Block(BlockHash),
    /// In the block of this transaction.
    Tx(Txid),
}

/// The newest block, as far as an answer tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    /// The block's hash, if known.
    pub(super) hash: Option<BlockHash>,
    /// The block's height, if known.
    pub(super) height: Option<u32>,
}

/// The checked content of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Learned {
    /// The place in the chain that the answer depends on.
    pub(super) place: Place,
    /// The hash of the tip.
    pub(super) tip: Option<Tip>,
    /// Blocks in the best chain, with their heights.
    pub(super) heights: Vec<(BlockHash, u32)>,
    /// Transactions in blocks, with the hashes of the blocks.
    pub(super) blocks: Vec<(Txid, BlockHash)>,
    /// The hashes of the scripts that transactions in the answer pay to.
    pub(super) paid: Vec<sha256::Hash>,
    /// Whether the answer is empty: a chain source may have no fee estimates.
    pub(super) is_empty: bool,
}

/// The reason why an answer is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Flaw(pub(super) &'static str);

impl Question {
    /// Returns the question for a path; `None` if the relay does not answer the path.
    pub(super) fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match parts.as_slice() {
            ["fee-estimates"] => Self::Fees,
            ["blocks"] => Self::Blocks,
            ["blocks", "tip", "hash"] => Self::TipHash,
            ["blocks", "tip", "height"] => Self::TipHeight,
            ["block-height", height] => Self::HashAt(height.parse().ok()?),
            ["block", hash, "header"] => Self::Header(hash.parse().ok()?),
            ["block", hash, "status"] => Self::BlockStatus(hash.parse().ok()?),
            ["tx", txid] => Self::Tx(txid.parse().ok()?),
            ["tx", txid, "raw"] => Self::RawTx(txid.parse().ok()?),
            ["tx", txid, "status"] => Self::TxStatus(txid.parse().ok()?),
            ["tx", txid, "merkleblock-proof"] => Self::Proof(txid.parse().ok()?),
            ["tx", txid, "outspend", vout] => {
                Self::Outspend(txid.parse().ok()?, vout.parse().ok()?)
            }
            ["scripthash", hash, "txs"] => Self::History(hash.parse().ok()?, None),
            ["scripthash", hash, "txs", "chain", last] => {
                Self::History(hash.parse().ok()?, Some(last.parse().ok()?))
            }
            _ => return None,
        })
    }

    /// Returns the priority of the question when the budget runs short.
    pub(super) fn worth(&self) -> Worth {
        match self {
            Self::TipHash
            | Self::TipHeight
            | Self::Header(_)
            | Self::BlockStatus(_)
            | Self::RawTx(_)
            | Self::Proof(_)
            | Self::Outspend(..) => Worth::Guard,
            Self::Fees
            | Self::Blocks
            | Self::HashAt(_)
            | Self::Tx(_)
            | Self::TxStatus(_)
            | Self::History(..) => Worth::Wallet,
        }
    }

    /// Whether 404 is a valid answer. For other questions, 404 means that the server is not an
    /// Esplora API.
    pub(super) fn may_be_unknown(&self) -> bool {
        match self {
            Self::Fees | Self::TipHash | Self::TipHeight | Self::Blocks | Self::History(..) => {
                false
            }
            // Every chain has a first block.
            Self::HashAt(height) => *height > 0,
            Self::Header(_)
            | Self::BlockStatus(_)
            | Self::Tx(_)
            | Self::RawTx(_)
            | Self::TxStatus(_)
            | Self::Proof(_)
            | Self::Outspend(..) => true,
        }
    }

    /// Checks an answer with ldk-node's own types. Rejects an answer that ldk-node could not read,
    /// or that is about something else.
    pub(super) fn check(&self, body: &[u8]) -> Result<Learned, Flaw> {
        match self {
            Self::Fees => fees(body),
            Self::TipHash => Ok(Learned {
                tip: Some(Tip {
                    hash: Some(word(body, "no block hash")?),
                    height: None,
                }),
                ..Learned::default()
            }),
            Self::TipHeight => Ok(Learned {
                tip: Some(Tip {
                    hash: None,
                    height: Some(word(body, "no height")?),
                }),
                ..Learned::default()
            }),
            Self::Blocks => blocks(body),
            Self::HashAt(height) => Ok(Learned {
                place: Place::Height(*height),
                heights: vec![(word(body, "no block hash")?, *height)],
                ..Learned::default()
            }),
            Self::Header(hash) => header(hash, body),
            Self::BlockStatus(hash) => block_status(hash, body),
            Self::Tx(txid) => {
                let tx: Tx = json(body)?;
                let mut learned = Learned::default();
                learned.transaction(&tx)?;
                if tx.txid != *txid {
                    return Err(Flaw("another transaction"));
                }
                learned.place = placed(&tx.status)?;
                Ok(learned)
            }
            Self::RawTx(txid) => {
                let tx: Transaction = deserialize(body).map_err(|_| Flaw("no transaction"))?;
                if tx.compute_txid() != *txid {
                    return Err(Flaw("another transaction"));
                }
                Ok(Learned {
                    place: Place::Tx(*txid),
                    paid: paid(&tx).collect(),
                    ..Learned::default()
                })
            }
            Self::TxStatus(txid) => {
                let status: TxStatus = json(body)?;
                let mut learned = Learned::default();
                learned.status(*txid, &status)?;
                learned.place = placed(&status)?;
                Ok(learned)
            }
            Self::Proof(txid) => proof(*txid, body),
            Self::Outspend(..) => {
                let spent: OutputStatus = json(body)?;
                let mut learned = Learned::default();
                if let (Some(txid), Some(status)) = (spent.txid, &spent.status) {
                    learned.status(txid, status)?;
                    learned.place = placed(status)?;
                }
                Ok(learned)
            }
            Self::History(..) => history(body),
        }
    }
}

/// Writes the path below the base URL.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fees => f.write_str("/fee-estimates"),
            Self::TipHash => f.write_str("/blocks/tip/hash"),
            Self::TipHeight => f.write_str("/blocks/tip/height"),
            Self::Blocks => f.write_str("/blocks"),
            Self::HashAt(height) => write!(f, "/block-height/{height}"),
            Self::Header(hash) => write!(f, "/block/{hash}/header"),
            Self::BlockStatus(hash) => write!(f, "/block/{hash}/status"),
            Self::Tx(txid) => write!(f, "/tx/{txid}"),
            Self::RawTx(txid) => write!(f, "/tx/{txid}/raw"),
            Self::TxStatus(txid) => write!(f, "/tx/{txid}/status"),
            Self::Proof(txid) => write!(f, "/tx/{txid}/merkleblock-proof"),
            Self::Outspend(txid, vout) => write!(f, "/tx/{txid}/outspend/{vout}"),
            Self::History(hash, None) => write!(f, "/scripthash/{hash}/txs"),
            Self::History(hash, Some(last)) => write!(f, "/scripthash/{hash}/txs/chain/{last}"),
        }
    }
}

impl Learned {
    /// Records the block of a transaction, if it is confirmed.
    fn status(&mut self, txid: Txid, status: &TxStatus) -> Result<(), Flaw> {
        if !status.confirmed {
            return Ok(());
        }
        match (status.block_hash, status.block_height) {
            (Some(hash), Some(height)) => {
                self.heights.push((hash, height));
                self.blocks.push((txid, hash));
                Ok(())
            }
            (_, None) | (None, _) => Err(Flaw("a transaction that is confirmed nowhere")),
        }
    }

    /// Records a transaction, after checking that it has the id that the answer gives it.
    fn transaction(&mut self, tx: &Tx) -> Result<(), Flaw> {
        let own = tx.to_tx();
        if own.compute_txid() != tx.txid {
            return Err(Flaw("a transaction under another's name"));
        }
        self.paid.extend(paid(&own));
        self.status(tx.txid, &tx.status)
    }
}

/// Returns the hashes of the scripts that a transaction pays to.
fn paid(tx: &Transaction) -> impl Iterator<Item = sha256::Hash> {
    let outputs = tx.output.iter();
    outputs.map(|output| resting::hash(&output.script_pubkey))
}

/// Returns the place of a transaction with this status.
fn placed(status: &TxStatus) -> Result<Place, Flaw> {
    match (status.confirmed, status.block_height) {
        (false, _) => Ok(Place::Nowhere),
        (true, Some(height)) => Ok(Place::Height(height)),
        (true, None) => Err(Flaw("a transaction that is confirmed nowhere")),
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Flaw> {
    serde_json::from_slice(body).map_err(|_| Flaw("not the JSON that was asked for"))
}

/// Parses a single word. ldk-node reads it without any white space around it.
fn word<T: std::str::FromStr>(body: &[u8], flaw: &'static str) -> Result<T, Flaw> {
    let text = std::str::from_utf8(body).map_err(|_| Flaw(flaw))?;
    text.parse().map_err(|_| Flaw(flaw))
}

fn hex<T: bitcoin::consensus::Decodable>(body: &[u8], flaw: &'static str) -> Result<T, Flaw> {
    let text = std::str::from_utf8(body).map_err(|_| Flaw(flaw))?;
    deserialize_hex(text).map_err(|_| Flaw(flaw))
}

fn fees(body: &[u8]) -> Result<Learned, Flaw> {
    let estimates: HashMap<u16, f64> = json(body)?;
    let is_good = |rate: &f64| *rate > 0.0 && *rate <= FEE_RATE_MAX;
    if !estimates.values().all(is_good) {
        return Err(Flaw("fee rates that cannot be"));
    }
    Ok(Learned {
        is_empty: estimates.is_empty(),
        ..Learned::default()
    })
}

fn blocks(body: &[u8]) -> Result<Learned, Flaw> {
    let blocks: Vec<BlockInfo> = json(body)?;
    let is_chain = blocks.windows(2).all(|pair| {
        pair[0].previousblockhash == Some(pair[1].id)
            && Some(pair[0].height) == pair[1].height.checked_add(1)
    });
    let newest = blocks.first().ok_or(Flaw("no blocks"))?;
    if !is_chain {
        return Err(Flaw("blocks that are no chain"));
    }
    Ok(Learned {
        place: Place::Tip(newest.id),
        tip: Some(Tip {
            hash: Some(newest.id),
            height: Some(newest.height),
        }),
        heights: blocks
            .iter()
            .map(|block| (block.id, block.height))
            .collect(),
        ..Learned::default()
    })
}

fn header(hash: &BlockHash, body: &[u8]) -> Result<Learned, Flaw> {
    let header: Header = hex(body, "no block header")?;
    if header.block_hash() != *hash {
        return Err(Flaw("another block's header"));
    }
    Ok(Learned {
        place: Place::Everywhere,
        ..Learned::default()
    })
}

fn block_status(hash: &BlockHash, body: &[u8]) -> Result<Learned, Flaw> {
    let status: BlockStatus = json(body)?;
    match (status.in_best_chain, status.height) {
        (false, _) => Ok(Learned::default()),
        (true, None) => Err(Flaw("a block of the best chain without a height")),
        (true, Some(height)) => Ok(Learned {
            place: Place::Height(height),
            heights: vec![(*hash, height)],
            ..Learned::default()
        }),
    }
}

fn history(body: &[u8]) -> Result<Learned, Flaw> {
    let txs: Vec<Tx> = json(body)?;
    let mut learned = Learned::default();
    txs.iter().try_for_each(|tx| learned.transaction(tx))?;
    Ok(learned)
}

fn proof(txid: Txid, body: &[u8]) -> Result<Learned, Flaw> {
    let proof: MerkleBlock = hex(body, "no merkle proof")?;
    let (mut matches, mut indexes) = (Vec::new(), Vec::new());
    let root = proof.txn.extract_matches(&mut matches, &mut indexes);
    if root.ok() != Some(proof.header.merkle_root) || matches != [txid] {
        return Err(Flaw("a proof of something else"));
    }
    let hash = proof.header.block_hash();
    Ok(Learned {
        place: Place::Block(hash),
        blocks: vec![(txid, hash)],
        ..Learned::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f";
    const HEADER: &str = "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c";

    #[test]
    fn a_path_is_the_question_that_it_says() {
        for path in [
            "/fee-estimates",
            "/blocks",
            "/blocks/tip/hash",
            "/blocks/tip/height",
            "/block-height/17",
            &format!("/block/{HASH}/header"),
            &format!("/block/{HASH}/status"),
            &format!("/tx/{HASH}"),
            &format!("/tx/{HASH}/raw"),
            &format!("/tx/{HASH}/status"),
            &format!("/tx/{HASH}/merkleblock-proof"),
            &format!("/tx/{HASH}/outspend/3"),
            &format!("/scripthash/{HASH}/txs"),
            &format!("/scripthash/{HASH}/txs/chain/{HASH}"),
        ] {
            assert_eq!(Question::of(path).unwrap().to_string(), path);
        }
        for path in [
            "",
            "/",
            "/blocks/",
            "/block-height/-1",
            "/tx/00",
            "/mempool",
        ] {
            assert_eq!(Question::of(path), None, "{path}");
        }
    }

    #[test]
    fn an_answer_is_about_what_was_asked_or_none() {
        let block: BlockHash = HASH.parse().unwrap();
        let other: BlockHash = HASH.replace("6f", "70").parse().unwrap();
        let good = Question::Header(block).check(HEADER.as_bytes()).unwrap();
        assert_eq!(good.place, Place::Everywhere);
        assert!(Question::Header(other).check(HEADER.as_bytes()).is_err());
        for (question, wrong) in [
            (Question::TipHash, "<html>"),
            (Question::TipHash, "00"),
            (Question::TipHeight, "17\n"),
            (Question::TipHeight, "-1"),
            (Question::Fees, "{\"1\":-1.0}"),
            (Question::Fees, "{\"1\":1e9}"),
            (Question::Fees, "[]"),
            (Question::Blocks, "[]"),
            (Question::Header(block), "zz"),
            (Question::BlockStatus(block), "{\"in_best_chain\":true}"),
            (
                Question::TxStatus(HASH.parse().unwrap()),
                "{\"confirmed\":true}",
            ),
            (Question::RawTx(HASH.parse().unwrap()), "00"),
            (Question::Proof(HASH.parse().unwrap()), HEADER),
        ] {
            assert!(
                question.check(wrong.as_bytes()).is_err(),
                "{question}: {wrong}"
            );
        }
        // No height follows the largest number, and none comes before 0.
        let corpus = include_bytes!("../../../tests/fuzz/corpus/relay_answer/blocks-at-the-limit");
        let body = corpus.strip_prefix(b"/blocks\n").unwrap();
        let flaw = Question::Blocks.check(body).unwrap_err();
        assert_eq!(flaw.0, "blocks that are no chain");
        assert!(Question::Fees.check(b"{}").unwrap().is_empty);
        let status = format!("{{\"in_best_chain\":true,\"height\":7,\"next_best\":\"{HASH}\"}}");
        let learned = Question::BlockStatus(block)
            .check(status.as_bytes())
            .unwrap();
        assert_eq!(learned.heights, [(block, 7)]);
    }

    /// A path, a line break and the answer of a server.
    fn fuzz_target(input: &[u8]) {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (path, body) = input.split_at(end.unwrap_or(input.len()));
        let body = body.get(1..).unwrap_or_default();
        let Some(question) = std::str::from_utf8(path).ok().and_then(Question::of) else {
            return;
        };
        assert_eq!(Question::of(&question.to_string()), Some(question.clone()));
        let Ok(learned) = question.check(body) else {
            return;
        };
        let learned_items = learned.heights.len() + learned.blocks.len() + learned.paid.len();
        assert!(
            learned_items <= body.len(),
            "an answer says no more than it is long"
        );
        if let Place::Tx(txid) = learned.place {
            assert_eq!(question, Question::RawTx(txid), "about another transaction");
        }
        for (txid, _) in &learned.blocks {
            if let Question::Proof(asked) | Question::Tx(asked) | Question::TxStatus(asked) =
                &question
            {
                assert_eq!(txid, asked, "about another transaction");
            }
        }
    }

    #[test]
    fn fuzz_relay_answer() {
        regtest::fuzz::check("relay_answer", fuzz_target);
    }
}
