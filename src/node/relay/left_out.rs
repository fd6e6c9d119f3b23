//! Transactions that nobody is asked for on the node's behalf: fundings of strangers' channels that are not in a block. ldk-node
//! asks for each of them in every look, one after the other, and what guards the other channels waits for it.
//!
//! A stranger may name any transaction as its funding, also one that a peer has prepared to cheat with and not sent yet. So
//! whatever an answer of the chain source mentions is never left out again.

use std::collections::HashSet;
use std::sync::PoisonError;

use bitcoin::{Transaction, Txid};
use esplora_client::OutputStatus;

use super::Relay;
use super::question::{Answer, Question};

/// Transactions that were mentioned and are remembered, each 32 bytes. Beyond it all are forgotten: the next look mentions again
/// what spends an output that the node watches.
const MENTIONED_MAX: usize = 10_000;

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
    /// Transactions that the chain source has spoken of.
    mentioned: HashSet<Txid>,
}

impl LeftOut {
    fn has(&self, txid: &Txid) -> bool {
        let is_named = self.fundings.contains(txid) || self.spending.contains(txid);
        is_named && !self.mentioned.contains(txid)
    }

    fn mention(&mut self, txid: Txid) {
        if self.mentioned.len() >= MENTIONED_MAX {
            self.mentioned.clear();
        }
        self.mentioned.insert(txid);
    }
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
        left_out.has(txid)
    }

    /// Hears what an answer mentions: who spends an output that the node watches is on the chain, or about to be.
    pub(super) fn hear_spender(&self, question: &Question, body: &[u8]) {
        if !matches!(question, Question::Outspend(..)) {
            return;
        }
        let spent: Result<OutputStatus, _> = serde_json::from_slice(body);
        if let Some(spender) = spent.ok().and_then(|spent| spent.txid) {
            let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
            left_out.mention(spender);
        }
    }

    /// Whether this transaction spends one that is left out: no server would take it, and LDK sends it again and again.
    pub(super) fn leaves_out_spending(&self, tx: &Transaction) -> bool {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let spends = tx
            .input
            .iter()
            .any(|input| left_out.has(&input.previous_output.txid));
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

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    #[test]
    fn what_the_chain_source_speaks_of_is_never_left_out_again() {
        let txid = |byte| Txid::from_byte_array([byte; 32]);
        let mut left_out = LeftOut {
            fundings: HashSet::from([txid(1), txid(2)]),
            ..LeftOut::default()
        };
        left_out.spending.insert(txid(3));
        assert!(left_out.has(&txid(1)) && left_out.has(&txid(3)) && !left_out.has(&txid(4)));
        left_out.mention(txid(1));
        left_out.mention(txid(3));
        assert!(!left_out.has(&txid(1)) && !left_out.has(&txid(3)));
        // Also when it is named once more.
        left_out.fundings = HashSet::from([txid(1), txid(2)]);
        assert!(!left_out.has(&txid(1)) && left_out.has(&txid(2)));
    }
}
