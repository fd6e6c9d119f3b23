//! The customer: a real LDK node in this process, which pays invoices over real channels.

mod build;
mod settled;
mod stranger;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bitcoin::Address;
use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::events::PaymentFailureReason;
use ldk_node::lightning_invoice::Bolt11Invoice;
use ldk_node::lightning_types::payment::{PaymentHash, PaymentPreimage};
use ldk_node::liquidity::LSPS2ServiceConfig;
use ldk_node::{ChannelDetails, Event, Node, NodeError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::parent;
use crate::wait::eventually;

/// LDK itself gives up looking for paths after 10 seconds; the rest is for a payment that hangs at a dead peer.
const PAY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a peer that was just started may refuse connections.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// From a block with money to a wallet that knows of it.
const MONEY_DEADLINE: Duration = Duration::from_secs(10);
/// How long the negotiation of a channel up to its broadcast funding may take.
const FUNDING_DEADLINE: Duration = Duration::from_secs(30);
/// As long as the merchant's own invoices live.
const INVOICE_EXPIRY_SECS: u32 = 600;
/// How long a runtime's tasks may take to end after the node has stopped.
const RUNTIME_STOP: Duration = Duration::from_secs(2);

/// A running customer node. Dropping the last reference stops it.
#[derive(Debug)]
pub struct Payer {
    inner: Arc<Inner>,
    /// The node's own runtime: it runs whatever kind of runtime a test has.
    runtime: Option<Runtime>,
}

/// What the node's event loop shares with its owner.
struct Inner {
    node: Node,
    /// Payments under way, by payment hash. A std mutex: held for a hash lookup, never across an await.
    waiters: Mutex<HashMap<PaymentHash, oneshot::Sender<Outcome>>>,
    /// The reason for each channel that was closed.
    closed: Mutex<Vec<String>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("node_id", &self.node.node_id())
            .finish_non_exhaustive()
    }
}

/// How the node says that a payment ended.
type Outcome = Result<(PaymentPreimage, u64), Option<PaymentFailureReason>>;

/// A payment that arrived.
#[derive(Clone, Debug)]
pub struct Paid {
    /// The proof of payment.
    pub preimage: PaymentPreimage,
    /// What the nodes on the way took; 0 over a channel of our own.
    pub fee_msat: u64,
    /// From the call to the preimage.
    pub took: Duration,
}

impl Paid {
    /// The preimage as a credential carries it.
    #[must_use]
    pub fn preimage_hex(&self) -> String {
        hex::encode(self.preimage.0)
    }
}

/// Why a payment did not arrive.
#[derive(Debug)]
pub enum PayError {
    /// What was given is no invoice.
    Invoice(String),
    /// The node did not even try: there is no path, or the invoice was paid before, or another call pays it just now.
    Refused(NodeError),
    /// The node tried and failed.
    Failed(Option<PaymentFailureReason>),
    /// Neither success nor failure was heard of in that time; the payment may still arrive.
    TimedOut(Duration),
}

impl fmt::Display for PayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invoice(why) => write!(f, "not a BOLT 11 invoice: {why}"),
            Self::Refused(error) => write!(f, "the node refused to pay: {error}"),
            Self::Failed(Some(reason)) => write!(f, "the payment failed: {reason:?}"),
            Self::Failed(None) => write!(f, "the payment failed for no known reason"),
            Self::TimedOut(after) => write!(
                f,
                "the payment was neither made nor failed within {after:?}"
            ),
        }
    }
}

impl std::error::Error for PayError {}

/// A peer to open a channel with.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its public key.
    pub node_id: PublicKey,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What a payer starts from.
#[derive(Clone, Debug)]
pub struct PayerOptions {
    /// The folder for its database; it must outlive the payer.
    pub dir: PathBuf,
    /// The base URL of its chain source.
    pub esplora: String,
    /// Where it listens for peers, if it does.
    pub listen: Option<SocketAddr>,
}

impl Payer {
    /// Starts a node. It learns of the chain only in [`Payer::sync`].
    ///
    /// # Errors
    /// When the node cannot be built or its chain source does not answer.
    pub async fn start(options: PayerOptions) -> Result<Self> {
        Self::start_as(options, build::Kind::Payer).await
    }

    /// Starts a node that opens channels out of payments by these terms, too (LSPS2).
    ///
    /// # Errors
    /// When the node cannot be built or its chain source does not answer.
    pub async fn start_provider(options: PayerOptions, terms: LSPS2ServiceConfig) -> Result<Self> {
        Self::start_as(options, build::Kind::Provider(terms)).await
    }

