//! Buying a channel from a provider (LSPS1): an order, what it costs and how it is paid for, and what became of it.

use std::sync::Arc;

use ldk_node::lightning_liquidity::lsps1::msgs::{LSPS1OrderId, LSPS1PaymentState};
use ldk_node::liquidity::LSPS1OrderStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{Node, NodeUnavailable};

/// How long a channel is paid for, if nobody says otherwise: 13,000 blocks are some three months.
const EXPIRY_BLOCKS: u32 = 13_000;

/// The longest id of an order that is passed on to a provider. Those seen have 36 bytes.
const ORDER_ID_BYTES_MAX: usize = 128;

/// What is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What can arrive over the channel, in sat.
    pub lsp_balance_sat: u64,
    /// What is ours in it from the start, in sat; it is paid for together with the order.
    #[serde(default)]
    pub client_balance_sat: u64,
    /// For how many blocks the provider keeps it open; three months if left out.
    pub channel_expiry_blocks: Option<u32>,
    /// Whether it is announced to the network, which wants an alias and an address of ours.
    #[serde(default)]
    pub announce_channel: bool,
}

/// An order, and how far it is. ldk-node does not pass on the provider's word for the state of the whole; a channel that is
/// there says that it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderStatus {
    /// What the provider calls it.
    pub order_id: String,
    /// What will be able to arrive, in sat.
    pub lsp_balance_sat: u64,
    /// What will be ours in it, in sat.
    pub client_balance_sat: u64,
    /// For how many blocks it is kept open.
    pub channel_expiry_blocks: u32,
    /// Whether it will be announced.
    pub announce_channel: bool,
    /// How to pay over Lightning, if the provider takes that.
    pub lightning: Option<LightningOption>,
    /// How to pay on chain, if the provider takes that.
    pub onchain: Option<OnchainOption>,
    /// The channel, once it is funded.
    pub channel: Option<Channel>,
}

/// Paying for an order over Lightning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LightningOption {
    /// `expect_payment`, `paid` or `refunded`.
    pub state: String,
    /// What the provider takes for the channel, in sat.
    pub fee_total_sat: u64,
    /// What is to be paid in all, in sat.
    pub order_total_sat: u64,
    /// The invoice.
    pub bolt11: String,
    /// Until when, RFC 3339.
    pub expires_at: String,
}

/// Paying for an order on chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OnchainOption {
    /// `expect_payment`, `paid` or `refunded`.
    pub state: String,
    /// What the provider takes for the channel, in sat.
    pub fee_total_sat: u64,
    /// What is to be paid in all, in sat.
    pub order_total_sat: u64,
    /// Where to.
    pub address: String,
    /// How many confirmations the payment wants, if the provider says so.
    pub confirmations_min: Option<u16>,
    /// Until when, RFC 3339.
    pub expires_at: String,
}

/// A channel that was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    /// Its funding, as `txid:index`.
    pub funding_outpoint: String,
    /// When it was funded, RFC 3339.
    pub funded_at: String,
    /// Until when the provider keeps it open, RFC 3339.
    pub expires_at: String,
}

/// Why there is no order.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// None is set.
    #[error("no provider that sells channels is set: name one as node.liquidity.order_provider")]
    NoProvider,
    /// Nothing is asked for.
    #[error("a channel over which nothing can arrive is of no use: give lsp_balance_sat")]
    Nothing,
    /// No id of any provider's.
    #[error("an order's id has 1 to {ORDER_ID_BYTES_MAX} bytes")]
    NoId,
    /// It does not sell this, does not answer, or does not know of it.
    #[error(
        "the provider did not take it: it sells no channel of this size, knows no such order, or did not answer within 5 seconds. \
         The log says more"
    )]
    Refused,
    /// Nobody answers there.
    #[error(
        "the provider cannot be reached: is its address right, and does this machine let connections out?"
    )]
    Unreachable,
    /// The node.
    #[error(transparent)]
    Node(#[from] NodeUnavailable),
}

impl Node {
    /// Orders a channel. Nothing is paid: the answer says how much it costs and where to pay. Talks to the provider.
    pub async fn order_channel(&self, order: Order) -> Result<OrderStatus, OrderError> {
        if order.lsp_balance_sat == 0 {
            return Err(OrderError::Nothing);
        }
        self.with_seller(move |node| {
            node.lsps1_liquidity().request_channel(
                order.lsp_balance_sat,
                order.client_balance_sat,
                order.channel_expiry_blocks.unwrap_or(EXPIRY_BLOCKS),
                order.announce_channel,
            )
        })
        .await
    }

    /// How far an order is. Asks the provider.
    pub async fn order_status(&self, order_id: String) -> Result<OrderStatus, OrderError> {
        if !(1..=ORDER_ID_BYTES_MAX).contains(&order_id.len()) {
            return Err(OrderError::NoId);
        }
        self.with_seller(move |node| {
            let order_id = LSPS1OrderId(order_id);
            node.lsps1_liquidity().check_order_status(order_id)
        })
        .await
    }

    async fn with_seller(
        &self,
        ask: impl FnOnce(&ldk_node::Node) -> Result<LSPS1OrderStatus, ldk_node::NodeError>
        + Send
        + 'static,
    ) -> Result<OrderStatus, OrderError> {
        if self.config.liquidity.order_provider.is_none() {
            return Err(OrderError::NoProvider);
        }
        let node = self.running()?;
        let node = Arc::clone(&node);
        let asked = tokio::task::spawn_blocking(move || ask(&node)).await;
        match asked.map_err(NodeUnavailable::Panicked)? {
            Ok(status) => Ok(OrderStatus::from(status)),
            Err(ldk_node::NodeError::LiquidityRequestFailed) => Err(OrderError::Refused),
            Err(ldk_node::NodeError::ConnectionFailed) => Err(OrderError::Unreachable),
            Err(error) => Err(OrderError::Node(NodeUnavailable::Refused(error))),
        }
    }
}

impl From<LSPS1OrderStatus> for OrderStatus {
    fn from(status: LSPS1OrderStatus) -> Self {
        let LSPS1OrderStatus {
            order_id,
            order_params,
            payment_options,
            channel_state,
        } = status;
        Self {
            order_id: order_id.0,
            lsp_balance_sat: order_params.lsp_balance_sat,
            client_balance_sat: order_params.client_balance_sat,
            channel_expiry_blocks: order_params.channel_expiry_blocks,
            announce_channel: order_params.announce_channel,
            lightning: payment_options.bolt11.map(|option| LightningOption {
                state: state(&option.state),
                fee_total_sat: option.fee_total_sat,
                order_total_sat: option.order_total_sat,
                bolt11: option.invoice.to_string(),
                expires_at: option.expires_at.to_rfc3339(),
            }),
            onchain: payment_options.onchain.map(|option| OnchainOption {
                state: state(&option.state),
                fee_total_sat: option.fee_total_sat,
                order_total_sat: option.order_total_sat,
                address: option.address.to_string(),
                confirmations_min: option.min_onchain_payment_confirmations,
                expires_at: option.expires_at.to_rfc3339(),
            }),
            channel: channel_state.map(|channel| Channel {
                funding_outpoint: channel.funding_outpoint.to_string(),
                funded_at: channel.funded_at.to_rfc3339(),
                expires_at: channel.expires_at.to_rfc3339(),
            }),
        }
    }
}

fn state(state: &LSPS1PaymentState) -> String {
    match state {
        LSPS1PaymentState::ExpectPayment => "expect_payment",
        LSPS1PaymentState::Paid => "paid",
        LSPS1PaymentState::Refunded => "refunded",
    }
    .to_owned()
}
