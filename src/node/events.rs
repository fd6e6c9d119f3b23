//! The node's events: each is entered where it belongs, flushed, and only then acknowledged.

use std::sync::Arc;

use ldk_node::Event;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::ledger::record::ClosureRecord;
use crate::ledger::{Ledger, LedgerError, Payment, Settlement};

use super::{Node, NodeError, REFRESH_EVERY};

/// The node's only consumer of events. Handles them one by one until told to stop.
pub(super) async fn handle(
    node: &Node,
    ldk: &Arc<ldk_node::Node>,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> Result<(), NodeError> {
    let mut refresh = interval_at(Instant::now(), REFRESH_EVERY);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = ldk.next_event_async() => {
                let (ldk, ledger, clock) = (Arc::clone(ldk), Arc::clone(ledger), node.clock.clone());
                // Both steps wait for the disk.
                let handled = tokio::task::spawn_blocking(move || {
                    enter(&ledger, &clock, &event)?;
                    ldk.event_handled().map_err(NodeError::Acknowledge)
                });
                handled.await.expect("handling an event does not panic")?;
                node.refresh_reach();
            }
            _ = refresh.tick() => node.refresh_reach(),
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Enters what an event says. On return it would survive a power cut, and may come again without changing anything.
fn enter(ledger: &Ledger, clock: &Clock, event: &Event) -> Result<(), LedgerError> {
    match event {
        Event::PaymentReceived {
            payment_hash,
            amount_msat,
            ..
        } => {
            let payment = Payment {
                payment_hash: payment_hash.0,
                amount_msat: *amount_msat,
            };
            let settlement = ledger.settle(payment)?;
            tell(&payment, &settlement);
        }
        Event::ChannelClosed {
            channel_id,
            counterparty_node_id,
            reason,
            ..
        } => {
            let closure = ClosureRecord {
                channel_id: channel_id.0,
                counterparty: counterparty_node_id.map(|id| id.to_string()),
                reason: reason
                    .as_ref()
                    .map_or_else(|| "no reason given".to_owned(), ToString::to_string),
                closed_ms: clock.unix_ms(),
            };
            ledger.record_closure(&closure)?;
            tracing::warn!(channel.id = %channel_id, "Channel {channel_id} is closed: {}", closure.reason);
        }
        Event::ChannelPending { channel_id, .. } => {
            tracing::info!(channel.id = %channel_id, "Channel {channel_id} waits for its confirmations");
        }
        Event::ChannelReady { channel_id, .. } => {
            tracing::info!(channel.id = %channel_id, "Channel {channel_id} is ready");
        }
        // We neither send nor forward payments, nor take any that we would have to claim by hand, nor splice.
        Event::PaymentSuccessful { .. }
        | Event::PaymentFailed { .. }
        | Event::PaymentForwarded { .. }
        | Event::PaymentClaimable { .. }
        | Event::SplicePending { .. }
        | Event::SpliceFailed { .. } => {
            tracing::debug!("An event that changes nothing in the books")
        }
    }
    Ok(())
}

fn tell(payment: &Payment, settlement: &Settlement) {
    let hash = hex::encode(payment.payment_hash);
    let amount_msat = payment.amount_msat;
    match settlement {
        Settlement::New(sale) => {
            let service = sale
                .service
                .as_deref()
                .unwrap_or("a service that its token will tell");
            tracing::info!(
                payment.hash = hash,
                amount_msat,
                "Settled {amount_msat} msat for {service}, payment {hash}"
            );
        }
        Settlement::Known => tracing::info!(
            payment.hash = hash,
            "Payment {hash} was in the books already"
        ),
        Settlement::Surplus(_) => {
            tracing::warn!(
                payment.hash = hash,
                amount_msat,
                "Payment {hash} arrived again: {amount_msat} msat of surplus"
            );
        }
    }
}
