//! Transactions that the relay does not query at the chain source: unconfirmed funding transactions
//! of strangers' channels. ldk-node queries each of them in every sync, one after the other, while
//! the requests that guard the other channels wait.
//!
//! A stranger may name any transaction as its funding transaction, even one that a peer has
//! prepared for cheating and not broadcast yet. So the relay always queries a transaction once an
//! answer has mentioned it.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use bitcoin::{Transaction, Txid};
use esplora_client::OutputStatus;

use super::Relay;
use super::question::{Answer, Question};

/// The most mentioned transactions that are remembered, 32 bytes each. Beyond it, all are
/// forgotten. The next sync mentions each transaction again that spends an output that the node
/// watches.
const MENTIONED_MAX: usize = 10_000;

/// The most descendants of left-out transactions that are remembered. LDK makes them to close a
/// channel that was never funded, and to bump their fees.
const SPENDING_MAX: usize = 10_000;

/// The place where a transaction was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// The chain source does not have the transaction.
    Nowhere,
    /// The transaction waits in the mempool for a block.
    Mempool,
    /// The transaction is in a block.
    Block,
}

/// The funding transactions that are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fundings {
    /// Transactions that are not in a block, as the chain source has just answered.
    pub(crate) unconfirmed: HashSet<Txid>,
    /// Transactions that the chain source did not have. Their spenders are not broadcast.
    pub(crate) nowhere: HashSet<Txid>,
}

/// The transactions that are left out, and those that the chain source has mentioned.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    fundings: Fundings,
    /// Descendants of transactions that the chain source does not have, each with the id of its
    /// origin.
    spending: HashMap<Txid, Txid>,
    /// Transactions that the chain source has mentioned, or that the relay has sent to it.
    mentioned: HashSet<Txid>,
}

impl LeftOut {
    /// Whether this transaction is left out because it cannot be in a block.
    fn has(&self, txid: &Txid) -> bool {
        let named = &self.fundings;
        let is_named = named.unconfirmed.contains(txid) || named.nowhere.contains(txid);
        let is_spending = || {
            let funding = self.spending.get(txid);
            funding.is_some_and(|funding| named.nowhere.contains(funding))
        };
        !self.mentioned.contains(txid) && (is_named || is_spending())
    }

    /// Returns the funding transaction from which a spender of this transaction descends, if the
    /// chain source does not have it and would reject the spender.
    fn origin(&self, txid: &Txid) -> Option<Txid> {
        if self.mentioned.contains(txid) {
            return None;
        }
        let nowhere = &self.fundings.nowhere;
        if nowhere.contains(txid) {
            return Some(*txid);
        }
        let funding = self.spending.get(txid).copied();
        funding.filter(|funding| nowhere.contains(funding))
    }

    fn mention(&mut self, txid: Txid) {
        if self.mentioned.len() >= MENTIONED_MAX {
            self.mentioned.clear();
        }
        self.mentioned.insert(txid);
        self.spending.remove(&txid);
    }
}

impl Relay {
    fn left_out(&self) -> MutexGuard<'_, LeftOut> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves out exactly these transactions from now on. The relay reports them to the node as
    /// unconfirmed, without a query to the chain source.
    pub(crate) fn leave_out(&self, fundings: Fundings) {
        let mut left_out = self.left_out();
        let nowhere = &fundings.nowhere;
        left_out
            .spending
            .retain(|_, funding| nowhere.contains(funding));
        left_out.fundings = fundings;
    }

    /// Whether the relay answers this query without the chain source. This applies only to LDK's
    /// channel queries: the wallet learns of all its transactions.
    pub(super) fn leaves_out(&self, question: &Question) -> bool {
        let (Question::Proof(txid) | Question::RawTx(txid) | Question::Outspend(txid, _)) =
            question
        else {
            return false;
        };
        self.left_out().has(txid)
    }

    /// Remembers a transaction that an answer names as the spender of a watched output, because the
    /// transaction is on the chain or about to be.
    pub(super) fn hear_spender(&self, question: &Question, body: &[u8]) {
        if !matches!(question, Question::Outspend(..)) {
            return;
        }
        let spent: Result<OutputStatus, _> = serde_json::from_slice(body);
        if let Some(spender) = spent.ok().and_then(|spent| spent.txid) {
            self.left_out().mention(spender);
        }
    }

    /// Whether this transaction descends from a funding transaction that the chain source does not
    /// have. No server would accept it, and LDK broadcasts it again and again.
    pub(super) fn leaves_out_spending(&self, tx: &Transaction) -> bool {
        let mut left_out = self.left_out();
        let txid = tx.compute_txid();
        let mut inputs = tx.input.iter();
        let origin = inputs.find_map(|input| left_out.origin(&input.previous_output.txid));
        let Some(origin) = origin else {
            left_out.mention(txid);
            return false;
        };
        if left_out.spending.len() >= SPENDING_MAX {
            left_out.spending.clear();
        }
        left_out.spending.insert(txid, origin);
        true
    }

    /// Returns where this transaction is, even if it is left out. Returns `None` if the chain
    /// source does not answer.
    pub(crate) async fn where_is(&self, txid: Txid) -> Option<Where> {
        // This question comes first, because the chain source has few of these transactions, and
        // because the question may use all of the budget.
        if self.ask(&Question::RawTx(txid)).await.ok()? == Answer::NotThere {
            return Some(Where::Nowhere);
        }
        let Answer::Body(body) = self.ask(&Question::Tx(txid)).await.ok()? else {
            return None;
        };
        let tx: esplora_client::Tx = serde_json::from_slice(&body).ok()?;
        Some(if tx.status.confirmed {
            Where::Block
        } else {
            Where::Mempool
        })
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    fn txid(byte: u8) -> Txid {
        Txid::from_byte_array([byte; 32])
    }

    fn left_out(nowhere: &[u8], unconfirmed: &[u8]) -> LeftOut {
        let set = |bytes: &[u8]| bytes.iter().map(|byte| txid(*byte)).collect();
        LeftOut {
            fundings: Fundings {
                nowhere: set(nowhere),
                unconfirmed: set(unconfirmed),
            },
            ..LeftOut::default()
        }
    }

    #[test]
    fn what_the_chain_source_speaks_of_is_never_left_out_again() {
        let mut left = left_out(&[1, 2], &[]);
        left.spending.insert(txid(3), txid(1));
        assert!(left.has(&txid(1)) && left.has(&txid(3)) && !left.has(&txid(4)));
        left.mention(txid(1));
        left.mention(txid(3));
        assert!(!left.has(&txid(1)) && !left.has(&txid(3)));
        // A stranger's second use of the same id as a funding transaction does not leave it out
        // again.
        left.fundings = left_out(&[1, 2], &[]).fundings;
        assert!(!left.has(&txid(1)) && left.has(&txid(2)));
    }

    #[test]
    fn only_what_spends_a_funding_that_nobody_has_goes_to_nobody() {
        let left = left_out(&[1], &[2]);
        assert_eq!(left.origin(&txid(1)), Some(txid(1)));
        assert_eq!(left.origin(&txid(2)), None, "it waits for a block");
        assert_eq!(left.origin(&txid(3)), None, "nobody was asked yet");
        assert!(left.has(&txid(2)) && !left.has(&txid(3)));
    }
}
