//! Transactions that nobody is asked for on the node's behalf: fundings of strangers' channels that are not in a block. ldk-node
//! asks for each of them in every look, one after the other, and what guards the other channels waits for it.

use std::collections::HashSet;
use std::sync::PoisonError;

use bitcoin::{Transaction, Txid};

use super::Relay;
use super::question::{Answer, Question};

/// The transactions that spend one of them are remembered up to this number: what LDK makes of a channel that was never funded,
/// and what bumps that.
const SPENDING_MAX: usize = 10_000;

/// Where a transaction was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Where {
    /// Nowhere.
    Nowhere,
    /// Waiting for a block.
    Mempool,
    /// In a block.
    Block,
}

/// What is left out.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    fundings: HashSet<Txid>,
    /// Transactions that spend their outputs, which cannot be on the chain either.
    spending: HashSet<Txid>,
}

impl Relay {
    /// From now on the node hears that these transactions are not there, without anybody being asked; of no others.
    pub(in crate::node) fn leave_out(&self, fundings: HashSet<Txid>) {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        left_out.fundings = fundings;
    }

    /// Whether nobody is to be asked this.
    pub(super) fn leaves_out(&self, question: &Question) -> bool {
        let (Question::Proof(txid)
        | Question::RawTx(txid)
        | Question::Tx(txid)
        | Question::TxStatus(txid)
        | Question::Outspend(txid, _)) = question
        else {
            return false;
        };
        let left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        left_out.fundings.contains(txid) || left_out.spending.contains(txid)
    }

    /// Whether this transaction spends one that is left out: no server would take it, and LDK sends it again and again.
    pub(super) fn leaves_out_spending(&self, tx: &Transaction) -> bool {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let spends = tx.input.iter().any(|input| {
            let txid = &input.previous_output.txid;
            left_out.fundings.contains(txid) || left_out.spending.contains(txid)
        });
        if spends {
            if left_out.spending.len() >= SPENDING_MAX {
                left_out.spending.clear();
            }
            left_out.spending.insert(tx.compute_txid());
        }
        spends
    }

    /// Where this transaction is, whether it is left out or not; `None` if nobody answers.
    pub(in crate::node) async fn where_is(&self, txid: Txid) -> Option<Where> {
        match self.ask(&Question::Tx(txid)).await.ok()? {
            Answer::NotThere => Some(Where::Nowhere),
            Answer::Body(body) => {
                let tx: esplora_client::Tx = serde_json::from_slice(&body).ok()?;
                Some(if tx.status.confirmed {
                    Where::Block
                } else {
                    Where::Mempool
                })
            }
        }
    }
}
