//! Makes the BOLT 11 invoices that clients pay to the node.
//!
//! Invoices are stateless: the program stores nothing when it makes one. The node's keys are
//! derived from its seed, and LDK verifies an incoming payment by its secret alone. So the node's
//! channel manager accepts payments for the invoices of a [`Minter`] with the same keys, although
//! it has never seen them. The node tells the minter over which channels payers reach it.

mod signer;
mod template;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::Network;
use bitcoin::bip32::Xpriv;
use bitcoin::hashes::Hash as _;
use bitcoin::secp256k1::{PublicKey, Secp256k1, SecretKey};
use lightning::ln::channelmanager::MIN_FINAL_CLTV_EXPIRY_DELTA;
use lightning::ln::inbound_payment::{self, ExpandedKey};
use lightning::routing::router::RouteHint;
use lightning::sign::{EntropySource, KeysManager, NodeSigner as _};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use tokio::sync::watch;

use crate::base::amount::Msat;

use signer::Signer;
use template::Template;

/// The most templates that are kept: more than a merchant has prices.
const TEMPLATES_MAX: usize = 64;

/// The longest description that fits an invoice's field (BOLT 11: 639 bytes).
pub const DESCRIPTION_BYTES_MAX: usize = 639;

/// Whether and how payments reach the node now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The node cannot receive any payment now.
    Unready(Unready),
    /// Payments arrive over these channels.
    Ready(Inbound),
}

/// The inbound liquidity of the node's usable channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Route hints for payers; empty if the node is announced.
    pub hints: Vec<RouteHint>,
    /// The amount that all usable channels together can receive, in msat.
    pub capacity_msat: u64,
    /// The smallest payment that the peers forward, in msat.
    pub htlc_minimum_msat: u64,
}

impl Inbound {
    /// Whether a payment of this amount can arrive.
    pub fn takes(&self, amount: Msat) -> bool {
        (self.htlc_minimum_msat..=self.capacity_msat).contains(&amount.msat())
    }
}

/// The reasons why the node cannot receive payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// The node is still starting.
    #[error("the node is starting")]
    Starting,
    /// The node cannot reach its chain source and does not start without it.
    #[error("the node waits for its chain source")]
    ChainSourceUnreachable,
    /// The node cannot reach the server that keeps its channels' state.
    #[error("the node waits for the server that keeps its channels (node.vss)")]
    StoreUnreachable,
    /// The server that keeps the channels' state refuses the node's authentication headers.
    #[error("the server that keeps the node's channels refuses who asks (node.vss)")]
    StoreRefuses,
    /// The node has not seen the chain for longer than is safe, or not at all.
    #[error("the node has not seen the chain for too long: is its chain source reachable?")]
    Behind,
    /// The node has no channel with a peer that the operator trusts or chose, and no usable
    /// channel.
    #[error("the node has no channel yet")]
    NoChannel,
    /// The node has channels with peers that the operator trusts or chose, but no usable channel.
    #[error("the peers of the node's channels are not connected")]
    PeersOffline,
    /// The channels cannot receive this amount.
    #[error("the node's channels cannot receive this amount now")]
    NoInboundCapacity,
    /// The node's keys differ from those that sign the invoices, so nothing is sold.
    #[error("the node's keys are not the ones that invoices are made with")]
    KeyMismatch,
    /// The node was restored from a backup, and its old channels are being closed.
    #[error("the node recovers from a backup: its old channels are closed and swept first")]
    Recovering,
    /// The disk may not have enough space for the node's writes.
    #[error("the disk of data_dir is nearly full, in bytes or in files (inodes): free some space")]
    DiskFull,
    /// The machine's clock is so far behind that payers would treat a new invoice as expired.
    #[error("the clock of this machine is minutes behind: set it (NTP)")]
    ClockBehind,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// The node's keys for invoices, derived from the node's 64-byte seed in the same way as in
/// ldk-node.
#[derive(Clone)]
pub struct PaymentKeys {
    /// The key for payment hashes and payment secrets.
    inbound: ExpandedKey,
    /// The key that signs invoices.
    node_secret: SecretKey,
}

impl fmt::Debug for PaymentKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PaymentKeys(…)")
    }
}

/// The seed does not give a valid key. The chance of this is one in 2^127.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to derive the node's keys from the seed")]
pub struct KeyError;

