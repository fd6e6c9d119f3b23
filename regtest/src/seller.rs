//! Somebody who sells channels (LSPS1): a Lightning peer that speaks that protocol and nothing else. It makes orders with real
//! invoices and addresses and never opens a channel: a test says when one would be there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::secp256k1::{PublicKey, Secp256k1, SecretKey};
use bitcoin::{Address, CompressedPublicKey, Network};
use ldk_node::lightning::ln::msgs::{DecodeError, Init, LightningError};
use ldk_node::lightning::ln::peer_handler::{
    CustomMessageHandler, ErroringMessageHandler, IgnoringMessageHandler, MessageHandler,
    PeerManager,
};
use ldk_node::lightning::ln::wire::CustomMessageReader;
use ldk_node::lightning::sign::KeysManager;
use ldk_node::lightning::types::features::{InitFeatures, NodeFeatures};
use ldk_node::lightning::util::logger::{Logger, Record};
use ldk_node::lightning::util::ser::{LengthLimitedRead, LengthReadable as _};
use ldk_node::lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use ldk_node::lightning_liquidity::lsps0::ser::{LSPS_MESSAGE_TYPE_ID, RawLSPSMessage};
use lightning_net_tokio::{SocketDescriptor, setup_inbound};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::parent;
use crate::payer::Peer;
use crate::port;

/// What a channel costs, whatever its size.
pub const FEE_SAT: u64 = 1_500;
/// The largest channel that is sold.
pub const CHANNEL_SAT_MAX: u64 = 10_000_000;
/// How long the runtime's tasks may take to end.
const RUNTIME_STOP: Duration = Duration::from_secs(2);
/// When everything expires: a time that no test reaches.
const EXPIRES_AT: &str = "2100-01-01T00:00:00Z";

/// A running seller; dropping it closes its port.
#[derive(Debug)]
pub struct Seller {
    address: SocketAddr,
    desk: Arc<Desk>,
    runtime: Option<Runtime>,
}

/// Where orders are made.
struct Desk {
    secret: SecretKey,
    /// By their ids, as they are answered.
    orders: Mutex<HashMap<String, Value>>,
    /// What is to be sent.
    replies: Mutex<Vec<(PublicKey, RawLSPSMessage)>>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// A peer's log is nobody's business in a test.
struct Silent;

impl Logger for Silent {
    fn log(&self, _: Record<'_>) {}
}

/// A peer that knows no channels, no gossip and no onions.
type Peers = PeerManager<
    SocketDescriptor,
    Arc<ErroringMessageHandler>,
    Arc<IgnoringMessageHandler>,
    Arc<IgnoringMessageHandler>,
    Arc<Silent>,
    Arc<Desk>,
    Arc<KeysManager>,
    Arc<IgnoringMessageHandler>,
>;

impl Seller {
    /// Starts to listen.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> Result<Self> {
        let address = port::free()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("seller")
            .enable_all()
            .build()
            .context("failed to build the seller's runtime")?;
        let keys = Arc::new(KeysManager::new(&[7; 32], 0, 0, true));
        let desk = Arc::new(Desk {
            secret: keys.get_node_secret_key(),
            orders: Mutex::default(),
            replies: Mutex::default(),
        });
        let handlers = MessageHandler {
            chan_handler: Arc::new(ErroringMessageHandler::new()),
            route_handler: Arc::new(IgnoringMessageHandler {}),
            onion_message_handler: Arc::new(IgnoringMessageHandler {}),
            custom_message_handler: Arc::clone(&desk),
            send_only_message_handler: Arc::new(IgnoringMessageHandler {}),
        };
        let peers = Arc::new(Peers::new(handlers, 0, &[9; 32], Arc::new(Silent), keys));
        let listener = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .context("failed to listen")?;
        let listener = {
            let _of_its_own = runtime.enter();
            TcpListener::from_std(listener).context("failed to listen")?
        };
        let connections = runtime.handle().clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = stream.into_std() {
                    connections.spawn(setup_inbound(Arc::clone(&peers), stream));
                }
            }
        });
        Ok(Self {
            address,
            desk,
            runtime: Some(runtime),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer {
            node_id: self.desk.secret.public_key(&Secp256k1::new()),
            address: self.address,
        }
    }

    /// Notes that an order was paid and its channel funded by this output (`txid:index`).
    ///
    /// # Errors
    /// When there is no such order.
    pub fn fund(&self, order_id: &str, outpoint: &str) -> Result<()> {
        let mut orders = held(&self.desk.orders);
        let order = orders.get_mut(order_id).context("there is no such order")?;
        order["order_state"] = json!("COMPLETED");
        order["payment"]["bolt11"]["state"] = json!("PAID");
        order["channel"] = json!({
            "funded_at": EXPIRES_AT,
            "funding_outpoint": outpoint,
            "expires_at": EXPIRES_AT,
        });
        Ok(())
    }
}

impl Drop for Seller {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            parent::off_runtime(|| runtime.shutdown_timeout(RUNTIME_STOP));
        }
    }
}

