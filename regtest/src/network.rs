//! A whole network: chain, Esplora server, merchant, payer, and a channel from the payer to the merchant.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bitcoin::Amount;
use tempfile::TempDir;

use crate::admin::Readiness;
use crate::bitcoind::Bitcoind;
use crate::client::{Client, Purchase};
use crate::esplora::Esplora;
use crate::folder;
use crate::merchant::{Merchant, MerchantOptions};
use crate::payer::{Payer, PayerOptions, Peer};
use crate::payer_api::{Parties, PayerApi};
use crate::rpc::Rpc;
use crate::wait::eventually;

/// Enough for a few dozen channels, one after the other.
const PAYER_FUNDS: Amount = Amount::from_sat(100_000_000);
/// Of this a node keeps a reserve of 25,000 sat for each channel, to pay for closing it.
const MERCHANT_FUNDS: Amount = Amount::from_sat(10_000_000);
/// Confirmations until both sides use a channel.
const CHANNEL_BLOCKS: u32 = 6;
/// From the last block to a channel that both sides use: a few messages.
const USABLE_DEADLINE: Duration = Duration::from_secs(30);
/// How long looks at the chain may fail, one after the other.
const LOOK_DEADLINE: Duration = Duration::from_secs(60);
/// How often both sides look at the chain again while they wait for a channel: a look that was under way already when the
/// block was mined knows nothing of it.
const SYNC_AGAIN: Duration = Duration::from_millis(500);

/// What a network is started from.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// The `tollhouse` program to drive.
    pub tollhouse_exe: PathBuf,
    /// TOML text of `[[route]]` tables; `{esplora}` in it stands for the base URL of the network's Esplora server.
    pub routes: String,
    /// The folder that a relative `files` of a route starts from.
    pub routes_dir: Option<PathBuf>,
    /// TOML text of further settings of the merchant, laid over the harness's own. `{bitcoind_rpc}` in it stands for host and
    /// port of bitcoind's RPC, `{bitcoind_cookie}` for the file with its user and password.
    pub settings: String,
    /// Further environment variables of the merchant.
    pub env: Vec<(String, String)>,
    /// Capacity of the channel from the payer to the merchant, all of it on the payer's side.
    pub channel_sat: u64,
}

impl NetworkOptions {
    /// A network that sells by these routes.
    #[must_use]
    pub fn new(tollhouse_exe: impl Into<PathBuf>, routes: impl Into<String>) -> Self {
        Self {
            tollhouse_exe: tollhouse_exe.into(),
            routes: routes.into(),
            routes_dir: None,
            settings: String::new(),
            env: Vec::new(),
            channel_sat: 2_000_000,
        }
    }
}

/// A part of the start and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What was done.
    pub what: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// A running network. Dropping it ends every process and removes every folder; [`Network::stop`] does so gracefully.
#[derive(Debug)]
pub struct Network {
    /// The merchant.
    pub merchant: Merchant,
    /// The customer.
    pub payer: Arc<Payer>,
    /// The chain source of both.
    pub esplora: Esplora,
    /// The chain.
    pub bitcoind: Bitcoind,
    payer_api: PayerApi,
    client: Client,
    /// The merchant's node, which stays the same over its restarts.
    peer: Peer,
    channel_sat: u64,
    steps: Vec<Step>,
    /// Removed last; `None` once someone wants to keep it.
    dir: Option<TempDir>,
}

impl Network {
    /// Starts everything and returns when the merchant says that it can be paid.
    ///
    /// # Errors
    /// When a part does not come up; if that is the merchant, the error shows the end of its log.
    pub async fn start(options: NetworkOptions) -> Result<Self> {
        let mut clock = Stopwatch::start();
        let dir = folder::temporary()?;
        let bitcoind = Bitcoind::start(dir.path()).await?;
        let esplora = Esplora::start(&bitcoind)?;
        clock.step("bitcoind, 101 blocks, Esplora");
        let merchant_options = MerchantOptions {
            dir: Some(dir.path().join("merchant")),
            routes_dir: options.routes_dir,
            settings: options
                .settings
                .replace(
                    "{bitcoind_rpc}",
                    bitcoind.rpc_url().trim_start_matches("http://"),
                )
                .replace("{bitcoind_cookie}", &bitcoind.cookie().to_string_lossy()),
            env: options.env,
            ..MerchantOptions::new(options.tollhouse_exe, esplora.url(), options.routes)
        };
        let payer_options = PayerOptions {
            dir: dir.path().join("payer"),
            esplora: esplora.url(),
            listen: None,
        };
        let (merchant, payer) = tokio::join!(
            start_merchant(merchant_options),
            Payer::start(payer_options)
        );
        let (merchant, deposit, peer) = merchant?;
        let payer = Arc::new(payer?);
        clock.step("two nodes");
        let payer_api = PayerApi::start(Parties {
            payer: Arc::clone(&payer),
            rpc: Rpc::open(bitcoind.rpc_url(), bitcoind.cookie())?,
            mining_address: bitcoind.mining_address().clone(),
            merchant: merchant.admin().clone(),
        })?;
        let mut network = Self {
            merchant,
            payer,
            esplora,
            bitcoind,
            payer_api,
            client: Client::new()?,
            peer,
            channel_sat: options.channel_sat,
            steps: Vec::new(),
            dir: Some(dir),
        };
        let address = network.payer.new_address().await?;
        network.bitcoind.send(&[(address, PAYER_FUNDS)]).await?;
        network.mine(1).await?;
        clock.step("money for the payer");
        network.open_first_channel(deposit).await?;
        clock.step("money for the merchant, and a channel, 6 blocks deep");
        network.steps = clock.steps;
        Ok(network)
    }

