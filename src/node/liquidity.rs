//! Inbound liquidity for those who have none: a provider opens a channel out of the first payment over it (LSPS2), or sells
//! one (LSPS1). A challenge never waits for a call to a provider: the operator causes it, or has a bundle kept ready.

mod order;
mod settings;
mod terms;

use std::sync::Arc;

use bitcoin::hashes::Hash as _;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use ldk_node::payment::PaymentKind;

pub use order::{Channel, LightningOption, OnchainOption, Order, OrderError, OrderStatus};
pub use settings::{Config, KeptReady, NotAProvider, Provider, Token};
pub(super) use settings::{anchors, configure};
pub use terms::{ProviderTerms, Terms};

use crate::account::ledger::record::{ActivationRecord, BundleRecord};
use crate::account::ledger::{Arrived, Ledger, LedgerError};
use crate::base::amount::Msat;
use crate::protocol::invoice::{Reach, Unready, shortened};

use super::{Node, NodeUnavailable};

/// How long an activation invoice can be paid: the operator has to find somebody who pays it. Not longer, because until
/// when the provider stands by its fee is not known to us; whoever pays after that has the payment refused, and keeps the money.
const INVOICE_EXPIRY_SECS: u32 = 3_600;

/// What the payer is shown.
const DESCRIPTION: &str = "The first payment, which opens a channel";

/// What must be left of an activation to make a channel over which the payment itself arrives. The channel's opener keeps a
/// reserve of 1,000 sat, 660 sat in anchors and, at the lowest fee rates, some 750 sat for the fee of its closing: 2,400 sat,
/// which must fit into the tenth that a provider makes the channel larger than the payment. Smaller channels were seen to
/// open, and to fail their first payment.
const NET_MIN: Msat = Msat::from_sat(24_000).expect("it is less than all bitcoin");

/// What an activation invoice is to be made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// What the customer pays.
    pub amount: Msat,
    /// What is bought with it, and what the invoice says of that.
    pub bundle: Option<(BundleRecord, String)>,
}

/// Why no activation invoice was made.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// None is set.
    #[error("no liquidity provider is set: name one as node.liquidity.provider")]
    NoProvider,
    /// The channel would be too small to work.
    #[error(
        "{amount} is too little: a channel made out of less than {least} could not take its own first payment. Ask for {least} or more"
    )]
    TooSmall {
        /// What was asked for.
        amount: Msat,
        /// The least that works with the ceiling on the fee.
        least: Msat,
    },
    /// More than the operator lets it take.
    #[error(
        "the provider asks more than {ceiling} for the channel, so there is no invoice: raise node.liquidity.fee_max, or ask for a \
         larger amount. What it asked is in the log"
    )]
    FeeTooHigh {
        /// The ceiling for this amount.
        ceiling: Msat,
    },
    /// It does not take this amount, does not answer, or does not want us.
    #[error(
        "the provider made no offer for {amount}: it takes no payment of this size, or wants a token, or has too many of our invoices that \
         nobody has paid (with many providers ten in a day), or did not answer within 5 seconds. The log says more; its limits are \
         known only to itself"
    )]
    NoOffer {
        /// What was asked for.
        amount: Msat,
    },
    /// The node does not see the chain.
    #[error(
        "the node has not seen the chain for too long, so what is made now might not be taken when it is paid: is its chain source \
         reachable?"
    )]
    Behind,
    /// Nobody answers there.
    #[error(
        "the provider cannot be reached at {address}: is that its address, and does this machine let connections out?"
    )]
    Unreachable {
        /// Where it should be.
        address: String,
    },
    /// The invoice is there and the node does not say what it costs.
    #[error("the node does not tell the provider's fee: the invoice is thrown away")]
    NoFee,
    /// The node.
    #[error(transparent)]
    Node(#[from] NodeUnavailable),
    /// The books.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Node {
    /// Makes an invoice of this fixed amount; when it is paid, the provider opens a channel, keeps its fee and passes on the
    /// rest. It is in the books before it is returned. Talks to the provider: up to twenty seconds.
    pub async fn activate(
        &self,
        ledger: &Arc<Ledger>,
        activation: Activation,
    ) -> Result<ActivationRecord, ActivateError> {
        let amount = activation.amount;
        let config = &self.config.liquidity;
        let provider = config.provider.clone().ok_or(ActivateError::NoProvider)?;
        let (least, ceiling) = (config.least(), config.ceiling(amount));
        if amount < least {
            return Err(ActivateError::TooSmall { amount, least });
        }
        self.uses_channels()?;
        let node = self.running()?;
        if *self.reach.borrow() == Reach::Unready(Unready::Behind) {
            return Err(ActivateError::Behind);
        }
        let drops_old = self.is_clock_believed();
        let (ledger, made_ms) = (Arc::clone(ledger), self.clock.unix_ms());
        let making = tokio::task::spawn_blocking(move || {
            let (bundle, description) = activation.bundle.unzip();
            let description = description.as_deref().unwrap_or(DESCRIPTION);
            let invoice = ask(&node, amount, ceiling, description)
                .map_err(|error| refused(error, amount, ceiling, &provider))?;
            let fee = fee_of(&node, &invoice).ok_or(ActivateError::NoFee)?;
            let net_msat = amount.msat().saturating_sub(fee);
            if fee > ceiling.msat() || net_msat == 0 {
                return Err(ActivateError::FeeTooHigh { ceiling });
            }
            let activation = ActivationRecord {
                payment_hash: invoice.payment_hash().to_byte_array(),
                gross_msat: amount.msat(),
                fee_msat: fee,
                net_msat,
                provider: provider.node_id.to_string(),
                bolt11: invoice.to_string(),
                made_ms,
                expires_ms: made_ms + u64::from(INVOICE_EXPIRY_SECS) * 1_000,
                settled_ms: None,
                bundle,
            };
            ledger.open_activation(&activation)?;
            if drops_old {
                for unpaid in ledger.drop_unpaid_activations()? {
                    // Nobody can pay it any more, and the node would keep it for ever.
                    let _ = node.remove_payment(&PaymentId(unpaid));
                }
            }
            tracing::info!(
                payment.hash = hex::encode(activation.payment_hash),
                "Made an activation invoice of {amount}: the provider keeps {fee} msat, {net_msat} msat will arrive"
            );
            Ok(activation)
        });
        making
            .await
            .map_err(|panicked| ActivateError::Node(NodeUnavailable::Panicked(panicked)))?
    }
}

