//! Payments by the operator: paying an invoice or an offer within limits.

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::constants::ChainHash;
use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::offers::offer::{Amount, Offer};
use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::payment::{PaymentDetails, PaymentStatus};
use lightning_invoice::Bolt11Invoice;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::chain::source::Chain;
use super::channel_error::AboveChannels;
use super::core::Core;
use super::error::NodeUnavailable;
use super::map::{Map, MapError, NetworkMap};
use super::operation::{OperationError, refused};
use super::pay_to::invoice_or_offer;
use super::payment::{Payment, Progress, with_proof};
use super::payment_error::PaymentError;
use super::reach::Reachability;

/// The longest wait for a payment. LDK tries for ten seconds, and a longer delay comes from a peer.
const PAYMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The default fee limit is the amount divided by this number, plus `FEE_MAX_BASE_MSAT`.
const FEE_MAX_PART: u64 = 100;
/// The fixed part of the default fee limit, in msat, so that small payments find a path too.
const FEE_MAX_BASE_MSAT: u64 = 10_000;

/// Locks for steps that run one at a time. `std` mutexes: held on a thread that may block.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Held to check whether an invoice was paid before, and to pay it.
    pub(super) pay: Arc<Mutex<()>>,
    /// Held to count the unpaid invoices, and to make another.
    pub(super) invoice: Arc<Mutex<()>>,
}

/// A request to pay.
#[derive(Clone, Debug)]
pub struct Paying {
    /// A BOLT 11 invoice or a BOLT 12 offer, by itself or in a link (`lightning:`, `bitcoin:`).
    pub to: String,
    /// The amount in msat. Required if `to` names no amount; otherwise both must be equal.
    pub amount_msat: Option<u64>,
    /// The limit of the routing fee, in msat.
    pub fee_max_msat: Option<u64>,
}

/// A payment whose terms are known and permitted. Nothing was sent yet.
#[derive(Clone, Debug)]
pub struct Payable {
    to: To,
    /// The amount that arrives, in msat.
    pub amount_msat: u64,
    /// The limit of the routing fee, in msat.
    pub fee_max_msat: u64,
    /// Whether the path leads over more than our own peers.
    needs_map: bool,
}

#[derive(Clone, Debug)]
enum To {
    Invoice(Box<Bolt11Invoice>),
    Offer(Box<Offer>),
}

/// The progress of sending a payment, reported on the thread that sends it.
#[derive(Clone, Copy, Debug)]
pub enum Sending<'a> {
    /// The payment is sent next. No other payment of the same invoice is in flight.
    Begins,
    /// The payment was sent under this id, hex.
    Sent(&'a str),
    /// The payment was not sent.
    NotSent,
    /// The payment may have been sent, but has no record.
    Unsure,
}

/// The payments and invoices of the operator.
#[derive(Debug)]
pub struct Payments {
    pub(super) core: Arc<Core>,
    pub(super) chain: Arc<Chain>,
    pub(super) reach: Arc<Reachability>,
    map: NetworkMap,
    /// The number of handled events. A task that waits for an event checks again when this number
    /// changes.
    handled: watch::Sender<u64>,
    /// The locks that allow one payment and one manual invoice at a time.
    pub(super) turns: Turns,
}

