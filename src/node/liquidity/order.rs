//! Orders channels from a provider (LSPS1), and reports price, ways to pay and state of an order.

use std::sync::Arc;

use ldk_node::lightning_liquidity::lsps1::msgs::{LSPS1OrderId, LSPS1PaymentState};
use ldk_node::liquidity::LSPS1OrderStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::address;
use crate::node::error::NodeUnavailable;

use super::facet::Liquidity;

/// The default lifetime of an ordered channel: 13,000 blocks are about three months.
const EXPIRY_BLOCKS: u32 = 13_000;

/// The longest order id, in bytes, that is passed on to a provider. The ids seen so far have 36
/// bytes.
const ORDER_ID_BYTES_MAX: usize = 128;

/// An order for a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The amount that can arrive over the channel, in sat.
    pub lsp_balance_sat: u64,
    /// Our balance in the channel from the start, in sat. It is paid together with the order.
    #[serde(default)]
    pub client_balance_sat: u64,
    /// The number of blocks for which the provider keeps the channel open; three months by default.
    pub channel_expiry_blocks: Option<u32>,
    /// Whether the channel is announced to the network. The node then needs an alias and an
    /// address.
    #[serde(default)]
    pub announce_channel: bool,
}

/// An order and its state. ldk-node does not pass on the overall state that the provider reports.
/// Once the order has a channel, it is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderStatus {
    /// The provider's id of the order.
    pub order_id: String,
    /// The amount that will be able to arrive, in sat.
    pub lsp_balance_sat: u64,
    /// Our future balance in the channel, in sat.
    pub client_balance_sat: u64,
    /// The number of blocks for which the channel is kept open.
    pub channel_expiry_blocks: u32,
    /// Whether the channel will be announced.
    pub announce_channel: bool,
    /// The terms of a Lightning payment, if the provider accepts one.
    pub lightning: Option<LightningOption>,
    /// The terms of an on-chain payment, if the provider accepts one.
    pub onchain: Option<OnchainOption>,
    /// The channel, once it is funded.
    pub channel: Option<Channel>,
}

/// The terms of a Lightning payment for an order.
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
    /// The end of the time to pay, RFC 3339.
    pub expires_at: String,
}

/// The terms of an on-chain payment for an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OnchainOption {
    /// `expect_payment`, `paid` or `refunded`.
    pub state: String,
    /// What the provider takes for the channel, in sat.
    pub fee_total_sat: u64,
    /// What is to be paid in all, in sat.
    pub order_total_sat: u64,
    /// The address to pay to.
    pub address: String,
    /// The number of confirmations that the payment needs, if the provider names one.
    pub confirmations_min: Option<u16>,
    /// The end of the time to pay, RFC 3339.
    pub expires_at: String,
}

/// An ordered channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    /// The funding output of the channel, as `txid:index`.
    pub funding_outpoint: String,
    /// The time of the funding, RFC 3339.
    pub funded_at: String,
    /// The time until which the provider keeps the channel open, RFC 3339.
    pub expires_at: String,
}

