//! Deposits that will never be confirmed: replaced, or gone with a block that was reorganised away. ldk-node looks only at the
//! transactions that its wallet still has, so the record of one that it has lost stays pending. The chain source is asked, and
//! what it does not know is removed; should that have been wrong, the next look at the wallet brings the record back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Txid;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use tokio::time::Instant;

use super::Node;

/// How old a record is before it is asked about: another server may not have the transaction yet.
const YOUNG_SECS: u64 = 30;

/// How often it is asked about one that stays open, unless another transaction has come in, which may replace it.
const ASK_EVERY: Duration = Duration::from_secs(10 * 60);

/// How many are asked about after one look.
const ASKED_MAX: usize = 20;

/// How long the chain source may take to answer.
const TIMEOUT_SECS: u64 = 10;

/// What was asked about.
#[derive(Debug, Default)]
pub(in crate::node) struct Deposits {
    /// When, by transaction.
    asked: HashMap<Txid, Instant>,
    /// How many transactions the node has records of.
    records: usize,
}

impl Deposits {
    /// Looks for dead ones. Called after a look at the wallet; without an Esplora API there is nobody to ask.
    pub(in crate::node) async fn look(&mut self, node: &Node, ldk: &Arc<ldk_node::Node>) {
        let Some(relay) = node.chain.relay() else {
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
        let (now, now_secs) = (Instant::now(), node.clock.unix_secs());
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
            // An error says nothing of the transaction.
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

/// The transaction of a payment that comes in on the chain and is not safe yet.
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
