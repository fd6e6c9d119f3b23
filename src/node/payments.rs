//! Payments by the operator's hand: paying an invoice or an offer within limits, and invoices that sell nothing.

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::constants::ChainHash;
use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::offers::offer::{Amount, Offer};
use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::Node;
use super::map::MapError;
use super::operation::{OperationError, refused};
use crate::invoice::DESCRIPTION_BYTES_MAX;

/// How long a payment is waited for. LDK tries for ten seconds; what hangs longer hangs at a peer.
const PAYMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What finding a path may cost if the operator does not say: a hundredth of the amount,
const FEE_MAX_PART: u64 = 100;
/// and so much besides, in msat, so that small payments find one, too.
const FEE_MAX_BASE_MSAT: u64 = 10_000;

/// Bounds of an invoice's time, in seconds: below a minute nobody pays it, and beyond a year it is a mistake.
const EXPIRY_SECS: std::ops::RangeInclusive<u32> = 60..=31_536_000;

/// A payment to be made.
#[derive(Clone, Debug)]
pub struct Paying {
    /// A BOLT 11 invoice or a BOLT 12 offer.
    pub to: String,
    /// How much, in msat, where it leaves the amount open; where it does not, what it may ask for at most.
    pub amount_msat: Option<u64>,
    /// What the way there may cost, in msat.
    pub fee_max_msat: Option<u64>,
}

/// A payment whose terms are known and hold; nothing was sent yet.
#[derive(Clone, Debug)]
pub struct Payable {
    to: To,
    /// What arrives, in msat.
    pub amount_msat: u64,
    /// What the way there may cost, in msat.
    pub fee_max_msat: u64,
    /// Whether the way there leads over more than our own peers.
    needs_map: bool,
}

#[derive(Clone, Debug)]
enum To {
    Invoice(Box<Bolt11Invoice>),
    Offer(Box<Offer>),
}

/// How far a payment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Under way; it may still arrive.
    Pending,
    /// It arrived.
    Succeeded,
    /// It did not, and will not.
    Failed,
}

/// A payment of the node's, in or out. Sales are in the books, not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Payment {
    /// Its id, hex.
    pub payment_id: String,
    /// `bolt11`, `bolt11_jit`, `bolt12`, `spontaneous` or `onchain`.
    pub kind: &'static str,
    /// Whether it goes out.
    pub is_outbound: bool,
    /// How far it is.
    pub status: Progress,
    /// What arrives, in msat.
    pub amount_msat: Option<u64>,
    /// What the way there cost, in msat.
    pub fee_msat: Option<u64>,
    /// The payment hash, or the transaction, hex.
    pub hash: Option<String>,
    /// What proves that it was paid, hex: said to who pays, for with it they present what they bought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preimage: Option<String>,
    /// When something last happened to it, Unix seconds.
    pub updated_secs: u64,
}

/// An invoice made by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HandInvoice {
    /// As a payer takes it.
    pub bolt11: String,
    /// Its payment hash, hex, which is also the id of the payment.
    pub payment_hash: String,
    /// When it expires, Unix seconds.
    pub expires_at_secs: u64,
    /// Whether so much could arrive now.
    pub payable_now: bool,
}

impl Node {
    /// Reads what is to be paid and holds it against what there is. Nothing is sent.
    pub async fn payable(&self, paying: Paying) -> Result<Payable, OperationError> {
        self.uses_channels()?;
        let network = self.config.network;
        let now_secs = self.clock.unix_secs();
        let own_id = self.keys.payment_keys().node_id();
        self.operate("read the invoice", move |node| {
            let text = paying.to.trim();
            let text = text.strip_prefix("lightning:").unwrap_or(text);
            let (to, asked_msat) = if let Ok(invoice) = Bolt11Invoice::from_str(text) {
                if invoice.network() != network {
                    return Err(OperationError::PayableElsewhere(network));
                }
                let expires = invoice.duration_since_epoch() + invoice.expiry_time();
                if expires.as_secs() <= now_secs {
                    let ago_secs = now_secs - expires.as_secs();
                    return Err(OperationError::Expired { ago_secs });
                }
                if invoice.get_payee_pub_key() == own_id {
                    return Err(OperationError::OwnInvoice);
                }
                is_new(node, &invoice)?;
                let asked_msat = invoice.amount_milli_satoshis();
                (To::Invoice(Box::new(invoice)), asked_msat)
            } else {
                let offer = Offer::from_str(text).map_err(|_| OperationError::NotPayable)?;
                if !offer.supports_chain(ChainHash::using_genesis_block(network)) {
                    return Err(OperationError::PayableElsewhere(network));
                }
                let asked_msat = match offer.amount() {
                    Some(Amount::Bitcoin { amount_msats }) => Some(amount_msats),
                    Some(Amount::Currency { .. }) | None => None,
                };
                (To::Offer(Box::new(offer)), asked_msat)
            };
            let amount_msat = agreed(asked_msat, paying.amount_msat)?;
            let fee_max_msat = paying
                .fee_max_msat
                .unwrap_or(amount_msat / FEE_MAX_PART + FEE_MAX_BASE_MSAT);
            let sendable = node.list_channels().into_iter();
            let sendable_msat = sendable
                .filter(|channel| channel.is_usable)
                .map(|channel| channel.outbound_capacity_msat)
                .sum();
            if amount_msat > sendable_msat {
                return Err(OperationError::AboveChannels {
                    asked_msat: amount_msat,
                    sendable_msat,
                });
            }
            Ok(Payable {
                needs_map: !is_next_door(node, &to),
                to,
                amount_msat,
                fee_max_msat,
            })
        })
        .await
    }