impl PaymentKeys {
    /// Derives the keys. LDK's own seed is the master private key itself, without a derivation
    /// path.
    pub fn from_seed(seed: &[u8; 64], network: Network) -> Result<Self, KeyError> {
        let master = Xpriv::new_master(network, seed).map_err(|_| KeyError)?;
        // The two times only seed randomness of this manager, and none of it is used here.
        let keys = KeysManager::new(&master.private_key.secret_bytes(), 0, 0, true);
        Ok(Self {
            inbound: keys.get_expanded_key(),
            node_secret: keys.get_node_secret_key(),
        })
    }

    /// The node id of these keys.
    pub fn node_id(&self) -> PublicKey {
        self.node_secret.public_key(&Secp256k1::signing_only())
    }
}

/// One invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// The invoice in lower case, as payers use it.
    pub bolt11: String,
    /// SHA-256 of the preimage that the payer learns.
    pub payment_hash: [u8; 32],
    /// The expiry, Unix seconds. LDK accepts a payment until a block's time is two hours past the
    /// expiry.
    pub expires_at_secs: u64,
}

/// The terms of one invoice.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The amount, which the payment secret enforces.
    pub amount: Msat,
    /// The text that the payer sees.
    pub description: &'a str,
    /// The current time, Unix seconds.
    pub now_secs: u64,
    /// Fresh random bytes of the operating system. The first half determines the payment hash.
    pub random: [u8; 32],
}

/// Makes invoices from the node's keys and the last known state of its channels.
pub struct Minter {
    /// The node's keys.
    keys: PaymentKeys,
    /// Signs the invoices.
    signer: Signer,
    /// The network, which sets the prefix of the invoices.
    currency: Currency,
    /// The time in which an invoice can be paid.
    expiry: Duration,
    /// The latest report of the node on whether it can receive payments.
    reach: watch::Receiver<Reach>,
    /// Templates to fill in. A `std` mutex: held for a look-up, never across an await.
    templates: Mutex<Templates>,
}

/// The templates for the current route hints.
#[derive(Debug, Default)]
struct Templates {
    /// The route hints.
    hints: Vec<RouteHint>,
    /// The templates, each with its amount in msat and its description.
    known: Vec<(u64, String, Arc<Template>)>,
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter")
            .field("currency", &self.currency)
            .finish_non_exhaustive()
    }
}

impl Minter {
    /// A minter for the node with these keys on this network.
    pub fn new(
        keys: PaymentKeys,
        network: Network,
        expiry: Duration,
        reach: watch::Receiver<Reach>,
    ) -> Self {
        Self {
            signer: Signer::new(keys.node_secret.secret_bytes()),
            keys,
            currency: network.into(),
            expiry,
            reach,
            templates: Mutex::default(),
        }
    }

    /// The expiry of an invoice that is made at this time, Unix seconds.
    pub fn end_secs(&self, made_secs: u64) -> u64 {
        made_secs.saturating_add(self.expiry.as_secs())
    }

    /// Makes an invoice, unless the node cannot receive the amount now.
    pub fn mint(&self, terms: &Terms<'_>) -> Result<Invoice, Unready> {
        let template = self.template(terms, &payable(&self.reach.borrow(), terms.amount)?.hints);
        let (payment_hash, payment_secret) = inbound_payment::create(
            &self.keys.inbound,
            Some(terms.amount.msat()),
            u32::try_from(self.expiry.as_secs()).unwrap_or(u32::MAX),
            &&Random(terms.random),
            terms.now_secs,
            None,
        )
        .expect("an amount below all bitcoin fits the payment secret");
        let bolt11 = template.fill(terms.now_secs, &payment_hash.0, &payment_secret.0, |hash| {
            self.signer.sign(hash)
        });
        Ok(Invoice {
            bolt11,
            payment_hash: payment_hash.0,
            expires_at_secs: self.end_secs(terms.now_secs),
        })
    }