fn ask(
    node: &ldk_node::Node,
    amount: Msat,
    ceiling: Msat,
    description: &str,
) -> Result<Bolt11Invoice, ldk_node::NodeError> {
    let description = Description::new(shortened(description).to_owned())
        .expect("the description is no longer than an invoice's field");
    // A fixed amount only: LDK had a mistake in the fee of those that leave it open.
    node.bolt11_payment().receive_via_jit_channel(
        amount.msat(),
        &Bolt11InvoiceDescription::Direct(description),
        INVOICE_EXPIRY_SECS,
        Some(ceiling.msat()),
    )
}

/// What the provider asked, which the node notes as the most that it lets it take.
fn fee_of(node: &ldk_node::Node, invoice: &Bolt11Invoice) -> Option<u64> {
    let payment = node.payment(&PaymentId(invoice.payment_hash().to_byte_array()))?;
    if let PaymentKind::Bolt11Jit { lsp_fee_limits, .. } = payment.kind {
        lsp_fee_limits.max_total_opening_fee_msat
    } else {
        None
    }
}

fn refused(
    error: ldk_node::NodeError,
    amount: Msat,
    ceiling: Msat,
    provider: &Provider,
) -> ActivateError {
    use ldk_node::NodeError as E;
    if matches!(error, E::LiquidityFeeTooHigh) {
        ActivateError::FeeTooHigh { ceiling }
    } else if matches!(error, E::LiquidityRequestFailed) {
        ActivateError::NoOffer { amount }
    } else if matches!(error, E::ConnectionFailed) {
        let address = provider.address.to_string();
        ActivateError::Unreachable { address }
    } else {
        ActivateError::Node(NodeUnavailable::Refused(error))
    }
}

/// Whether the provider is connected: a payment that opens a channel arrives at no other time.
pub(super) fn is_provider_here(peers: &[ldk_node::PeerDetails], config: &Config) -> bool {
    config.provider.as_ref().is_some_and(|provider| {
        let is_it = |peer: &ldk_node::PeerDetails| peer.node_id == provider.node_id;
        peers.iter().any(|peer| is_it(peer) && peer.is_connected)
    })
}

/// What came of a payment that opened a channel, if it is one: the node keeps a record of those.
pub(super) fn arrived(
    kind: &PaymentKind,
    payment_hash: [u8; 32],
    net_msat: u64,
    config: &Config,
) -> Option<Arrived> {
    let PaymentKind::Bolt11Jit {
        counterparty_skimmed_fee_msat,
        ..
    } = kind
    else {
        return None;
    };
    let provider = config.provider.as_ref();
    Some(Arrived {
        payment_hash,
        net_msat,
        fee_msat: counterparty_skimmed_fee_msat.unwrap_or(0),
        provider: provider.map_or_else(String::new, |it| it.node_id.to_string()),
    })
}
