//! Hostile Lightning peers, and the regtest setup that they share with a merchant ([`Ground`]).
//!
//! The peers are real LDK nodes. Three things make them hostile. Their connection to the merchant can delay, hold and
//! cut messages ([`Wire`]). Their chain source drops their transactions ([`Manner::Swallows`]). They also hold idle
//! connections ([`Idle`]).

mod crowd;
mod pest;
mod sockets;
mod wire;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bitcoin::{Amount, Txid};
use ldk_node::lightning::ln::msgs::SocketAddress;
use tempfile::TempDir;

use crate::bitcoind::Bitcoind;
use crate::client::Client;
use crate::esplora::{Esplora, Manner};
use crate::folder;
use crate::merchant::{Merchant, MerchantOptions};
use crate::payer::{Payer, PayerOptions, Peer};
use crate::port;
use crate::wait::eventually;

pub use crowd::Crowd;
pub use pest::{Bother, Pest};
pub use sockets::Idle;
pub use wire::{Flow, Wire};

/// Confirmations until both sides use a channel.
const CHANNEL_BLOCKS: u32 = 6;
/// How long both sides may take from the last block until they use a channel: a few messages.
const USABLE_DEADLINE: Duration = Duration::from_secs(30);
/// How often both sides sync with the chain again while they wait for a channel.
const SYNC_AGAIN: Duration = Duration::from_millis(500);

/// A regtest chain, and a merchant with an empty wallet and no channel. It starts without strangers.
#[derive(Debug)]
pub struct Ground {
    /// The merchant; its node is running.
    pub merchant: Merchant,
    /// The id and address of the merchant's node, which stay the same over its restarts.
    pub peer: Peer,
    /// The chain source of the merchant only.
    pub esplora: Esplora,
    /// The chain source of the strangers.
    pub strangers_esplora: Esplora,
    /// The chain.
    pub bitcoind: Bitcoind,
    /// An HTTP client that can read challenges.
    pub client: Client,
    /// An address of the merchant's wallet, for the money to close channels with.
    deposit: bitcoin::Address,
    /// The folder of the run, removed last.
    dir: Option<TempDir>,
}

/// A node that the merchant does not know.
#[derive(Debug)]
pub struct Stranger {
    /// The node.
    pub node: Payer,
    /// Its id, and the address at which it listens.
    pub peer: Peer,
}

impl Ground {
    /// Starts a merchant with these options, except that its folder and its chain source are those of the setup.
    ///
    /// # Errors
    /// When a part does not come up.
    pub async fn start(options: MerchantOptions) -> Result<Self> {
        let dir = folder::temporary()?;
        let bitcoind = Bitcoind::start(dir.path()).await?;
        let esplora = Esplora::start(&bitcoind)?;
        let strangers_esplora = Esplora::start(&bitcoind)?;
        let mut merchant = Merchant::start(MerchantOptions {
            dir: Some(dir.path().join("merchant")),
            esplora: esplora.url(),
            ..options
        })
        .await?;
        let deposit = merchant.wait_running().await?;
        let peer = merchant.peer().await?;
        Ok(Self {
            merchant,
            peer,
            esplora,
            strangers_esplora,
            bitcoind,
            client: Client::new()?,
            deposit,
            dir: Some(dir),
        })
    }