/// The reasons why an order failed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// No provider is set.
    #[error("no provider that sells channels is set: name one as node.liquidity.order_provider")]
    NoProvider,
    /// The order asks for no inbound liquidity.
    #[error("a channel over which nothing can arrive is of no use: give lsp_balance_sat")]
    Nothing,
    /// The order id is empty or too long.
    #[error("an order's id has 1 to {ORDER_ID_BYTES_MAX} bytes")]
    NoId,
    /// The provider does not sell this, does not answer, or does not know the order.
    #[error(
        "the provider did not take it: it sells no channel of this size, knows no such order, or did not answer within 5 seconds. \
         The log says more"
    )]
    Refused,
    /// The provider cannot be reached.
    #[error(
        "the provider cannot be reached: is its address right, and does this machine let connections out?"
    )]
    Unreachable,
    /// The provider's answer differs from the order.
    #[error("the provider answered with another order than was asked for ({0}): do not pay for it")]
    Another(&'static str),
    /// The node is unavailable.
    #[error(transparent)]
    Node(#[from] NodeUnavailable),
}

impl Liquidity {
    /// Orders a channel from the provider. Pays nothing: the answer tells the price and the ways to
    /// pay.
    pub async fn order_channel(&self, order: Order) -> Result<OrderStatus, OrderError> {
        if order.lsp_balance_sat == 0 {
            return Err(OrderError::Nothing);
        }
        let expiry_blocks = order.channel_expiry_blocks.unwrap_or(EXPIRY_BLOCKS);
        let asked = order.clone();
        let asking = self.with_seller(move |node| {
            node.lsps1_liquidity().request_channel(
                asked.lsp_balance_sat,
                asked.client_balance_sat,
                expiry_blocks,
                asked.announce_channel,
            )
        });
        let status = asking.await?;
        status.is_of(&order, expiry_blocks)?;
        Ok(status)
    }

    /// Asks the provider for the state of an order.
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
        if self.core.config.liquidity.order_provider.is_none() {
            return Err(OrderError::NoProvider);
        }
        let node = self.core.running()?;
        let node = Arc::clone(&node);
        let (folder, relay) = (self.core.config.folder.clone(), self.chain.relay().cloned());
        let asked = tokio::task::spawn_blocking(move || {
            let status = ask(&node)?;
            let onchain = status.payment_options.onchain.as_ref();
            if let Some(refund) = onchain.and_then(|it| it.refund_onchain_address.as_ref()) {
                address::given(&folder, relay.as_deref(), refund);
            }
            Ok(status)
        });
        let asked = asked.await;
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
        let order_id = order_id.0;
        let balance_sat = order_params.client_balance_sat;
        // The displayed amount must be the amount that is paid. An option whose amounts disagree is
        // left out.
        let bolt11 = payment_options.bolt11.filter(|option| {
            let price = Price {
                fee_sat: option.fee_total_sat,
                balance_sat,
                total_sat: option.order_total_sat,
            };
            let invoice_msat = option.invoice.amount_milli_satoshis();
            let asks_for_it =
                invoice_msat.is_some_and(|msat| price.total_sat.checked_mul(1_000) == Some(msat));
            (price.is_sound() && asks_for_it) || is_warned_of(&order_id, "over Lightning")
        });
        let onchain = payment_options.onchain.filter(|option| {
            let price = Price {
                fee_sat: option.fee_total_sat,
                balance_sat,
                total_sat: option.order_total_sat,
            };
            price.is_sound() || is_warned_of(&order_id, "on chain")
        });
        Self {
            order_id,
            lsp_balance_sat: order_params.lsp_balance_sat,
            client_balance_sat: order_params.client_balance_sat,
            channel_expiry_blocks: order_params.channel_expiry_blocks,
            announce_channel: order_params.announce_channel,
            lightning: bolt11.map(|option| LightningOption {
                state: state(&option.state),
                fee_total_sat: option.fee_total_sat,
                order_total_sat: option.order_total_sat,
                bolt11: option.invoice.to_string(),
                expires_at: option.expires_at.to_rfc3339(),
            }),
            onchain: onchain.map(|option| OnchainOption {
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

impl OrderStatus {
    /// Checks that the provider sells what was ordered. The provider may give more than that.
    fn is_of(&self, order: &Order, expiry_blocks: u32) -> Result<(), OrderError> {
        let wrong = if self.lsp_balance_sat < order.lsp_balance_sat {
            "less can arrive over the channel"
        } else if self.client_balance_sat != order.client_balance_sat {
            "another part of the channel is ours"
        } else if self.channel_expiry_blocks < expiry_blocks {
            "it is kept open for a shorter time"
        } else if self.announce_channel != order.announce_channel {
            "the channel is announced, or is not"
        } else {
            return Ok(());
        };
        Err(OrderError::Another(wrong))
    }
}

/// The price for one way to pay.
struct Price {
    fee_sat: u64,
    /// Our balance in the channel, which is paid together with the fee.
    balance_sat: u64,
    total_sat: u64,
}

impl Price {
    /// Whether the parts add up to the total (LSPS1: "MUST be the `fee_total_sat` plus the
    /// `client_balance_sat`").
    fn is_sound(&self) -> bool {
        self.fee_sat.checked_add(self.balance_sat) == Some(self.total_sat)
    }
}

/// Logs that a way to pay is left out. Returns `false`, for use in a filter.
fn is_warned_of(order_id: &str, way: &str) -> bool {
    tracing::warn!(
        "The provider's price of order {order_id:?} {way} does not add up, so that way to pay is not shown: its total is not the \
         fee and what is ours in the channel, or its invoice asks for something else"
    );
    false
}

fn state(state: &LSPS1PaymentState) -> String {
    match state {
        LSPS1PaymentState::ExpectPayment => "expect_payment",
        LSPS1PaymentState::Paid => "paid",
        LSPS1PaymentState::Refunded => "refunded",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::{Hash as _, sha256};
    use bitcoin::secp256k1::{Secp256k1, SecretKey};
    use ldk_node::lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
    use serde_json::json;

    use super::*;

    /// An invoice of this amount, or without an amount.
    fn invoice(amount_msat: Option<u64>) -> String {
        let secret = SecretKey::from_slice(&[7; 32]).unwrap();
        let secp = Secp256k1::new();
        let builder = InvoiceBuilder::new(Currency::Regtest)
            .description("a channel".to_owned())
            .payment_hash(sha256::Hash::from_byte_array([3; 32]))
            .payment_secret(PaymentSecret([4; 32]))
            .duration_since_epoch(std::time::Duration::from_secs(1_000))
            .min_final_cltv_expiry_delta(42);
        let builder = match amount_msat {
            Some(msat) => builder.amount_milli_satoshis(msat),
            None => builder,
        };
        let invoice = builder.build_signed(|message| secp.sign_ecdsa_recoverable(message, &secret));
        invoice.unwrap().to_string()
    }

    /// The provider's answer to an order with 500 sat for our side.
    fn said(fee_sat: u64, total_sat: u64, bolt11: &str) -> OrderStatus {
        let price = json!({
            "state": "EXPECT_PAYMENT",
            "expires_at": "2100-01-01T00:00:00Z",
            "fee_total_sat": fee_sat.to_string(),
            "order_total_sat": total_sat.to_string(),
        });
        let (mut lightning, mut onchain) = (price.clone(), price);
        lightning["invoice"] = json!(bolt11);
        onchain["address"] = json!("bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080");
        onchain["min_onchain_payment_confirmations"] = json!(1);
        onchain["min_fee_for_0conf"] = json!(253);
        let params = json!({
            "lsp_balance_sat": "1000000",
            "client_balance_sat": "500",
            "required_channel_confirmations": 0,
            "funding_confirms_within_blocks": 6,
            "channel_expiry_blocks": 13_000,
            "token": "",
            "announce_channel": false,
        });
        let payment = json!({ "bolt11": lightning, "onchain": onchain });
        OrderStatus::from(LSPS1OrderStatus {
            order_id: LSPS1OrderId("order-1".to_owned()),
            order_params: serde_json::from_value(params).unwrap(),
            payment_options: serde_json::from_value(payment).unwrap(),
            channel_state: None,
        })
    }

    #[test]
    fn a_way_to_pay_that_asks_for_something_else_than_it_says_is_not_shown() {
        let honest = said(1_500, 2_000, &invoice(Some(2_000_000)));
        assert!(honest.lightning.is_some() && honest.onchain.is_some());
        for (amount_msat, why) in [
            (Some(900_000_000), "more than the total"),
            (Some(2_000_001), "a little more"),
            (Some(1_999_999), "less, which would not pay for it"),
            (None, "whatever the payer likes"),
        ] {
            let order = said(1_500, 2_000, &invoice(amount_msat));
            assert!(order.lightning.is_none(), "{why}");
            assert!(order.onchain.is_some(), "{why}: that one is sound");
        }
        for (fee_sat, total_sat) in [
            (1_500, 1_500),
            (1_500, 900_000),
            (2_001, 2_000),
            (u64::MAX, 499),
        ] {
            let order = said(fee_sat, total_sat, &invoice(Some(total_sat * 1_000)));
            assert!(order.lightning.is_none(), "{fee_sat} of {total_sat}");
            assert!(order.onchain.is_none(), "{fee_sat} of {total_sat}");
        }
    }

    #[test]
    fn an_order_that_is_not_the_one_that_was_asked_for_is_refused() {
        let made = said(1_500, 2_000, &invoice(Some(2_000_000)));
        let asked = Order {
            lsp_balance_sat: 1_000_000,
            client_balance_sat: 500,
            channel_expiry_blocks: None,
            announce_channel: false,
        };
        made.is_of(&asked, 13_000).unwrap();
        let more = Order {
            lsp_balance_sat: 1_000_001,
            ..asked.clone()
        };
        let announced = Order {
            announce_channel: true,
            ..asked.clone()
        };
        let ours = Order {
            client_balance_sat: 501,
            ..asked.clone()
        };
        for (order, blocks) in [
            (&more, 13_000),
            (&announced, 13_000),
            (&ours, 13_000),
            (&asked, 13_001),
        ] {
            assert!(made.is_of(order, blocks).is_err(), "{order:?}, {blocks}");
        }
    }
}
