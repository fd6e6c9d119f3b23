//! A network for whoever has nothing: a merchant without money and without a channel, a liquidity provider that it knows, and
//! a customer who has a channel with the provider.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bitcoin::Amount;
pub use ldk_node::liquidity::LSPS2ServiceConfig;
use tempfile::TempDir;

use crate::bitcoind::Bitcoind;
use crate::client::Client;
use crate::esplora::Esplora;
use crate::folder;
use crate::merchant::{Merchant, MerchantOptions};
use crate::payer::{Payer, PayerOptions, Peer};
use crate::port;
use crate::wait::eventually;

/// Enough for every channel that a test opens, with the reserve for each.
const FUNDS: Amount = Amount::from_sat(100_000_000);
/// Confirmations until both sides use a channel.
const CHANNEL_BLOCKS: u32 = 6;
/// What the customer can pay through the provider.
const CHANNEL_SAT: u64 = 5_000_000;
/// From the last block to a channel that both sides use: a few messages.
const USABLE_DEADLINE: Duration = Duration::from_secs(30);
/// How often both sides look at the chain again while they wait.
const SYNC_AGAIN: Duration = Duration::from_millis(500);

/// What the provider of these networks asks.
#[must_use]
pub fn usual_terms() -> LSPS2ServiceConfig {
    LSPS2ServiceConfig {
        require_token: None,
        advertise_service: false,
        // One per cent, at least 2,000 sat.
        channel_opening_fee_ppm: 10_000,
        min_channel_opening_fee_msat: 2_000_000,
        // Twice the payment: smaller channels open and then fail their first payment.
        channel_over_provisioning_ppm: 1_000_000,
        min_channel_lifetime: 4_032,
        max_client_to_self_delay: 1_024,
        min_payment_size_msat: 10_000_000,
        max_payment_size_msat: 1_000_000_000,
        client_trusts_lsp: false,
    }
}

/// What a network is started from.
#[derive(Clone, Debug)]
pub struct NewcomerOptions {
    /// The merchant, but for its folder, its chain source and its provider.
    pub merchant: MerchantOptions,
    /// What the provider asks.
    pub terms: LSPS2ServiceConfig,
    /// Whether the merchant's settings name the provider.
    pub is_known: bool,
}

/// A running network. Dropping it ends every process and removes every folder.
#[derive(Debug)]
pub struct Newcomer {
    /// The merchant, whose node runs.
    pub merchant: Merchant,
    /// The customer.
    pub payer: Arc<Payer>,
    /// The liquidity provider.
    pub provider: Arc<Payer>,
    /// Where the provider is.
    pub provider_peer: Peer,
    /// The chain source of all three.
    pub esplora: Esplora,
    /// The chain.
    pub bitcoind: Bitcoind,
    /// An HTTP client that can read challenges.
    pub client: Client,
    /// Removed last; `None` once someone wants to keep it.
    dir: Option<TempDir>,
}

impl Newcomer {
    /// Starts everything and returns when the merchant's node runs; it has nothing yet.
    ///
    /// # Errors
    /// When a part does not come up.
    pub async fn start(options: NewcomerOptions) -> Result<Self> {
        let dir = folder::temporary()?;
        let bitcoind = Bitcoind::start(dir.path()).await?;
        let esplora = Esplora::start(&bitcoind)?;
        let node = |name: &str, listen| PayerOptions {
            dir: dir.path().join(name),
            esplora: esplora.url(),
            listen,
        };
        let at = port::free()?;
        let provider = Payer::start_provider(node("provider", Some(at)), options.terms);
        let (provider, payer) = tokio::join!(provider, Payer::start(node("payer", None)));
        let (provider, payer) = (Arc::new(provider?), Arc::new(payer?));
        let provider_peer = Peer {
            node_id: provider.node_id(),
            address: at,
        };
        let mut settings = options.merchant.settings.clone();
        if options.is_known {
            let id = provider_peer.node_id;
            settings = format!(
                "node.liquidity.provider = {{ node_id = \"{id}\", address = \"{at}\" }}\n{settings}"
            );
        }
        let mut merchant = Merchant::start(MerchantOptions {
            dir: Some(dir.path().join("merchant")),
            esplora: esplora.url(),
            settings,
            ..options.merchant
        })
        .await?;
        merchant.wait_running().await?;
        let network = Self {
            merchant,
            payer,
            provider,
            provider_peer,
            esplora,
            bitcoind,
            client: Client::new()?,
            dir: Some(dir),
        };
        network.fund().await?;
        Ok(network)
    }

    /// Money for payer and provider, and a channel between them.
    async fn fund(&self) -> Result<()> {
        let to = [
            (self.payer.new_address().await?, FUNDS),
            (self.provider.new_address().await?, FUNDS),
        ];
        self.bitcoind.send(&to).await?;
        self.mine(1).await?;
        let opening = self.payer.open_channel(self.provider_peer, CHANNEL_SAT);
        let funding = opening.await?;
        self.bitcoind.wait_for_mempool(funding).await?;
        self.mine(CHANNEL_BLOCKS).await?;
        let mut synced = Instant::now();
        eventually("the payer's channel", USABLE_DEADLINE, || {
            let sync_again = synced.elapsed() > SYNC_AGAIN;
            if sync_again {
                synced = Instant::now();
            }
            async move {
                if sync_again {
                    self.sync().await.map_err(|error| format!("{error:#}"))?;
                }
                let channels = self.payer.channels();
                match channels.iter().any(|channel| channel.is_usable) {
                    true => Ok(Some(())),
                    false => Err(format!("{} channels, none usable", channels.len())),
                }
            }
        })
        .await
    }

    /// Mines blocks and lets all three nodes learn of them.
    ///
    /// # Errors
    /// When bitcoind or one of the nodes fails.
    pub async fn mine(&self, blocks: u32) -> Result<()> {
        self.bitcoind.mine(blocks).await?;
        self.sync().await
    }

    /// Lets all three nodes learn of what is new on the chain.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn sync(&self) -> Result<()> {
        tokio::try_join!(
            self.payer.sync(),
            self.provider.sync(),
            self.merchant.admin().sync()
        )?;
        Ok(())
    }

    /// Calls the operator's listener of the merchant, and reads what it answers.
    ///
    /// # Errors
    /// When there is no answer, or one that is no JSON.
    pub async fn call(
        &self,
        method: http::Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<(http::StatusCode, serde_json::Value)> {
        let admin = self.merchant.admin();
        let url = format!("{}{path}", admin.url());
        let mut request = self.client.request(method, &url);
        request = request.bearer_auth(admin.token()?);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.client.send(request).await?;
        let text = answer.text();
        let value = serde_json::from_str(&text)
            .with_context(|| format!("{path} answered {}: {text}", answer.status))?;
        Ok((answer.status, value))
    }

    fn tear_down(&mut self) {
        // Nobody could be told of a failure here; the process dies with its parent's thread at the latest.
        let _ = self.merchant.kill();
        self.payer.stop();
        self.provider.stop();
        self.esplora.stop();
        self.bitcoind.stop();
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.tear_down();
        folder::keep_if_failed(self.dir.take());
    }
}