    /// Starts a stranger with this much money in its wallet.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn stranger(&self, name: &str, funds_sat: u64) -> Result<Stranger> {
        let node = Payer::start(self.options(name)?);
        self.funded(node.await?, funds_sat).await
    }

    /// Starts a stranger with this much money that may announce its channels.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn announced_stranger(&self, name: &str, funds_sat: u64) -> Result<Stranger> {
        let node = Payer::start_announced(self.options(name)?);
        self.funded(node.await?, funds_sat).await
    }

    fn options(&self, name: &str) -> Result<PayerOptions> {
        let dir = self.dir.as_ref().map(TempDir::path);
        Ok(PayerOptions {
            dir: dir.context("the folder of the run is gone")?.join(name),
            esplora: self.strangers_esplora.url(),
            listen: Some(port::free()?),
        })
    }

    async fn funded(&self, node: Payer, funds_sat: u64) -> Result<Stranger> {
        let stranger = Stranger::of(node)?;
        let address = stranger.node.new_address().await?;
        let money = (address, Amount::from_sat(funds_sat));
        self.bitcoind.send(&[money]).await?;
        self.bitcoind.mine(1).await?;
        stranger.node.sync().await?;
        Ok(stranger)
    }

    /// Puts money into the merchant's wallet, and waits until it can be spent.
    ///
    /// # Errors
    /// When bitcoind or the merchant fails.
    pub async fn fund_merchant(&self, sat: u64) -> Result<()> {
        let money = (self.deposit.clone(), Amount::from_sat(sat));
        self.bitcoind.send(&[money]).await?;
        self.bitcoind.mine(1).await?;
        // A sync that was under way when the block was mined does not see the block.
        eventually("the merchant's money", USABLE_DEADLINE, || async {
            let admin = self.merchant.admin();
            admin.sync().await.map_err(|error| format!("{error:#}"))?;
            let status = admin.status().await;
            let status = status.map_err(|error| format!("{error:#}"))?;
            let spendable = &status["node"]["balances"]["onchain_spendable_sat"];
            match spendable.as_u64() {
                Some(some) if some >= sat => Ok(Some(())),
                _ => Err(spendable.to_string()),
            }
        })
        .await
    }

    /// Mines blocks, and syncs the merchant and these strangers with the chain.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn mine(&self, blocks: u32, strangers: &[&Stranger]) -> Result<()> {
        self.bitcoind.mine(blocks).await?;
        self.sync(strangers).await
    }

    /// Syncs the merchant and these strangers with the chain.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn sync(&self, strangers: &[&Stranger]) -> Result<()> {
        for stranger in strangers {
            stranger.node.sync().await?;
        }
        self.merchant.admin().sync().await
    }

    /// Opens a channel to the merchant at this address, with the whole balance on the stranger's side, and waits until both sides
    /// use it.
    ///
    /// # Errors
    /// When the merchant refuses it.
    pub async fn open_channel(&self, stranger: &Stranger, at: Peer, sat: u64) -> Result<Txid> {
        let funding = stranger.node.open_channel(at, sat).await?;
        self.bitcoind.wait_for_mempool(funding).await?;
        self.mine(CHANNEL_BLOCKS, &[stranger]).await?;
        self.wait_usable(stranger, funding).await?;
        Ok(funding)
    }

    /// Waits until the stranger uses the channel that this transaction funds.
    ///
    /// # Errors
    /// When it does not become usable.
    pub async fn wait_usable(&self, stranger: &Stranger, funding: Txid) -> Result<()> {
        let mut synced = Instant::now();
        eventually("the channel to be usable", USABLE_DEADLINE, || {
            let sync_again = synced.elapsed() > SYNC_AGAIN;
            if sync_again {
                synced = Instant::now();
            }
            async move {
                if sync_again {
                    let synced = self.sync(&[stranger]).await;
                    synced.map_err(|error| format!("{error:#}"))?;
                }
                let channels = stranger.node.channels();
                let of_funding = |txo: bitcoin::OutPoint| txo.txid == funding;
                let mut ours = channels
                    .iter()
                    .filter(|channel| channel.funding_txo.is_some_and(of_funding));
                match ours.next() {
                    Some(channel) if channel.is_usable => Ok(Some(())),
                    Some(channel) => Err(format!("{:?} confirmations", channel.confirmations)),
                    None => Err(format!("closed: {:?}", stranger.node.channels_closed())),
                }
            }
        })
        .await
    }

    /// Restarts the merchant with these settings in addition to the harness's own.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_merchant(&mut self, settings: &str) -> Result<()> {
        settings.clone_into(&mut self.merchant.settings_mut().extra);
        self.merchant.restart().await?;
        self.merchant.wait_running().await?;
        Ok(())
    }

    /// From now on the strangers' chain source drops the transactions that they broadcast, and answers that it accepted them.
    pub fn swallow_broadcasts(&self) {
        self.strangers_esplora.answers(Manner::Swallows);
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Stops the processes that write into the folder first. A failure cannot be reported from here.
        let _ = self.merchant.kill();
        self.esplora.stop();
        self.strangers_esplora.stop();
        self.bitcoind.stop();
        folder::keep_if_failed(self.dir.take());
    }
}

impl Stranger {
    /// Makes a stranger of a node; the node must listen.
    fn of(node: Payer) -> Result<Self> {
        let addresses = node.node().listening_addresses().unwrap_or_default();
        let address = match addresses.first() {
            Some(SocketAddress::TcpIpV4 { addr, port }) => SocketAddr::from((*addr, *port)),
            other => bail!("a stranger does not listen at {other:?}"),
        };
        let node_id = node.node_id();
        Ok(Self {
            node,
            peer: Peer { node_id, address },
        })
    }

    /// Begins to open a channel and disconnects at once.
    ///
    /// # Errors
    /// When the node refuses to begin.
    pub async fn opens_and_hangs_up(&self, at: Peer, sat: u64) -> Result<()> {
        self.begins_channel(at, sat).await?;
        self.hangs_up(at).await
    }

    /// Begins to open a channel, and does not wait for the outcome.
    ///
    /// # Errors
    /// When the node refuses to begin.
    pub async fn begins_channel(&self, at: Peer, sat: u64) -> Result<()> {
        let Peer { node_id, address } = at;
        let open = move |node: &ldk_node::Node| {
            node.open_channel(node_id, address.into(), sat, None, None)
        };
        let opened = self.node.blocking(open).await?;
        opened.map(drop).context("failed to open a channel")
    }

    /// Disconnects from this peer.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn hangs_up(&self, at: Peer) -> Result<()> {
        let hang_up = move |node: &ldk_node::Node| node.disconnect(at.node_id);
        let hung_up = self.node.blocking(hang_up).await?;
        hung_up.context("failed to hang up")
    }

    /// The height of the block at which it may first take back a payment that it sent and that is still in flight.
    #[must_use]
    pub fn takes_back_at(&self) -> Option<u32> {
        self.node.takes_back_at()
    }

    /// The ids of the transactions that fund its channels, whether they were broadcast or not.
    #[must_use]
    pub fn fundings(&self) -> Vec<Txid> {
        let channels = self.node.channels();
        let fundings = channels.iter().filter_map(|channel| channel.funding_txo);
        fundings.map(|funding| funding.txid).collect()
    }

    /// The on-chain balance of its wallet, as of the blocks that it knows.
    #[must_use]
    pub fn wallet_sat(&self) -> u64 {
        self.node.node().list_balances().total_onchain_balance_sats
    }
}