    /// What the start did and how long each part took.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The folder of the run.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(TempDir::path)
    }

    /// The base URL of the merchant's public listener.
    #[must_use]
    pub fn gate_url(&self) -> String {
        self.merchant.url()
    }

    /// The base URL of the payer's API.
    #[must_use]
    pub fn payer_url(&self) -> String {
        self.payer_api.url()
    }

    /// The merchant's node.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// An HTTP client that can read challenges.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks for a path, pays and asks again.
    ///
    /// # Errors
    /// When there is no challenge, or it cannot be paid.
    pub async fn buy(&self, path: &str) -> Result<Purchase> {
        self.client
            .buy(&self.payer, &format!("{}{path}", self.gate_url()))
            .await
    }

    /// Mines blocks and lets both nodes learn of them.
    ///
    /// # Errors
    /// When bitcoind, the payer or the merchant fails.
    pub async fn mine(&self, blocks: u32) -> Result<()> {
        self.bitcoind.mine(blocks).await?;
        self.sync().await
    }

    /// Lets both nodes learn of what is new on the chain. A merchant with many channels may need more than one look after a start:
    /// ldk-node gives up after 10 s, and the next look finds answers that are kept.
    ///
    /// # Errors
    /// When one of them fails, or the merchant's looks fail for a minute.
    pub async fn sync(&self) -> Result<()> {
        let merchant = eventually(
            "the merchant's look at the chain",
            LOOK_DEADLINE,
            || async {
                let looked = self.merchant.admin().sync().await;
                looked.map(Some).map_err(|error| format!("{error:#}"))
            },
        );
        tokio::try_join!(self.payer.sync(), merchant)?;
        Ok(())
    }

    /// Connects the payer to the merchant again after a restart of either, and opens a new channel if none is left.
    /// Returns how many were opened: 0 or 1.
    ///
    /// # Errors
    /// When there is neither a usable channel nor a way to open one.
    pub async fn ensure_channel(&mut self) -> Result<usize> {
        let peer = self.peer;
        let (payer, admin) = (&self.payer, self.merchant.admin());
        let is_open = eventually(
            "a usable channel, or none at all",
            USABLE_DEADLINE,
            || async {
                payer
                    .connect(peer)
                    .await
                    .map_err(|error| error.to_string())?;
                let channels = payer.channels();
                if channels.iter().any(|channel| channel.is_usable) {
                    // The payer may still believe in the connection that it had: a merchant is back before its end is noticed.
                    let readiness = admin.ready().await;
                    match readiness.map_err(|error| format!("{error:#}"))? {
                        Readiness { ready: true, .. } => Ok(Some(true)),
                        Readiness { reason, .. } => Err(reason.unwrap_or_default()),
                    }
                } else if channels.is_empty() {
                    Ok(Some(false))
                } else {
                    Err(format!("{} channels, none usable", channels.len()))
                }
            },
        )
        .await?;
        if is_open {
            return Ok(0);
        }
        // The closing of the old channel is in the mempool, or will be: let both nodes have their money back.
        self.mine(1).await?;
        self.open_channel().await?;
        Ok(1)
    }

    /// Opens more channels from the payer to the merchant and waits until both use all of them.
    ///
    /// # Errors
    /// When the payer has too little, or one of them does not come up.
    pub async fn open_channels(&self, count: usize, channel_sat: u64) -> Result<()> {
        let usable = || {
            let channels = self.payer.channels();
            channels.iter().filter(|channel| channel.is_usable).count()
        };
        let wanted = usable() + count;
        for _ in 0..count {
            let funding = self.payer.open_channel(self.peer, channel_sat).await?;
            self.bitcoind.wait_for_mempool(funding).await?;
            // The payer's wallet does not know of its own change before it has seen it on the chain; and of channels without a
            // confirmation LDK takes no more than four from one peer.
            self.mine(1).await?;
        }
        self.mine(CHANNEL_BLOCKS).await?;
        eventually("the new channels to be usable", USABLE_DEADLINE, || async {
            match usable() {
                all if all >= wanted => Ok(Some(())),
                some => {
                    self.sync().await.map_err(|error| format!("{error:#}"))?;
                    Err(format!("{some} of {wanted}"))
                }
            }
        })
        .await
    }

    /// Closes every channel with the merchant's agreement and mines the closing. Returns how many there were.
    ///
    /// # Errors
    /// When the merchant is not connected or does not agree in time.
    pub async fn close_channels(&self) -> Result<usize> {
        let closed = self.payer.close_channels().await?;
        eventually("the channels to close", USABLE_DEADLINE, || async {
            match self.payer.channels().len() {
                0 => Ok(Some(())),
                left => Err(format!("{left} left")),
            }
        })
        .await?;
        self.mine(CHANNEL_BLOCKS).await?;
        Ok(closed)
    }

    /// The reason for each channel that was closed, as the payer heard it.
    #[must_use]
    pub fn channels_closed(&self) -> Vec<String> {
        self.payer.channels_closed()
    }

    /// Keeps the folder of the run after its end, for someone to look into. `None` if it was taken already.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.dir.take().map(TempDir::keep)
    }

    /// Stops everything in order and says how the merchant ended.
    ///
    /// # Errors
    /// When the merchant does not end.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        let status = self.merchant.terminate().await?;
        self.tear_down();
        Ok(status)
    }

    /// Opens the channel before the merchant has coins, so that it always is of the kind without
    /// anchors. A merchant with coins accepts a channel with anchors and reserves coins for it.
    /// Whether it has seen its coins in time would depend on the load of the machine.
    async fn open_first_channel(&mut self, deposit: bitcoin::Address) -> Result<()> {
        let funding = self.payer.open_channel(self.peer, self.channel_sat).await?;
        self.bitcoind.wait_for_mempool(funding).await?;
        self.bitcoind.send(&[(deposit, MERCHANT_FUNDS)]).await?;
        self.mine(CHANNEL_BLOCKS).await?;
        self.wait_usable(funding).await?;
        self.merchant.wait_ready().await?;
        self.wait_for_coins().await
    }

    /// Waits until the merchant's wallet has seen its coins.
    async fn wait_for_coins(&self) -> Result<()> {
        let admin = self.merchant.admin();
        eventually("the merchant's coins", USABLE_DEADLINE, || async {
            let status = admin.status().await.map_err(|error| format!("{error:#}"))?;
            let balances = &status["node"]["balances"];
            if balances["onchain_spendable_sat"].as_u64() > Some(0) {
                return Ok(Some(()));
            }
            self.sync().await.map_err(|error| format!("{error:#}"))?;
            Err(balances.to_string())
        })
        .await
    }

    async fn open_channel(&mut self) -> Result<()> {
        self.top_up().await?;
        let funding = self.payer.open_channel(self.peer, self.channel_sat).await?;
        self.bitcoind.wait_for_mempool(funding).await?;
        self.mine(CHANNEL_BLOCKS).await?;
        self.wait_usable(funding).await?;
        self.merchant.wait_ready().await
    }

    /// Gives the payer more where closed channels still hold what it had.
    async fn top_up(&self) -> Result<()> {
        if self.payer.spendable_sat() >= 2 * self.channel_sat {
            return Ok(());
        }
        let address = self.payer.new_address().await?;
        self.bitcoind.send(&[(address, PAYER_FUNDS)]).await?;
        self.mine(1).await
    }

    async fn wait_usable(&self, funding: bitcoin::Txid) -> Result<()> {
        let mut synced = Instant::now();
        let waited = eventually("the new channel to be usable", USABLE_DEADLINE, || {
            let sync_again = synced.elapsed() > SYNC_AGAIN;
            if sync_again {
                synced = Instant::now();
            }
            async move {
                if sync_again {
                    self.sync().await.map_err(|error| format!("{error:#}"))?;
                }
                let channels = self.payer.channels();
                let channel = channels
                    .iter()
                    .find(|channel| channel.funding_txo.is_some_and(|txo| txo.txid == funding));
                match channel {
                    Some(channel) if channel.is_usable => Ok(Some(Ok(()))),
                    Some(channel) => Err(format!("{:?} confirmations", channel.confirmations)),
                    None => Ok(Some(Err(anyhow!(
                        "it was closed: {:?}",
                        self.channels_closed()
                    )))),
                }
            }
        });
        match waited.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) | Err(error) => bail!("{error:#}; {}", self.merchant.log_tail()),
        }
    }

    /// The merchant first, whose node speaks to the payer's; the chain last, which both ask.
    fn tear_down(&mut self) {
        // Nobody could be told of a failure here; the process dies with its parent's thread at the latest.
        let _ = self.merchant.kill();
        self.payer_api.stop();
        self.payer.stop();
        self.esplora.stop();
        self.bitcoind.stop();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.tear_down();
        folder::keep_if_failed(self.dir.take());
    }
}

/// Starts the merchant and asks it who it is and where its node wants money.
async fn start_merchant(options: MerchantOptions) -> Result<(Merchant, bitcoin::Address, Peer)> {
    let mut merchant = Merchant::start(options).await?;
    let deposit = merchant.wait_running().await?;
    let peer = merchant
        .peer()
        .await
        .context("failed to learn of the merchant's node")?;
    Ok((merchant, deposit, peer))
}

/// Times one step after the other.
struct Stopwatch {
    since: Instant,
    steps: Vec<Step>,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            since: Instant::now(),
            steps: Vec::new(),
        }
    }

    fn step(&mut self, what: &'static str) {
        let took = self.since.elapsed();
        tracing::info!("{what}: {} ms", took.as_millis());
        self.steps.push(Step { what, took });
        self.since = Instant::now();
    }
}