    async fn start_as(options: PayerOptions, kind: build::Kind) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("payer")
            .enable_all()
            .build()
            .context("failed to build the payer's runtime")?;
        let handle = runtime.handle().clone();
        let inner = runtime
            .spawn_blocking(move || -> Result<Arc<Inner>> {
                let node = build::build(&options, kind, handle)
                    .context("failed to build the payer's node")?;
                node.start().context("failed to start the payer's node")?;
                Ok(Arc::new(Inner {
                    node,
                    waiters: Mutex::default(),
                    closed: Mutex::default(),
                }))
            })
            .await
            .context("the payer's start panicked")??;
        runtime.spawn(Arc::clone(&inner).run());
        Ok(Self {
            inner,
            runtime: Some(runtime),
        })
    }

    /// The node, for what this type has no method for. Its methods that block belong into [`Payer::blocking`].
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// Its public key.
    #[must_use]
    pub fn node_id(&self) -> PublicKey {
        self.inner.node.node_id()
    }

    /// Runs something on the node that blocks, on a thread where that is allowed.
    ///
    /// # Errors
    /// When the payer is stopped or `work` panics.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Node) -> T + Send + 'static,
    {
        let runtime = self.runtime.as_ref().context("the payer is stopped")?;
        let inner = Arc::clone(&self.inner);
        runtime
            .spawn_blocking(move || work(&inner.node))
            .await
            .context("the payer's node panicked")
    }

    /// Pays an invoice and waits for the preimage. Several payments may be under way at once.
    ///
    /// # Errors
    /// When the invoice was not paid, or not in time.
    pub async fn pay(&self, bolt11: &str) -> Result<Paid, PayError> {
        let invoice: Bolt11Invoice = bolt11
            .trim()
            .parse()
            .map_err(|error| PayError::Invoice(format!("{error}")))?;
        let hash = PaymentHash(*invoice.payment_hash().as_ref());
        // Registered before sending: the event can be there before `send` returns.
        let outcome = self.inner.expect(hash)?;
        let begun = Instant::now();
        let sent = self
            .blocking(move |node| node.bolt11_payment().send(&invoice, None))
            .await;
        match sent {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                self.inner.forget(&hash);
                return Err(PayError::Refused(error));
            }
            Err(_) => {
                self.inner.forget(&hash);
                return Err(PayError::Refused(NodeError::NotRunning));
            }
        }
        match tokio::time::timeout(PAY_DEADLINE, outcome).await {
            Ok(Ok(Ok((preimage, fee_msat)))) => Ok(Paid {
                preimage,
                fee_msat,
                took: begun.elapsed(),
            }),
            Ok(Ok(Err(reason))) => Err(PayError::Failed(reason)),
            Ok(Err(_)) => Err(PayError::Refused(NodeError::NotRunning)),
            Err(_) => {
                self.inner.forget(&hash);
                Err(PayError::TimedOut(PAY_DEADLINE))
            }
        }
    }

    /// A new address of the on-chain wallet.
    ///
    /// # Errors
    /// When the wallet cannot be written.
    pub async fn new_address(&self) -> Result<Address> {
        self.blocking(|node| node.onchain_payment().new_address())
            .await?
            .context("failed to make an address")
    }

    /// What its on-chain wallet may spend, as far as it knows the chain.
    #[must_use]
    pub fn spendable_sat(&self) -> u64 {
        self.inner
            .node
            .list_balances()
            .spendable_onchain_balance_sats
    }

    /// Learns of what is new on the chain, for the channels and for the wallet.
    ///
    /// # Errors
    /// When the chain source does not answer.
    pub async fn sync(&self) -> Result<()> {
        self.blocking(Node::sync_wallets)
            .await?
            .context("the payer failed to sync")
    }

    /// Connects to a peer and remembers it; a peer that was just started gets some time.
    ///
    /// # Errors
    /// When the peer does not answer in time.
    pub async fn connect(&self, peer: Peer) -> Result<()> {
        let Peer { node_id, address } = peer;
        eventually(
            &format!("a connection to {node_id}@{address}"),
            CONNECT_DEADLINE,
            || async {
                let connected = self
                    .blocking(move |node| node.connect(node_id, address.into(), true))
                    .await;
                match connected {
                    Ok(Ok(())) => Ok(Some(Ok(()))),
                    Ok(Err(error)) => Err(error),
                    Err(stopped) => Ok(Some(Err(stopped))),
                }
            },
        )
        .await?
    }

    /// Opens a private channel and waits until its funding transaction is broadcast; it has still to be mined.
    ///
    /// # Errors
    /// When the peer refuses or the wallet has too little.
    pub async fn open_channel(&self, peer: Peer, capacity_sat: u64) -> Result<bitcoin::Txid> {
        let Peer { node_id, address } = peer;
        // A look at the chain that was under way when the money was mined knows nothing of it, and whoever wants another one
        // meanwhile is told what that one found.
        let opening = eventually("money for a channel", MONEY_DEADLINE, || async {
            let open = move |node: &Node| {
                node.open_channel(node_id, address.into(), capacity_sat, None, None)
            };
            match self
                .blocking(open)
                .await
                .map_err(|error| error.to_string())?
            {
                Err(ldk_node::NodeError::InsufficientFunds) => {
                    self.sync().await.map_err(|error| format!("{error:#}"))?;
                    Err("insufficient funds".to_owned())
                }
                opened => Ok(Some(opened)),
            }
        });
        let id = opening.await?.with_context(|| {
            format!("failed to open a channel of {capacity_sat} sat with {node_id}")
        })?;
        eventually(
            "the funding transaction of the channel",
            FUNDING_DEADLINE,
            || async {
                let channels = self.channels();
                match channels
                    .iter()
                    .find(|channel| channel.user_channel_id == id)
                {
                    Some(channel) => channel
                        .funding_txo
                        .map(|outpoint| Some(Ok(outpoint.txid)))
                        .ok_or("no funding yet"),
                    None => Ok(Some(refused(&self.channels_closed()))),
                }
            },
        )
        .await?
    }

    /// The channels that are open or being opened.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelDetails> {
        self.inner.node.list_channels()
    }

    /// Closes every channel with the agreement of its peer; the closing transactions have still to be mined.
    ///
    /// # Errors
    /// When a peer is not connected.
    pub async fn close_channels(&self) -> Result<usize> {
        let channels = self.channels();
        for channel in &channels {
            let (id, peer) = (channel.user_channel_id, channel.counterparty_node_id);
            self.blocking(move |node| node.close_channel(&id, peer))
                .await?
                .context("failed to close a channel")?;
        }
        Ok(channels.len())
    }

    /// The reason for each channel that was closed since the start, whoever closed it.
    #[must_use]
    pub fn channels_closed(&self) -> Vec<String> {
        self.inner
            .closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops the node; later calls fail. Doing it twice is no harm.
    pub fn stop(&self) {
        // A node that is stopped already says so, and nothing is wrong with that.
        parent::off_runtime(|| {
            let _ = self.inner.node.stop();
        });
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        // First the node, then its runtime: a running node whose runtime goes away panics.
        self.stop();
        if let Some(runtime) = self.runtime.take() {
            parent::off_runtime(|| runtime.shutdown_timeout(RUNTIME_STOP));
        }
    }
}