    /// Pays, and waits until it has arrived or failed, within a minute: what is still under way then is pending.
    pub async fn pay(&self, payable: Payable) -> Result<Payment, OperationError> {
        if payable.needs_map {
            match self.fetch_map().await {
                // Who wants no map pays whom it finds without.
                Ok(_) | Err(MapError::NotWanted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut handled = self.handled.subscribe();
        let sent = self.operate("pay", move |node| send(node, payable)).await?;
        let deadline = Instant::now() + PAYMENT_TIMEOUT;
        loop {
            let payment = self.payment_by(sent).await?;
            if payment.status != Progress::Pending {
                let preimage = self.operate("look for the payment", move |node| {
                    Ok(node.payment(&sent).and_then(|it| proof(&it.kind)))
                });
                return Ok(Payment {
                    preimage: preimage.await?,
                    ..payment
                });
            }
            // Whatever the node tells may be about this one.
            match timeout_at(deadline, handled.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(payment),
            }
        }
    }

    /// The payment with this id.
    pub async fn payment(&self, payment_id: &str) -> Result<Payment, OperationError> {
        let unknown = || OperationError::NoPayment(payment_id.to_owned());
        let id = hex::decode(payment_id).map_err(|_| unknown())?;
        let id = id.try_into().map_err(|_| unknown())?;
        self.payment_by(PaymentId(id)).await
    }

    async fn payment_by(&self, id: PaymentId) -> Result<Payment, OperationError> {
        self.operate("look for the payment", move |node| {
            let payment = node.payment(&id);
            let unknown = || OperationError::NoPayment(hex::encode(id.0));
            payment
                .map(|payment| Payment::from(&payment))
                .ok_or_else(unknown)
        })
        .await
    }

    /// The node's payments, in and out, the newest first, at most so many. Sales are in the books.
    pub async fn payments(&self, limit: usize) -> Result<Vec<Payment>, OperationError> {
        self.operate("list the payments", move |node| {
            let mut payments = node.list_payments();
            payments.sort_by_key(|payment| std::cmp::Reverse(payment.latest_update_timestamp));
            Ok(payments.iter().take(limit).map(Payment::from).collect())
        })
        .await
    }

    /// Makes an invoice that sells nothing: money for the node, whoever it is from.
    pub async fn invoice_by_hand(
        &self,
        amount_msat: Option<u64>,
        description: String,
        expiry_secs: u32,
    ) -> Result<HandInvoice, OperationError> {
        self.uses_channels()?;
        if description.len() > DESCRIPTION_BYTES_MAX {
            return Err(OperationError::DescriptionTooLong);
        }
        if !EXPIRY_SECS.contains(&expiry_secs) {
            return Err(OperationError::Expiry);
        }
        if amount_msat == Some(0) {
            return Err(OperationError::NoAmount);
        }
        let payable_now = self.takes(amount_msat.unwrap_or(1));
        let expires_at_secs = self.clock.unix_secs() + u64::from(expiry_secs);
        self.operate("make an invoice", move |node| {
            let description =
                Description::new(description).map_err(|_| OperationError::DescriptionTooLong)?;
            let description = Bolt11InvoiceDescription::Direct(description);
            let maker = node.bolt11_payment();
            let invoice = match amount_msat {
                Some(msat) => maker.receive(msat, &description, expiry_secs),
                None => maker.receive_variable_amount(&description, expiry_secs),
            };
            let invoice = invoice.map_err(refused("make an invoice"))?;
            Ok(HandInvoice {
                payment_hash: invoice.payment_hash().to_string(),
                bolt11: invoice.to_string(),
                expires_at_secs,
                payable_now,
            })
        })
        .await
    }
}

/// What is paid, between what is asked for and what the operator says.
fn agreed(asked_msat: Option<u64>, said_msat: Option<u64>) -> Result<u64, OperationError> {
    match (asked_msat, said_msat) {
        (None, None) => Err(OperationError::AmountMissing),
        (Some(0), _) | (_, Some(0)) => Err(OperationError::NoAmount),
        (Some(invoice_msat), Some(asked_msat)) if invoice_msat != asked_msat => {
            Err(OperationError::OtherAmount {
                invoice_msat,
                asked_msat,
            })
        }
        (Some(msat), _) | (None, Some(msat)) => Ok(msat),
    }
}

/// Whether the payee is one of our peers, or can be found behind one: then no map of the network is needed.
fn is_next_door(node: &ldk_node::Node, to: &To) -> bool {
    let To::Invoice(invoice) = to else {
        return false;
    };
    let channels = node.list_channels();
    let is_peer = |id: &PublicKey| {
        let mut peers = channels.iter().map(|channel| channel.counterparty_node_id);
        peers.any(|peer| peer == *id)
    };
    let hints = invoice.route_hints();
    let mut entries = hints.iter().filter_map(|hint| hint.0.first());
    is_peer(&invoice.get_payee_pub_key()) || entries.any(|entry| is_peer(&entry.src_node_id))
}

/// An invoice is paid once: its payee owes nothing for a second time.
fn is_new(node: &ldk_node::Node, invoice: &Bolt11Invoice) -> Result<(), OperationError> {
    let id: &[u8] = invoice.payment_hash().as_ref();
    let id = PaymentId(id.try_into().expect("SHA-256 has 32 bytes"));
    let is_paid = node
        .payment(&id)
        .is_some_and(|payment| payment.status != PaymentStatus::Failed);
    if is_paid {
        return Err(OperationError::PaidBefore);
    }
    Ok(())
}

fn send(node: &Arc<ldk_node::Node>, payable: Payable) -> Result<PaymentId, OperationError> {
    let limits = Some(RouteParametersConfig {
        max_total_routing_fee_msat: Some(payable.fee_max_msat),
        ..RouteParametersConfig::default()
    });
    let amount_msat = payable.amount_msat;
    let sent = match payable.to {
        To::Invoice(invoice) if invoice.amount_milli_satoshis().is_some() => {
            node.bolt11_payment().send(&invoice, limits)
        }
        To::Invoice(invoice) => {
            node.bolt11_payment()
                .send_using_amount(&invoice, amount_msat, limits)
        }
        To::Offer(offer) => {
            node.bolt12_payment()
                .send_using_amount(&offer, amount_msat, None, None, limits)
        }
    };
    sent.map_err(|error| {
        if error == ldk_node::NodeError::DuplicatePayment {
            return OperationError::PaidBefore;
        }
        refused("pay (is there a path within the fee limit?)")(error)
    })
}

/// The preimage of a payment that arrived.
fn proof(kind: &PaymentKind) -> Option<String> {
    let preimage = match kind {
        PaymentKind::Onchain { .. } => None,
        PaymentKind::Bolt11 { preimage, .. }
        | PaymentKind::Bolt11Jit { preimage, .. }
        | PaymentKind::Bolt12Offer { preimage, .. }
        | PaymentKind::Bolt12Refund { preimage, .. }
        | PaymentKind::Spontaneous { preimage, .. } => *preimage,
    };
    preimage.map(|preimage| hex::encode(preimage.0))
}

impl From<&PaymentDetails> for Payment {
    fn from(payment: &PaymentDetails) -> Self {
        let (kind, hash) = match &payment.kind {
            PaymentKind::Onchain { txid, .. } => ("onchain", Some(txid.to_string())),
            PaymentKind::Bolt11 { hash, .. } => ("bolt11", Some(hash.to_string())),
            PaymentKind::Bolt11Jit { hash, .. } => ("bolt11_jit", Some(hash.to_string())),
            PaymentKind::Bolt12Offer { hash, .. } | PaymentKind::Bolt12Refund { hash, .. } => {
                ("bolt12", hash.map(|hash| hash.to_string()))
            }
            PaymentKind::Spontaneous { hash, .. } => ("spontaneous", Some(hash.to_string())),
        };
        Self {
            payment_id: hex::encode(payment.id.0),
            kind,
            is_outbound: payment.direction == PaymentDirection::Outbound,
            status: match payment.status {
                PaymentStatus::Pending => Progress::Pending,
                PaymentStatus::Succeeded => Progress::Succeeded,
                PaymentStatus::Failed => Progress::Failed,
            },
            amount_msat: payment.amount_msat,
            fee_msat: payment.fee_paid_msat,
            hash,
            preimage: None,
            updated_secs: payment.latest_update_timestamp,
        }
    }
}