impl Payments {
    pub(super) fn new(core: &Arc<Core>, chain: &Arc<Chain>, reach: &Arc<Reachability>) -> Self {
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(chain),
            reach: Arc::clone(reach),
            map: NetworkMap::new(core),
            handled: watch::Sender::default(),
            turns: Turns::default(),
        }
    }

    /// Ensures that there is a map of the network, for payments over more than one hop. If the map
    /// was put off until now, the node restarts to fetch it. For about a second the node cannot
    /// receive payments; payments in flight continue afterwards.
    pub async fn fetch_map(&self) -> Result<Map, MapError> {
        self.map.fetch().await
    }

    /// Counts a handled event.
    pub(super) fn event_handled(&self) {
        self.handled.send_modify(|handled| *handled += 1);
    }

    /// Parses the text to pay and checks it against the node's records and channels. Sends nothing.
    pub async fn payable(&self, paying: Paying) -> Result<Payable, PaymentError> {
        self.core.uses_channels().map_err(OperationError::from)?;
        let network = self.core.config.network;
        let now_secs = self.core.clock.unix_secs();
        let own_id = self.core.keys.payment_keys().node_id();
        self.core
            .operate("read the invoice", move |node| {
                let found = invoice_or_offer(&paying.to)?;
                let text = &found.text;
                let (to, asked_msat) = if let Ok(invoice) = Bolt11Invoice::from_str(text) {
                    if invoice.network() != network {
                        return Err(PaymentError::PayableElsewhere(network));
                    }
                    if let Some(ago_secs) = expired_secs_ago(&invoice, now_secs) {
                        return Err(PaymentError::Expired { ago_secs });
                    }
                    if invoice.get_payee_pub_key() == own_id {
                        return Err(PaymentError::OwnInvoice);
                    }
                    is_new(node, &invoice)?;
                    let asked_msat = invoice.amount_milli_satoshis();
                    (To::Invoice(Box::new(invoice)), asked_msat)
                } else {
                    let offer = Offer::from_str(text).map_err(|_| PaymentError::NotPayable)?;
                    if !offer.supports_chain(ChainHash::using_genesis_block(network)) {
                        return Err(PaymentError::PayableElsewhere(network));
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
                    return Err(AboveChannels {
                        asked_msat: amount_msat,
                        sendable_msat,
                    }
                    .into());
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

    /// Pays, reports the progress, and waits up to a minute for the result. A payment that is still
    /// in flight then, or that cannot be followed, is pending. An error means that nothing was
    /// sent, unless the error says that this is unknown.
    pub async fn pay(
        &self,
        payable: Payable,
        tell: impl Fn(Sending<'_>) + Send + 'static,
    ) -> Result<Payment, PaymentError> {
        if payable.needs_map {
            match self.map.fetch().await {
                // Without a map, a path may still be found.
                Ok(_) | Err(MapError::NotWanted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut handled = self.handled.subscribe();
        let under_way = payable.under_way(self.core.clock.unix_secs());
        let turn = Arc::clone(&self.turns.pay);
        let sending = self.core.operate("pay", move |node| {
            // ldk-node checks its records, lets LDK find a path and send, and then writes its
            // record. Two concurrent payments of one payment hash would both find no record. If one
            // of them finds no path, it would record the other as failed.
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if let To::Invoice(invoice) = &payable.to {
                is_new(node, invoice)?;
            }
            tell(Sending::Begins);
            let sent = send(node, payable);
            match &sent {
                Ok(id) => tell(Sending::Sent(&hex::encode(id.0))),
                Err(PaymentError::Operation(OperationError::Unsure { .. })) => {
                    tell(Sending::Unsure)
                }
                Err(_) => tell(Sending::NotSent),
            }
            sent
        });
        let sent = sending.await.map_err(|error| {
            let panicked = matches!(
                error,
                PaymentError::Operation(OperationError::Unavailable(NodeUnavailable::Panicked(_)))
            );
            if panicked { unsure() } else { error }
        })?;
        let under_way = Payment {
            payment_id: hex::encode(sent.0),
            ..under_way
        };
        let deadline = Instant::now() + PAYMENT_TIMEOUT;
        loop {
            // The payment continues even if the node stops or does not answer.
            let Ok(payment) = self.payment_by(sent, with_proof).await else {
                return Ok(under_way);
            };
            if payment.status != Progress::Pending {
                return Ok(payment);
            }
            // Any event of the node may be about this payment.
            match timeout_at(deadline, handled.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(payment),
            }
        }
    }

    /// Subscribes to the number of handled events. Some of them tell how a payment ended.
    pub fn handled(&self) -> watch::Receiver<u64> {
        self.handled.subscribe()
    }

    /// The payment with this id.
    pub async fn get(&self, payment_id: &str) -> Result<Payment, PaymentError> {
        let unknown = || PaymentError::NoPayment(payment_id.to_owned());
        let id = hex::decode(payment_id).map_err(|_| unknown())?;
        let id = id.try_into().map_err(|_| unknown())?;
        let shown = |payment: &PaymentDetails| Payment::from(payment);
        let id = PaymentId(id);
        self.core
            .read("look for the payment", move |node| {
                payment_of(node, id, shown)
            })
            .await
    }

    /// The payment with this id, for its sender. Waits as long as an operation may take.
    async fn payment_by(
        &self,
        id: PaymentId,
        shown: fn(&PaymentDetails) -> Payment,
    ) -> Result<Payment, PaymentError> {
        self.core
            .operate("look for the payment", move |node| {
                payment_of(node, id, shown)
            })
            .await
    }

    /// At most this many incoming and outgoing payments, the newest first. Sales are in the ledger.
    pub async fn list(&self, limit: usize) -> Result<Vec<Payment>, PaymentError> {
        self.core
            .read("list the payments", move |node| {
                let mut payments = node.list_payments();
                payments.sort_by_key(|payment| std::cmp::Reverse(payment.latest_update_timestamp));
                Ok(payments.iter().take(limit).map(Payment::from).collect())
            })
            .await
    }
}

impl Payable {
    /// The id of the payment, hex, if it is known in advance: an invoice's payment hash.
    pub fn payment_id(&self) -> Option<String> {
        match &self.to {
            To::Invoice(invoice) => Some(invoice.payment_hash().to_string()),
            To::Offer(_) => None,
        }
    }

    /// The payment as far as it is known while its progress cannot be read.
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
) -> Result<Payment, PaymentError> {
    let payment = node.payment(&id);
    let unknown = || PaymentError::NoPayment(hex::encode(id.0));
    payment.map(|payment| shown(&payment)).ok_or_else(unknown)
}

/// The seconds since an invoice expired, if it has. An expiry too large for a timestamp is never
/// reached.
fn expired_secs_ago(invoice: &Bolt11Invoice, now_secs: u64) -> Option<u64> {
    let expires_secs = invoice.expires_at()?.as_secs();
    now_secs.checked_sub(expires_secs)
}

/// The amount to pay, from the amount asked for and the operator's amount.
fn agreed(asked_msat: Option<u64>, said_msat: Option<u64>) -> Result<u64, PaymentError> {
    match (asked_msat, said_msat) {
        (None, None) => Err(PaymentError::AmountMissing),
        (Some(0), _) | (_, Some(0)) => Err(PaymentError::NoAmount),
        (Some(invoice_msat), Some(asked_msat)) if invoice_msat != asked_msat => {
            Err(PaymentError::OtherAmount {
                invoice_msat,
                asked_msat,
            })
        }
        (Some(msat), _) | (None, Some(msat)) => Ok(msat),
    }
}

/// Whether the payee is our peer, or reachable through one, so that no map is needed.
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

/// Fails if this invoice was paid before, because its payee owes nothing for a second payment.
fn is_new(node: &ldk_node::Node, invoice: &Bolt11Invoice) -> Result<(), PaymentError> {
    let id: &[u8] = invoice.payment_hash().as_ref();
    let id = PaymentId(id.try_into().expect("SHA-256 has 32 bytes"));
    let is_paid = node
        .payment(&id)
        .is_some_and(|payment| payment.status != PaymentStatus::Failed);
    if is_paid {
        return Err(PaymentError::PaidBefore);
    }
    Ok(())
}

fn send(node: &Arc<ldk_node::Node>, payable: Payable) -> Result<PaymentId, PaymentError> {
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
            return PaymentError::PaidBefore;
        }
        // ldk-node writes its record after sending, so a payment without a record may arrive.
        if error == ldk_node::NodeError::PersistenceFailed {
            return unsure();
        }
        refused("pay (is there a path within the fee limit?)")(error).into()
    })
}

/// The error if the result of a payment is unknown.
fn unsure() -> PaymentError {
    OperationError::Unsure { what: "pay" }.into()
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