impl Inner {
    /// The one consumer of the node's events; it ends with the runtime.
    async fn run(self: Arc<Self>) {
        loop {
            match self.node.next_event_async().await {
                Event::PaymentSuccessful {
                    payment_hash,
                    payment_preimage: Some(preimage),
                    fee_paid_msat,
                    ..
                } => {
                    self.tell(
                        &payment_hash,
                        Ok((preimage, fee_paid_msat.unwrap_or_default())),
                    );
                }
                Event::PaymentFailed {
                    payment_hash: Some(payment_hash),
                    reason,
                    ..
                } => {
                    self.tell(&payment_hash, Err(reason));
                }
                Event::ChannelClosed { reason, .. } => {
                    let reason =
                        reason.map_or_else(|| "unknown".to_owned(), |reason| reason.to_string());
                    self.closed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(reason);
                }
                // Nobody waits for these; the two on payments lack what only nodes before 0.5 could leave out.
                event @ (Event::PaymentSuccessful { .. }
                | Event::PaymentFailed { .. }
                | Event::PaymentReceived { .. }
                | Event::PaymentForwarded { .. }
                | Event::PaymentClaimable { .. }
                | Event::ChannelPending { .. }
                | Event::ChannelReady { .. }
                | Event::SplicePending { .. }
                | Event::SpliceFailed { .. }) => {
                    tracing::debug!(?event, "The payer's node said something")
                }
            }
            if let Err(error) = self.node.event_handled() {
                tracing::error!(%error, "The payer failed to acknowledge an event");
                return;
            }
        }
    }

    fn expect(&self, hash: PaymentHash) -> Result<oneshot::Receiver<Outcome>, PayError> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.contains_key(&hash) {
            return Err(PayError::Refused(NodeError::DuplicatePayment));
        }
        let (tell, outcome) = oneshot::channel();
        waiters.insert(hash, tell);
        Ok(outcome)
    }

    fn forget(&self, hash: &PaymentHash) -> Option<oneshot::Sender<Outcome>> {
        self.waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(hash)
    }

    fn tell(&self, hash: &PaymentHash, outcome: Outcome) {
        if let Some(waiter) = self.forget(hash) {
            // Whoever waited may have given up.
            let _ = waiter.send(outcome);
        }
    }
}

fn refused(reasons: &[String]) -> Result<bitcoin::Txid> {
    bail!(
        "the peer refused the channel: {}",
        reasons.last().map_or("no reason given", String::as_str)
    )
}
