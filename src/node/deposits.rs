//! Deposits that will never confirm, because they were replaced or their block was reorganised
//! away. ldk-node checks only the transactions that its wallet still has, so the record of a lost
//! one stays pending. This module asks the chain source about pending deposits and removes the
//! record of an unknown transaction. If that was a mistake, the next wallet sync restores the
//! record.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Txid;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use tokio::time::Instant;

use super::chain::source::Chain;

/// The age in seconds from which the chain source is asked about a record. Before that, another
/// server may not have the transaction yet.
const YOUNG_SECS: u64 = 30;

/// The time between two requests for the same pending deposit. A new transaction, which may replace
/// the deposit, makes the request due at once.
const ASK_EVERY: Duration = Duration::from_secs(10 * 60);

/// The maximum number of requests after one sync.
const ASKED_MAX: usize = 20;

/// The time in seconds that the chain source has for an answer.
const TIMEOUT_SECS: u64 = 10;

/// The requests so far.
#[derive(Debug, Default)]
pub(in crate::node) struct Deposits {
    /// The time of the last request for each transaction.
    asked: HashMap<Txid, Instant>,
    /// The number of on-chain transactions in the node's records.
    records: usize,
}

impl Deposits {
    /// Removes the records of lost deposits. Called after a wallet sync; does nothing without an
    /// Esplora API.
    pub(in crate::node) async fn look(&mut self, chain: &Chain, ldk: &Arc<ldk_node::Node>) {
        let Some(relay) = chain.relay() else {
            return;
        };
        let listed = Arc::clone(ldk);
        let listing = tokio::task::spawn_blocking(move || {
            let mut records = 0;
            let open = listed.list_payments_with_filter(|payment| {
                records += usize::from(matches!(payment.kind, PaymentKind::Onchain { .. }));
                open_deposit(payment).is_some()
            });
            (records, open)
        });
        let Ok((records, open)) = listing.await else {
            return;
        };
        if std::mem::replace(&mut self.records, records) != records {
            self.asked.clear();
        }
        let (now, now_secs) = (Instant::now(), chain.core.clock.unix_secs());
        let is_due = |payment: &&PaymentDetails, asked: &HashMap<Txid, Instant>| {
            let is_old = now_secs.saturating_sub(payment.latest_update_timestamp) >= YOUNG_SECS;
            let asked = open_deposit(payment).and_then(|txid| asked.get(&txid));
            is_old && asked.is_none_or(|at| now.duration_since(*at) >= ASK_EVERY)
        };
        let client = esplora_client::Builder::new(relay.url()).timeout(TIMEOUT_SECS);
        let Ok(client) = client.build_async() else {
            return;
        };
        let due: Vec<_> = open.iter().filter(|it| is_due(it, &self.asked)).collect();
        for payment in due.into_iter().take(ASKED_MAX) {
            let Some(txid) = open_deposit(payment) else {
                continue;
            };
            // An error does not tell whether the transaction is known.
            let Ok(found) = client.get_tx(&txid).await else {
                return;
            };
            self.asked.insert(txid, now);
            if found.is_none() {
                drop_dead(ldk, payment, txid).await;
            }
        }
    }
}

async fn drop_dead(ldk: &Arc<ldk_node::Node>, payment: &PaymentDetails, txid: Txid) {
    let (ldk, id) = (Arc::clone(ldk), payment.id);
    let amount_sat = payment.amount_msat.unwrap_or(0) / 1_000;
    let removed = tokio::task::spawn_blocking(move || ldk.remove_payment(&id)).await;
    if let Ok(Ok(())) = removed {
        tracing::warn!(
            "A deposit of {amount_sat} sat has ended without a block: transaction {txid} was replaced or dropped"
        );
    }
}

/// The transaction of an incoming on-chain payment that is still pending.
fn open_deposit(payment: &PaymentDetails) -> Option<Txid> {
    let is_open =
        payment.direction == PaymentDirection::Inbound && payment.status == PaymentStatus::Pending;
    match &payment.kind {
        PaymentKind::Onchain { txid, .. } if is_open => Some(*txid),
        PaymentKind::Onchain { .. }
        | PaymentKind::Bolt11 { .. }
        | PaymentKind::Bolt11Jit { .. }
        | PaymentKind::Bolt12Offer { .. }
        | PaymentKind::Bolt12Refund { .. }
        | PaymentKind::Spontaneous { .. } => None,
    }
}
