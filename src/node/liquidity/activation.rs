//! Activation invoices: a provider opens a channel out of the payment (LSPS2).

use std::sync::Arc;

use bitcoin::hashes::Hash as _;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use ldk_node::payment::PaymentKind;

use crate::account::ledger::record::{ActivationRecord, BundleRecord};
use crate::account::ledger::{Arrived, Ledger, LedgerError};
use crate::base::amount::Msat;
use crate::node::error::NodeUnavailable;
use crate::protocol::invoice::{Reach, Unready, shortened};

use super::facet::Liquidity;
use super::settings::{Config, Provider};

/// The time in seconds in which an activation invoice can be paid, so that the operator finds a
/// payer. The time is not longer, because the node does not know how long the provider's fee is
/// valid. A later payment is refused, and the payer keeps the money.
const INVOICE_EXPIRY_SECS: u32 = 3_600;

/// The description that the payer sees.
const DESCRIPTION: &str = "The first payment, which opens a channel";

/// The terms of an activation invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The amount that the customer pays.
    pub amount: Msat,
    /// The bundle that the customer buys, and its description on the invoice.
    pub bundle: Option<(BundleRecord, String)>,
}

/// The reasons why no activation invoice was made.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// No provider is set.
    #[error("no liquidity provider is set: name one as node.liquidity.provider")]
    NoProvider,
    /// The channel would be too small to work.
    #[error(
        "{amount} is too little: a channel made out of less than {least} could not take its own first payment. Ask for {least} or more"
    )]
    TooSmall {
        /// The requested amount.
        amount: Msat,
        /// The least amount that works with the fee ceiling.
        least: Msat,
    },
    /// The provider asks for more than the operator's fee ceiling.
    #[error(
        "the provider asks more than {ceiling} for the channel, so there is no invoice: raise node.liquidity.fee_max, or ask for a \
         larger amount. What it asked is in the log"
    )]
    FeeTooHigh {
        /// The ceiling for this amount.
        ceiling: Msat,
    },
    /// The provider does not accept this amount, does not answer, or refuses this node.
    #[error(
        "the provider made no offer for {amount}: it takes no payment of this size, or wants a token, or has too many of our invoices that \
         nobody has paid (with many providers ten in a day), or did not answer within 5 seconds. The log says more; its limits are \
         known only to itself"
    )]
    NoOffer {
        /// The requested amount.
        amount: Msat,
    },
    /// The node has not seen the chain for too long.
    #[error(
        "the node has not seen the chain for too long, so what is made now might not be taken when it is paid: is its chain source \
         reachable?"
    )]
    Behind,
    /// The provider cannot be reached.
    #[error(
        "the provider cannot be reached at {address}: is that its address, and does this machine let connections out?"
    )]
    Unreachable {
        /// The provider's address.
        address: String,
    },
    /// The invoice was made, but the node does not report the fee.
    #[error("the node does not tell the provider's fee: the invoice is thrown away")]
    NoFee,
    /// The node is unavailable.
    #[error(transparent)]
    Node(#[from] NodeUnavailable),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Liquidity {
    /// Makes an invoice of this fixed amount. When it is paid, the provider opens a channel, keeps
    /// its fee and forwards the rest. The invoice is in the ledger before it is returned. The call
    /// to the provider takes up to twenty seconds.
    pub async fn activate(
        &self,
        ledger: &Arc<Ledger>,
        activation: Activation,
    ) -> Result<ActivationRecord, ActivateError> {
        let amount = activation.amount;
        let config = &self.core.config.liquidity;
        let provider = config.provider.clone().ok_or(ActivateError::NoProvider)?;
        let (least, ceiling) = (config.least(), config.ceiling(amount));
        if amount < least {
            return Err(ActivateError::TooSmall { amount, least });
        }
        self.core.uses_channels()?;
        let node = self.core.running()?;
        if *self.reach.now() == Reach::Unready(Unready::Behind) {
            return Err(ActivateError::Behind);
        }
        let drops_old = self.chain.is_clock_believed();
        let (ledger, made_ms) = (Arc::clone(ledger), self.core.clock.unix_ms());
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
                    // This invoice can no longer be paid, and the node would keep its record
                    // forever.
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
    // The amount is always fixed, because LDK had a bug in the fee of invoices that leave it open.
    node.bolt11_payment().receive_via_jit_channel(
        amount.msat(),
        &Bolt11InvoiceDescription::Direct(description),
        INVOICE_EXPIRY_SECS,
        Some(ceiling.msat()),
    )
}

/// The provider's fee, which the node records as the most that the provider may keep.
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

/// Whether the provider is connected. A payment that opens a channel can arrive only then.
pub(in crate::node) fn is_provider_here(peers: &[ldk_node::PeerDetails], config: &Config) -> bool {
    config.provider.as_ref().is_some_and(|provider| {
        let is_it = |peer: &ldk_node::PeerDetails| peer.node_id == provider.node_id;
        peers.iter().any(|peer| is_it(peer) && peer.is_connected)
    })
}

/// The amounts of a payment that opened a channel; `None` for other payments. The node keeps a
/// record of a payment that opened a channel.
pub(in crate::node) fn arrived(
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
