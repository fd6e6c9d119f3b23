//! Payments by the operator's hand: paying an invoice or an offer within limits.

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::constants::ChainHash;
use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::offers::offer::{Amount, Offer};
use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use lightning_invoice::Bolt11Invoice;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::map::MapError;
use super::operation::{OperationError, refused};
use super::pay_to::invoice_or_offer;
use super::{Node, NodeUnavailable};

/// How long a payment is waited for. LDK tries for ten seconds; what hangs longer hangs at a peer.
const PAYMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What finding a path may cost if the operator does not say: a hundredth of the amount,
const FEE_MAX_PART: u64 = 100;
/// and so much besides, in msat, so that small payments find one, too.
const FEE_MAX_BASE_MSAT: u64 = 10_000;

/// What is done one at a time. `std` mutexes: held while the node does it, on a thread that may block.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Looking whether an invoice was paid before, and paying it.
    pub(super) pay: Arc<Mutex<()>>,
    /// Counting the invoices that nobody has paid, and making another.
    pub(super) invoice: Arc<Mutex<()>>,
}

/// A payment to be made.
#[derive(Clone, Debug)]
pub struct Paying {
    /// A BOLT 11 invoice or a BOLT 12 offer, by itself or in a link (`lightning:`, `bitcoin:`).
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

/// How far the sending of a payment is, said on the thread that sends it.
#[derive(Clone, Copy, Debug)]
pub enum Sending<'a> {
    /// It is sent next: nothing that pays the same invoice is under way.
    Begins,
    /// It was sent, under this id, hex.
    Sent(&'a str),
    /// It was not sent.
    NotSent,
    /// It may have been sent, and there is no record of it.
    Unsure,
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

impl Node {
    /// Reads what is to be paid and holds it against what there is. Nothing is sent.
    pub async fn payable(&self, paying: Paying) -> Result<Payable, OperationError> {
        self.uses_channels()?;
        let network = self.config.network;
        let now_secs = self.clock.unix_secs();
        let own_id = self.keys.payment_keys().node_id();
        self.operate("read the invoice", move |node| {
            let found = invoice_or_offer(&paying.to)?;
            let text = &found.text;
            let (to, asked_msat) = if let Ok(invoice) = Bolt11Invoice::from_str(text) {
                if invoice.network() != network {
                    return Err(OperationError::PayableElsewhere(network));
                }
                if let Some(ago_secs) = expired_secs_ago(&invoice, now_secs) {
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
            // A person who follows a link has read the link's amount, not the invoice's.
            let asked_msat = match found.amount_msat {
                Some(_) => Some(agreed(asked_msat, found.amount_msat)?),
                None => asked_msat,
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

    /// Pays, says how far that is, and waits until it has arrived or failed, within a minute: what is still under way then is pending. So is what was
    /// sent and cannot be followed: an error says that nothing was sent, unless it says that this is not known.
    pub async fn pay(
        &self,
        payable: Payable,
        tell: impl Fn(Sending<'_>) + Send + 'static,
    ) -> Result<Payment, OperationError> {
        if payable.needs_map {
            match self.fetch_map().await {
                // Who wants no map pays whom it finds without.
                Ok(_) | Err(MapError::NotWanted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut handled = self.handled.subscribe();
        let under_way = payable.under_way(self.clock.unix_secs());
        let turn = Arc::clone(&self.turns.pay);
        let sending = self.operate("pay", move |node| {
            // ldk-node looks into its records, has LDK find a path and send, and then writes its record: two at once for one
            // payment hash would both find none, and the one without a path would say of the other that it failed.
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if let To::Invoice(invoice) = &payable.to {
                is_new(node, invoice)?;
            }
            tell(Sending::Begins);
            let sent = send(node, payable);
            match &sent {
                Ok(id) => tell(Sending::Sent(&hex::encode(id.0))),
                Err(OperationError::Unsure { .. }) => tell(Sending::Unsure),
                Err(_) => tell(Sending::NotSent),
            }
            sent
        });
        let sent = sending.await.map_err(|error| {
            let panicked = matches!(
                error,
                OperationError::Unavailable(NodeUnavailable::Panicked(_))
            );
            if panicked { unsure() } else { error }
        })?;
        let under_way = Payment {
            payment_id: hex::encode(sent.0),
            ..under_way
        };
        let deadline = Instant::now() + PAYMENT_TIMEOUT;
        loop {
            // A node that stops meanwhile, or does not answer, takes nothing back.
            let Ok(payment) = self.payment_by(sent, with_proof).await else {
                return Ok(under_way);
            };
            if payment.status != Progress::Pending {
                return Ok(payment);
            }
            // Whatever the node tells may be about this one.
            match timeout_at(deadline, handled.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(payment),
            }
        }
    }

    /// Counts the events that the node has handled, among them those that tell how payments ended.
    pub fn handled(&self) -> watch::Receiver<u64> {
        self.handled.subscribe()
    }

    /// The payment with this id.
    pub async fn payment(&self, payment_id: &str) -> Result<Payment, OperationError> {
        let unknown = || OperationError::NoPayment(payment_id.to_owned());
        let id = hex::decode(payment_id).map_err(|_| unknown())?;
        let id = id.try_into().map_err(|_| unknown())?;
        let shown = |payment: &PaymentDetails| Payment::from(payment);
        let id = PaymentId(id);
        self.read("look for the payment", move |node| {
            payment_of(node, id, shown)
        })
        .await
    }

    /// The same for who has sent it, and waits however long the node does.
    async fn payment_by(
        &self,
        id: PaymentId,
        shown: fn(&PaymentDetails) -> Payment,
    ) -> Result<Payment, OperationError> {
        self.operate("look for the payment", move |node| {
            payment_of(node, id, shown)
        })
        .await
    }

    /// The node's payments, in and out, the newest first, at most so many. Sales are in the books.
    pub async fn payments(&self, limit: usize) -> Result<Vec<Payment>, OperationError> {
        self.read("list the payments", move |node| {
            let mut payments = node.list_payments();
            payments.sort_by_key(|payment| std::cmp::Reverse(payment.latest_update_timestamp));
            Ok(payments.iter().take(limit).map(Payment::from).collect())
        })
        .await
    }
}

impl Payable {
    /// The id that the payment will have, hex, if it is known before: an invoice's payment hash.
    pub fn payment_id(&self) -> Option<String> {
        match &self.to {
            To::Invoice(invoice) => Some(invoice.payment_hash().to_string()),
            To::Offer(_) => None,
        }
    }

    /// What is known of it while nobody can be asked how far it is.
    fn under_way(&self, now_secs: u64) -> Payment {
        let (kind, hash) = match &self.to {
            To::Invoice(invoice) => ("bolt11", Some(invoice.payment_hash().to_string())),
            To::Offer(_) => ("bolt12", None),
        };
        Payment {
            payment_id: String::new(),
            kind,
            is_outbound: true,
            status: Progress::Pending,
            amount_msat: Some(self.amount_msat),
            fee_msat: None,
            hash,
            preimage: None,
            updated_secs: now_secs,
        }
    }
}

fn payment_of(
    node: &ldk_node::Node,
    id: PaymentId,
    shown: fn(&PaymentDetails) -> Payment,
) -> Result<Payment, OperationError> {
    let payment = node.payment(&id);
    let unknown = || OperationError::NoPayment(hex::encode(id.0));
    payment.map(|payment| shown(&payment)).ok_or_else(unknown)
}

/// How long ago an invoice has expired, if it has. One whose end is beyond all clocks never does.
fn expired_secs_ago(invoice: &Bolt11Invoice, now_secs: u64) -> Option<u64> {
    let expires_secs = invoice.expires_at()?.as_secs();
    now_secs.checked_sub(expires_secs)
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
        // The record comes after the sending: what was sent and not noted may arrive.
        if error == ldk_node::NodeError::PersistenceFailed {
            return unsure();
        }
        refused("pay (is there a path within the fee limit?)")(error)
    })
}

/// What became of a payment is not known.
fn unsure() -> OperationError {
    OperationError::Unsure { what: "pay" }
}

/// A payment with its preimage, for who pays it.
fn with_proof(payment: &PaymentDetails) -> Payment {
    Payment {
        preimage: proof(&payment.kind),
        ..Payment::from(payment)
    }
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

#[cfg(test)]
mod tests {
    use bitcoin::hashes::{Hash as _, sha256};
    use bitcoin::secp256k1::{Secp256k1, SecretKey};
    use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};

    use super::*;

    fn invoice(expiry: Duration) -> Bolt11Invoice {
        let secret = SecretKey::from_slice(&[7; 32]).unwrap();
        let secp = Secp256k1::new();
        let invoice = InvoiceBuilder::new(Currency::Regtest)
            .description("wood".to_owned())
            .payment_hash(sha256::Hash::from_byte_array([3; 32]))
            .payment_secret(PaymentSecret([4; 32]))
            .duration_since_epoch(Duration::from_secs(1_000))
            .min_final_cltv_expiry_delta(42)
            .expiry_time(expiry)
            .build_signed(|message| secp.sign_ecdsa_recoverable(message, &secret));
        invoice.unwrap()
    }

    #[test]
    fn an_invoice_has_expired_when_its_time_is_over_and_never_if_that_is_beyond_all_clocks() {
        let hour = invoice(Duration::from_secs(3_600));
        assert_eq!(expired_secs_ago(&hour, 4_599), None);
        assert_eq!(expired_secs_ago(&hour, 4_600), Some(0));
        assert_eq!(expired_secs_ago(&hour, 4_610), Some(10));
        let endless = invoice(Duration::from_secs(u64::MAX));
        assert_eq!(expired_secs_ago(&endless, u64::MAX), None);
    }
}