/// What a `std` mutex holds, for a look-up and never across an await.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// The result of a call, or what is wrong with it.
    fn answer(&self, method: &str, params: &Value) -> Result<Value, Value> {
        match method {
            "lsps1.get_info" => Ok(json!({
                "min_required_channel_confirmations": 0,
                "min_funding_confirms_within_blocks": 6,
                "supports_zero_channel_reserve": true,
                "max_channel_expiry_blocks": 20_160,
                "min_initial_client_balance_sat": "0",
                "max_initial_client_balance_sat": "100000",
                "min_initial_lsp_balance_sat": "20000",
                "max_initial_lsp_balance_sat": CHANNEL_SAT_MAX.to_string(),
                "min_channel_balance_sat": "20000",
                "max_channel_balance_sat": CHANNEL_SAT_MAX.to_string(),
            })),
            "lsps1.create_order" => Ok(self.order(params)),
            "lsps1.get_order" => {
                let order_id = params["order_id"].as_str().unwrap_or_default();
                let order = held(&self.orders).get(order_id).cloned();
                order.ok_or_else(|| json!({ "code": 101, "message": "not found" }))
            }
            _ => Err(json!({ "code": -32601, "message": "no such method" })),
        }
    }

    fn order(&self, params: &Value) -> Value {
        let mut orders = held(&self.orders);
        let order_id = format!("order-{}", orders.len() + 1);
        let balance = params["client_balance_sat"].as_str().unwrap_or_default();
        let total_sat = FEE_SAT + balance.parse::<u64>().unwrap_or_default();
        let mut order = params.clone();
        if let Some(order) = order.as_object_mut() {
            order.remove("refund_onchain_address");
        }
        let price = json!({
            "state": "EXPECT_PAYMENT",
            "expires_at": EXPIRES_AT,
            "fee_total_sat": FEE_SAT.to_string(),
            "order_total_sat": total_sat.to_string(),
        });
        let (mut bolt11, mut onchain) = (price.clone(), price);
        bolt11["invoice"] = json!(self.invoice(&order_id, total_sat));
        onchain["address"] = json!(self.address());
        onchain["min_onchain_payment_confirmations"] = json!(1);
        onchain["min_fee_for_0conf"] = json!(253);
        order["order_id"] = json!(order_id);
        order["created_at"] = json!("2026-01-01T00:00:00Z");
        order["order_state"] = json!("CREATED");
        order["payment"] = json!({ "bolt11": bolt11, "onchain": onchain });
        order["channel"] = Value::Null;
        orders.insert(order_id, order.clone());
        order
    }

    fn invoice(&self, order_id: &str, total_sat: u64) -> String {
        let now = since_epoch();
        let secp = Secp256k1::new();
        let invoice = InvoiceBuilder::new(Currency::Regtest)
            .description(order_id.to_owned())
            .payment_hash(sha256::Hash::hash(order_id.as_bytes()))
            .payment_secret(PaymentSecret([1; 32]))
            .duration_since_epoch(now)
            .min_final_cltv_expiry_delta(144)
            .amount_milli_satoshis(total_sat * 1_000)
            .build_signed(|hash| secp.sign_ecdsa_recoverable(hash, &self.secret));
        invoice
            .expect("every field that an invoice needs is there")
            .to_string()
    }

    fn address(&self) -> String {
        let key = CompressedPublicKey(self.secret.public_key(&Secp256k1::new()));
        Address::p2wpkh(&key, Network::Regtest).to_string()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the harness has no clock that is passed in, and an invoice has to have a time"
)]
fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

impl CustomMessageReader for Desk {
    type CustomMessage = RawLSPSMessage;

    fn read<R: LengthLimitedRead>(
        &self,
        message_type: u16,
        buffer: &mut R,
    ) -> Result<Option<RawLSPSMessage>, DecodeError> {
        if message_type != LSPS_MESSAGE_TYPE_ID {
            return Ok(None);
        }
        RawLSPSMessage::read_from_fixed_length_buffer(buffer).map(Some)
    }
}

impl CustomMessageHandler for Desk {
    fn handle_custom_message(
        &self,
        message: RawLSPSMessage,
        from: PublicKey,
    ) -> Result<(), LightningError> {
        let call: Value = serde_json::from_str(&message.payload).unwrap_or_default();
        let method = call["method"].as_str().unwrap_or_default();
        let mut reply = json!({ "jsonrpc": "2.0", "id": call["id"] });
        match self.answer(method, &call["params"]) {
            Ok(result) => reply["result"] = result,
            Err(error) => reply["error"] = error,
        }
        let payload = reply.to_string();
        held(&self.replies).push((from, RawLSPSMessage { payload }));
        Ok(())
    }

    fn get_and_clear_pending_msg(&self) -> Vec<(PublicKey, RawLSPSMessage)> {
        std::mem::take(&mut held(&self.replies))
    }

    fn peer_disconnected(&self, _: PublicKey) {}

    fn peer_connected(&self, _: PublicKey, _: &Init, _: bool) -> Result<(), ()> {
        Ok(())
    }

    fn provided_node_features(&self) -> NodeFeatures {
        NodeFeatures::empty()
    }

    fn provided_init_features(&self, _: PublicKey) -> InitFeatures {
        InitFeatures::empty()
    }
}
