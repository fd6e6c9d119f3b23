//! The shapes of Esplora's answers, field by field as Blockstream's server writes them.

use bitcoin::{OutPoint, Transaction, TxOut, Txid};
use serde::Serialize;

use super::index::{Confirmation, Index};

/// A transaction.
#[derive(Debug, Serialize)]
pub(super) struct Tx {
    txid: String,
    version: i32,
    locktime: u32,
    vin: Vec<Vin>,
    vout: Vec<Vout>,
    size: usize,
    weight: u64,
    status: Status,
    fee: u64,
}

/// An input.
#[derive(Debug, Serialize)]
struct Vin {
    txid: String,
    vout: u32,
    /// `None` for a coinbase.
    prevout: Option<Vout>,
    scriptsig: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    witness: Vec<String>,
    sequence: u32,
    is_coinbase: bool,
}

/// An output.
#[derive(Debug, Serialize)]
struct Vout {
    value: u64,
    scriptpubkey: String,
}

/// Whether and where a transaction is confirmed.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    confirmed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_time: Option<u32>,
}

/// Whether and by what an output is spent.
#[derive(Debug, Serialize)]
pub(super) struct Outspend {
    spent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    txid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vin: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

/// Whether a block is in the best chain.
#[derive(Debug, Serialize)]
pub(super) struct BlockStatus {
    in_best_chain: bool,
    height: Option<u32>,
    next_best: Option<String>,
}

/// A block.
#[derive(Debug, Serialize)]
pub(super) struct Block {
    id: String,
    height: u32,
    version: i32,
    timestamp: u32,
    tx_count: usize,
    size: usize,
    weight: u64,
    merkle_root: String,
    previousblockhash: Option<String>,
    mediantime: u32,
    nonce: u32,
    bits: u32,
    difficulty: f64,
}

/// The transaction as the index knows it.
pub(super) fn tx(index: &Index, txid: &Txid) -> Option<Tx> {
    let tx = index.tx(txid)?;
    let vin: Vec<Vin> = tx.input.iter().map(|input| vin(index, tx, input)).collect();
    let vout: Vec<Vout> = tx.output.iter().map(vout).collect();
    let paid: u64 = vout.iter().map(|output| output.value).sum();
    let spent: u64 = vin
        .iter()
        .filter_map(|input| input.prevout.as_ref())
        .map(|output| output.value)
        .sum();
    Some(Tx {
        txid: txid.to_string(),
        version: tx.version.0,
        locktime: tx.lock_time.to_consensus_u32(),
        size: tx.total_size(),
        weight: tx.weight().to_wu(),
        status: status(index, txid),
        // A coinbase spends nothing and pays no fee.
        fee: spent.saturating_sub(paid),
        vin,
        vout,
    })
}

/// The status of a transaction; one that is unknown counts as unconfirmed.
pub(super) fn status(index: &Index, txid: &Txid) -> Status {
    let place = index.confirmation(txid);
    Status {
        confirmed: place.is_some(),
        block_height: place.map(|Confirmation { height, .. }| height),
        block_hash: place.map(|Confirmation { block, .. }| block.hash.to_string()),
        block_time: place.map(|Confirmation { block, .. }| block.header.time),
    }
}

/// What spends an output.
pub(super) fn outspend(index: &Index, outpoint: &OutPoint) -> Outspend {
    let spend = index.spend(outpoint);
    Outspend {
        spent: spend.is_some(),
        txid: spend.map(|(txid, _)| txid.to_string()),
        vin: spend.map(|(_, vin)| vin),
        status: spend.map(|(txid, _)| status(index, &txid)),
    }
}

/// Whether a block is in the best chain; one that is unknown is not.
pub(super) fn block_status(index: &Index, hash: &bitcoin::BlockHash) -> BlockStatus {
    let height = index.height(hash);
    BlockStatus {
        in_best_chain: height.is_some(),
        height,
        next_best: height
            .and_then(|height| index.block(height + 1))
            .map(|next| next.hash.to_string()),
    }
}

/// The block of the best chain at that height.
pub(super) fn block(index: &Index, height: u32) -> Option<Block> {
    let block = index.block(height)?;
    let header = &block.header;
    Some(Block {
        id: block.hash.to_string(),
        height,
        version: header.version.to_consensus(),
        timestamp: header.time,
        tx_count: block.txids.len(),
        size: block.size,
        weight: block.weight,
        merkle_root: header.merkle_root.to_string(),
        previousblockhash: (height > 0).then(|| header.prev_blockhash.to_string()),
        mediantime: index.median_time(height),
        nonce: header.nonce,
        bits: header.bits.to_consensus(),
        difficulty: header.difficulty_float(),
    })
}

fn vin(index: &Index, tx: &Transaction, input: &bitcoin::TxIn) -> Vin {
    Vin {
        txid: input.previous_output.txid.to_string(),
        vout: input.previous_output.vout,
        prevout: index.output(&input.previous_output).map(vout),
        scriptsig: input.script_sig.to_hex_string(),
        witness: input.witness.iter().map(hex::encode).collect(),
        sequence: input.sequence.to_consensus_u32(),
        is_coinbase: tx.is_coinbase(),
    }
}

fn vout(output: &TxOut) -> Vout {
    Vout {
        value: output.value.to_sat(),
        scriptpubkey: output.script_pubkey.to_hex_string(),
    }
}