    /// The template for these terms.
    fn template(&self, terms: &Terms<'_>, hints: &[RouteHint]) -> Arc<Template> {
        // The list holds only whole templates, even after a panic of another thread.
        let mut templates = self
            .templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if templates.hints != hints {
            templates.known.clear();
            templates.hints = hints.to_vec();
        }
        let amount_msat = terms.amount.msat();
        let is_it = |(amount, description, _): &&(u64, String, Arc<Template>)| {
            *amount == amount_msat && *description == terms.description
        };
        if let Some((_, _, template)) = templates.known.iter().find(is_it) {
            return Arc::clone(template);
        }
        let bolt11 = self.write(terms, hints, [0; 32], PaymentSecret([0; 32]));
        let template = Template::of(&bolt11).expect("it was just written with both fields");
        let template = Arc::new(template);
        if templates.known.len() == TEMPLATES_MAX {
            templates.known.clear();
        }
        let entry = (
            amount_msat,
            terms.description.to_owned(),
            Arc::clone(&template),
        );
        templates.known.push(entry);
        template
    }

    /// Writes an invoice with `lightning-invoice`, signed with the `secp256k1` version that it
    /// uses.
    fn write(
        &self,
        terms: &Terms<'_>,
        hints: &[RouteHint],
        payment_hash: [u8; 32],
        payment_secret: PaymentSecret,
    ) -> String {
        let mut builder = InvoiceBuilder::new(self.currency.clone())
            .description(shortened(terms.description).to_owned())
            .duration_since_epoch(Duration::from_secs(terms.now_secs))
            .payment_hash(bitcoin::hashes::sha256::Hash::from_byte_array(payment_hash))
            .payment_secret(payment_secret)
            .basic_mpp()
            .min_final_cltv_expiry_delta(u64::from(MIN_FINAL_CLTV_EXPIRY_DELTA))
            .expiry_time(self.expiry)
            .amount_milli_satoshis(terms.amount.msat());
        for hint in hints {
            builder = builder.private_route(hint.clone());
        }
        let secp = Secp256k1::signing_only();
        let invoice = builder
            .build_signed(|hash| secp.sign_ecdsa_recoverable(hash, &self.keys.node_secret))
            .expect("every field is set once and within its bounds");
        invoice.to_string()
    }
}

/// The channels over which this amount can arrive.
fn payable(reach: &Reach, amount: Msat) -> Result<&Inbound, Unready> {
    match reach {
        Reach::Unready(reason) => Err(*reason),
        Reach::Ready(inbound) => {
            if inbound.takes(amount) {
                Ok(inbound)
            } else {
                Err(Unready::NoInboundCapacity)
            }
        }
    }
}

/// The beginning of the text that fits into an invoice, cut between characters.
pub(crate) fn shortened(description: &str) -> &str {
    let end = description.floor_char_boundary(DESCRIPTION_BYTES_MAX);
    &description[..end]
}

/// Gives LDK the random bytes that the caller drew.
struct Random([u8; 32]);

impl EntropySource for Random {
    fn get_secure_random_bytes(&self) -> [u8; 32] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lightning::routing::gossip::RoutingFees;
    use lightning::routing::router::RouteHintHop;
    use lightning_invoice::Bolt11Invoice;

    fn minter(reach: Reach) -> Minter {
        let keys = PaymentKeys::from_seed(&[7; 64], Network::Regtest).unwrap();
        Minter::new(
            keys,
            Network::Regtest,
            Duration::from_secs(600),
            watch::channel(reach).1,
        )
    }

