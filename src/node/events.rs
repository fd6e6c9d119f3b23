//! The node's events: each is entered where it belongs, flushed, and only then acknowledged.

use std::sync::Arc;

use ldk_node::Event;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::payment::PaymentKind;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::invoice::Reach;
use crate::ledger::{Ledger, LedgerError, Payment, Settlement};

use super::{Node, NodeError, REFRESH_EVERY, REFRESH_UNREADY_EVERY, reach};

/// The node's only consumer of events. Handles them one by one until told to stop.
pub(super) async fn handle(
    node: &Node,
    ldk: &Arc<ldk_node::Node>,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> Result<(), NodeError> {
    let (told, books) = (Arc::clone(ldk), Arc::clone(ledger));
    let known = tokio::task::spawn_blocking(move || enter_channels(&told, &books));
    known.await.map_err(NodeError::Panicked)??;
    let mut refresh_at = Instant::now();
    loop {
        let event = tokio::select! {
            event = ldk.next_event_async() => Some(event),
            () = sleep_until(refresh_at) => None,
            () = stop.cancelled() => return Ok(()),
        };
        let (told, ledger) = (Arc::clone(ldk), Arc::clone(ledger));
        let clock = node.clock.clone();
        // Every step may wait for the disk, or for a lock under which the node does.
        let handled = tokio::task::spawn_blocking(move || {
            if let Some(event) = event {
                enter(&told, &ledger, &event)?;
                told.event_handled().map_err(NodeError::Acknowledge)?;
            }
            Ok::<_, NodeError>(reach::now(&told, &clock))
        });
        let reach = handled.await.map_err(NodeError::Panicked)??;
        refresh_at = Instant::now()
            + match reach {
                Reach::Ready(_) => REFRESH_EVERY,
                Reach::Unready(_) => REFRESH_UNREADY_EVERY,
            };
        node.reached(reach);
    }
}

/// Enters the channels that are ready: of one that became so unheard, the end would not be told either.
fn enter_channels(ldk: &ldk_node::Node, ledger: &Ledger) -> Result<(), LedgerError> {
    for channel in ldk.list_channels() {
        if channel.is_channel_ready {
            let counterparty = channel.counterparty_node_id.to_string();
            ledger.open_channel(channel.channel_id.0, Some(counterparty))?;
        }
    }
    Ok(())
}

/// Enters what an event says. On return it would survive a power cut, and may come again without changing anything.
fn enter(ldk: &ldk_node::Node, ledger: &Ledger, event: &Event) -> Result<(), LedgerError> {
    match event {
        Event::PaymentReceived {
            payment_id,
            payment_hash,
            amount_msat,
            ..
        } => {
            let is_asked_for = ledger.is_challenged(&payment_hash.0);
            if !is_asked_for && payment_id.is_some_and(|id| is_gift(ldk, &id, *amount_msat)) {
                tracing::info!("Received {amount_msat} msat that no invoice asked for: not a sale");
                return Ok(());
            }
            let payment = Payment {
                payment_hash: payment_hash.0,
                amount_msat: *amount_msat,
            };
            let settlement = ledger.settle(payment)?;
            tell(&payment, &settlement);
        }
        Event::ChannelClosed {
            channel_id, reason, ..
        } => {
            let reason = reason
                .as_ref()
                .map_or_else(|| "no reason given".to_owned(), ToString::to_string);
            // A peer may begin and end channels as it likes; only one that was ready has cost it anything.
            if ledger.close_channel(channel_id.0, &reason)? {
                tracing::warn!(channel.id = %channel_id, "Channel {channel_id} is closed: {reason:?}");
            } else {
                tracing::debug!(channel.id = %channel_id, "Channel {channel_id} was given up: {reason:?}");
            }
        }
        Event::ChannelPending { channel_id, .. } => {
            tracing::info!(channel.id = %channel_id, "Channel {channel_id} waits for its confirmations");
        }
        Event::ChannelReady {
            channel_id,
            counterparty_node_id,
            ..
        } => {
            ledger.open_channel(channel_id.0, counterparty_node_id.map(|id| id.to_string()))?;
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

/// Whether somebody paid without an invoice (keysend). Of a sale by a stateless invoice the node keeps no record.
fn is_gift(ldk: &ldk_node::Node, payment_id: &PaymentId, amount_msat: u64) -> bool {
    ldk.payment(payment_id).is_some_and(|payment| {
        payment.amount_msat == Some(amount_msat)
            && matches!(payment.kind, PaymentKind::Spontaneous { .. })
    })
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
