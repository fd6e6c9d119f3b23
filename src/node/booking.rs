//! Enters into the ledger what the node's events say.

use ldk_node::Event;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind};

use crate::account::ledger::{Arrived, Claims, Ledger, LedgerError, Payment, Settlement};

use super::liquidity::activation::arrived;
use super::liquidity::settings as liquidity;

/// Records the channels that are ready. The ledger does not record the end of a channel that it
/// never recorded as ready.
pub(super) fn enter_channels(ldk: &ldk_node::Node, ledger: &Ledger) -> Result<(), LedgerError> {
    for channel in ldk.list_channels() {
        if channel.is_channel_ready {
            let counterparty = channel.counterparty_node_id.to_string();
            ledger.open_channel(channel.channel_id.0, Some(counterparty))?;
        }
    }
    Ok(())
}

/// Records an event. On return, the record survives a power cut. Handling the event again changes
/// nothing.
pub(super) fn enter(
    ldk: &ldk_node::Node,
    ledger: &Ledger,
    liquidity: &liquidity::Config,
    claims: &Claims,
    event: &Event,
) -> Result<(), LedgerError> {
    match event {
        Event::PaymentReceived {
            payment_id,
            payment_hash,
            amount_msat,
            ..
        } => {
            let payment = Payment {
                payment_hash: payment_hash.0,
                amount_msat: *amount_msat,
            };
            let is_new = claims.is_new(&payment.payment_hash);
            receive(ldk, ledger, liquidity, *payment_id, (payment, is_new))?;
            claims.end(&payment.payment_hash);
        }
        Event::ChannelClosed {
            channel_id, reason, ..
        } => {
            let reason = reason
                .as_ref()
                .map_or_else(|| "no reason given".to_owned(), ToString::to_string);
            // Peers may begin and end channels at will. Only a channel that was ready has cost its
            // peer anything.
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
        Event::PaymentSuccessful {
            payment_hash,
            fee_paid_msat,
            ..
        } => {
            let fee_msat = fee_paid_msat.unwrap_or(0);
            tracing::info!(payment.hash = %payment_hash, "Paid {payment_hash}, the way there cost {fee_msat} msat");
        }
        Event::PaymentFailed { reason, .. } => {
            tracing::warn!("A payment failed: {reason:?}");
        }
        Event::SplicePending { channel_id, .. } => {
            tracing::info!(channel.id = %channel_id, "A splice of channel {channel_id} waits for its confirmations");
        }
        Event::SpliceFailed { channel_id, .. } => {
            tracing::warn!(channel.id = %channel_id, "A splice of channel {channel_id} failed; the channel is as it was");
        }
        // The node does not forward payments, and accepts none that must be claimed by hand.
        Event::PaymentForwarded { .. } | Event::PaymentClaimable { .. } => {
            tracing::debug!("An event that changes nothing in the books")
        }
    }
    Ok(())
}

/// Records a received payment. `is_new` tells whether the node reports it for the first time.
fn receive(
    ldk: &ldk_node::Node,
    ledger: &Ledger,
    liquidity: &liquidity::Config,
    payment_id: Option<PaymentId>,
    (payment, is_new): (Payment, bool),
) -> Result<(), LedgerError> {
    let amount_msat = payment.amount_msat;
    let activation = ledger.activation(&payment.payment_hash)?;
    // The node keeps no record of a sale by a stateless invoice, so a payment with a record is
    // something else. A bundle's invoice is an exception: it is both a remembered challenge and an
    // invoice of the node.
    let is_asked_for = activation.is_none() && ledger.is_challenged(&payment.payment_hash);
    let id = payment_id.filter(|_| !is_asked_for);
    let record = id.and_then(|id| ldk.payment(&id));
    if record
        .as_ref()
        .is_some_and(|record| is_no_sale(record, amount_msat))
    {
        tracing::info!(
            "Received {amount_msat} msat that pay for nothing that is sold here: not a sale"
        );
        return Ok(());
    }
    let arrived = record
        .and_then(|record| arrived(&record.kind, payment.payment_hash, amount_msat, liquidity));
    // If the node has lost its record, the activation in the ledger tells the provider and the fee.
    let arrived = arrived.or_else(|| {
        activation.map(|activation| Arrived {
            payment_hash: payment.payment_hash,
            net_msat: amount_msat,
            fee_msat: activation.gross_msat.saturating_sub(amount_msat),
            provider: activation.provider,
        })
    });
    if let Some(arrived) = arrived {
        return enter_activation(ledger, &arrived);
    }
    let settlement = ledger.settle_told(payment, is_new)?;
    tell(&payment, &settlement);
    Ok(())
}

/// Whether this payment is a keysend, or pays an invoice that was made by hand. The node keeps a
/// record of both, but not of a sale by a stateless invoice.
fn is_no_sale(record: &PaymentDetails, amount_msat: u64) -> bool {
    record.amount_msat == Some(amount_msat)
        && record.direction == PaymentDirection::Inbound
        && matches!(
            record.kind,
            PaymentKind::Spontaneous { .. } | PaymentKind::Bolt11 { .. }
        )
}

/// Records a payment out of which a provider has opened a channel.
fn enter_activation(ledger: &Ledger, arrived: &Arrived) -> Result<(), LedgerError> {
    let hash = hex::encode(arrived.payment_hash);
    let (net_msat, fee_msat) = (arrived.net_msat, arrived.fee_msat);
    let Some(settled) = ledger.settle_activation(arrived)? else {
        tracing::info!(
            payment.hash = hash,
            "Activation {hash} was in the books already"
        );
        return Ok(());
    };
    tracing::info!(
        payment.hash = hash,
        "A channel is activated: {net_msat} msat arrived, and the provider kept {fee_msat} msat"
    );
    if let Some(bundle) = settled.bundle {
        let (amount_msat, service) = (settled.gross_msat, bundle.service);
        tracing::info!(
            payment.hash = hash,
            amount_msat,
            "Settled {amount_msat} msat for {service}, payment {hash}"
        );
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