    fn terms(msat: u64) -> Terms<'static> {
        Terms {
            amount: Msat::new(msat).unwrap(),
            description: "chain: any number of requests for 1 day",
            now_secs: 1_700_000_000,
            random: [3; 32],
        }
    }

    #[test]
    fn an_invoice_says_what_was_asked_and_is_signed_by_the_node() {
        let minter = minter(Reach::Ready(Inbound {
            capacity_msat: 50_000,
            ..Inbound::default()
        }));
        let minted = minter.mint(&terms(10_000)).unwrap();
        let invoice: Bolt11Invoice = minted.bolt11.parse().unwrap();
        assert_eq!(invoice.amount_milli_satoshis(), Some(10_000));
        assert_eq!(invoice.payment_hash().to_byte_array(), minted.payment_hash);
        assert_eq!(invoice.recover_payee_pub_key(), minter.keys.node_id());
        assert_eq!(invoice.expiry_time(), Duration::from_secs(600));
        assert_eq!(minted.expires_at_secs, 1_700_000_600);
        assert_eq!(minted.bolt11, minted.bolt11.to_lowercase());
        assert!(invoice.features().unwrap().supports_basic_mpp());
    }

    fn hint(number: u8) -> RouteHint {
        let secret = SecretKey::from_slice(&[number; 32]).unwrap();
        RouteHint(vec![RouteHintHop {
            src_node_id: secret.public_key(&Secp256k1::signing_only()),
            short_channel_id: u64::from(number) << 40,
            fees: RoutingFees {
                base_msat: u32::from(number),
                proportional_millionths: 100,
            },
            cltv_expiry_delta: 144,
            htlc_minimum_msat: None,
            htlc_maximum_msat: None,
        }])
    }

    proptest::proptest! {
        #[test]
        fn a_filled_in_invoice_is_the_one_that_the_library_writes(
            msat in 1..1_000_000_000_000_u64,
            description in "[ -~äöü€]{0,80}",
            now_secs in 1_600_000_000..4_000_000_000_u64,
            random: [u8; 32],
            hints in 0..4_u8,
        ) {
            let hints: Vec<_> = (1..=hints).map(hint).collect();
            let minter = minter(Reach::Ready(Inbound {
                capacity_msat: u64::MAX,
                htlc_minimum_msat: 0,
                hints: hints.clone(),
            }));
            let terms = Terms {
                amount: Msat::new(msat).unwrap(),
                description: &description,
                now_secs,
                random,
            };
            // The second invoice comes from a template that was made for another time and hash.
            minter.mint(&Terms { now_secs: 1_700_000_000, random: [1; 32], ..terms }).unwrap();
            let minted = minter.mint(&terms).unwrap();
            let invoice: Bolt11Invoice = minted.bolt11.parse().unwrap();
            let written = minter.write(&terms, &hints, minted.payment_hash, *invoice.payment_secret());
            proptest::prop_assert_eq!(minted.bolt11, written);
        }
    }

    #[test]
    fn an_invoice_names_the_channels_of_the_moment() {
        let (tell, reach) = watch::channel(Reach::Unready(Unready::Starting));
        let keys = PaymentKeys::from_seed(&[7; 64], Network::Regtest).unwrap();
        let minter = Minter::new(keys, Network::Regtest, Duration::from_secs(600), reach);
        for number in [1, 2, 1] {
            tell.send_replace(Reach::Ready(Inbound {
                capacity_msat: 50_000,
                htlc_minimum_msat: 0,
                hints: vec![hint(number)],
            }));
            let bolt11 = minter.mint(&terms(10_000)).unwrap().bolt11;
            let invoice: Bolt11Invoice = bolt11.parse().unwrap();
            assert_eq!(invoice.route_hints(), [hint(number)]);
        }
    }

    #[test]
    fn more_prices_than_templates_are_no_trouble() {
        let minter = minter(Reach::Ready(Inbound {
            capacity_msat: 50_000_000,
            ..Inbound::default()
        }));
        for msat in (1..200).chain(1..200) {
            let bolt11 = minter.mint(&terms(msat * 1_000)).unwrap().bolt11;
            let invoice: Bolt11Invoice = bolt11.parse().unwrap();
            assert_eq!(invoice.amount_milli_satoshis(), Some(msat * 1_000));
        }
        assert!(minter.templates.lock().unwrap().known.len() <= TEMPLATES_MAX);
    }

    #[test]
    fn no_invoice_for_what_cannot_arrive() {
        let ready = minter(Reach::Ready(Inbound {
            capacity_msat: 50_000,
            htlc_minimum_msat: 1_000,
            hints: vec![],
        }));
        assert!(ready.mint(&terms(50_000)).is_ok());
        assert_eq!(ready.mint(&terms(50_001)), Err(Unready::NoInboundCapacity));
        assert_eq!(ready.mint(&terms(999)), Err(Unready::NoInboundCapacity));
        let starting = minter(Reach::Unready(Unready::Starting));
        assert_eq!(starting.mint(&terms(1_000)), Err(Unready::Starting));
    }

    #[test]
    fn a_long_description_is_cut_between_characters() {
        let long = "ä".repeat(400);
        assert_eq!(shortened(&long).len(), 638);
        assert_eq!(shortened("short"), "short");
    }
}
