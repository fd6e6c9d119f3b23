//! A stranger who does everything at once that costs nothing: for a soak.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bitcoin::{Amount, OutPoint};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Idle, Stranger, Wire};
use crate::esplora::{Esplora, Manner};
use crate::folder;
use crate::network::Network;
use crate::payer::{Payer, PayerOptions, Peer};
use crate::port;
use crate::wait::eventually;

/// Enough for a channel after each kill of a long soak.
const FUNDS: Amount = Amount::from_sat(500_000_000);
/// The size of its channels.
const CHANNEL_SAT: u64 = 200_000;
/// Confirmations until both sides use a channel.
const CHANNEL_BLOCKS: u32 = 6;
/// How long it tries for a channel that works. Without one it does the rest of what it does.
const USABLE_DEADLINE: Duration = Duration::from_secs(5);
/// Its address. The merchant shuts out the whole network (/24) of a peer that goes beyond its limits, and this one is not the buyers'.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
/// What it sends without an invoice.
const KEYSEND_MSAT: u64 = 1;
/// Of these in all: less than a satoshi together, so that the merchant's money, which is counted in sat, stays what it was.
const KEYSENDS_MAX: u64 = 900;
/// Of these in one round.
const KEYSENDS: u64 = 2;
/// Sockets that it leaves open.
const SOCKETS: usize = 40;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// A stranger who bothers a merchant.
#[derive(Debug)]
pub struct Pest {
    stranger: Stranger,
    /// Its own chain source.
    esplora: Esplora,
    /// The merchant, at the near end of the wire.
    merchant: Peer,
    _wire: Wire,
    /// What funds its channels, closed ones included. A std mutex: held to extend or to copy it.
    fundings: Mutex<BTreeSet<OutPoint>>,
    keysends: AtomicU64,
    done: AtomicU64,
    /// The data of its node, which may outlive the network; removed last.
    _dir: TempDir,
}

/// A pest at work; dropping it ends the work.
#[derive(Debug)]
pub struct Bother {
    task: JoinSet<()>,
}

impl Pest {
    /// A pest with money.
    ///
    /// # Errors
    /// When its node does not come up, or gets no money.
    pub async fn start(network: &Network) -> Result<Arc<Self>> {
        let dir = folder::temporary()?;
        let esplora = Esplora::start(&network.bitcoind)?;
        let node = Payer::start(PayerOptions {
            dir: dir.path().to_owned(),
            esplora: esplora.url(),
            listen: Some(port::free()?),
        });
        let stranger = Stranger::of(node.await?)?;
        let money = (stranger.node.new_address().await?, FUNDS);
        network.bitcoind.send(&[money]).await?;
        network.mine(1).await?;
        stranger.node.sync().await?;
        let peer = network.peer();
        let wire = Wire::from(ADDRESS, peer.address)?;
        Ok(Arc::new(Self {
            stranger,
            esplora,
            merchant: Peer {
                address: wire.address(),
                ..peer
            },
            _wire: wire,
            fundings: Mutex::default(),
            keysends: AtomicU64::new(0),
            done: AtomicU64::new(0),
            _dir: dir,
        }))
    }

    /// Its node's id, as the merchant shows it.
    #[must_use]
    pub fn node_id(&self) -> String {
        self.stranger.peer.node_id.to_string()
    }

    /// How many things it has done that a merchant could do without.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// What funds its channels, closed ones included. Most of it was never broadcast.
    #[must_use]
    pub fn fundings(&self) -> Vec<OutPoint> {
        let channels = self.stranger.node.channels();
        let now = channels.iter().filter_map(|channel| channel.funding_txo);
        let mut fundings = self.fundings.lock().unwrap_or_else(PoisonError::into_inner);
        fundings.extend(now);
        fundings.iter().copied().collect()
    }

    /// Opens a channel that works if it has none, and gives up those that it never funded. What fails is left: the merchant
    /// may refuse its channels, and something that it began before may have spent the same coin.
    pub async fn get_ready(&self, network: &Network) {
        self.esplora.answers(Manner::Well);
        let node = &self.stranger.node;
        let _ = node.connect(self.merchant).await;
        let _ = node.sync().await;
        // What was broadcast at the last moment is funded, and closed here all the same.
        let _known = self.fundings();
        let mut has_funded = false;
        for channel in node.channels() {
            if channel.confirmations.unwrap_or_default() > 0 {
                has_funded = true;
                continue;
            }
            let (id, peer) = (channel.user_channel_id, channel.counterparty_node_id);
            let close = move |node: &ldk_node::Node| node.force_close_channel(&id, peer, None);
            let _ = node.blocking(close).await;
        }
        if (!has_funded || self.until_usable().await.is_err())
            && let Err(error) = self.open_channel(network).await
        {
            tracing::debug!("The pest has no channel: {error:#}");
        }
        self.esplora.answers(Manner::Swallows);
    }

    /// Opens a channel and waits until it can be used.
    async fn open_channel(&self, network: &Network) -> Result<()> {
        let node = &self.stranger.node;
        let funding = node.open_channel(self.merchant, CHANNEL_SAT).await?;
        network.bitcoind.wait_for_mempool(funding).await?;
        network.mine(CHANNEL_BLOCKS).await?;
        self.until_usable().await
    }

    async fn until_usable(&self) -> Result<()> {
        eventually("the pest's channel", USABLE_DEADLINE, || async {
            let synced = self.stranger.node.sync().await;
            synced.map_err(|error| format!("{error:#}"))?;
            match self.is_usable() {
                true => Ok(Some(())),
                false => Err("no usable channel".to_owned()),
            }
        })
        .await
    }

    fn is_usable(&self) -> bool {
        let channels = self.stranger.node.channels();
        channels.iter().any(|channel| channel.is_usable)
    }

    /// Bothers the merchant, whether it is there or not.
    #[must_use]
    pub fn bother(self: &Arc<Self>) -> Bother {
        let mut task = JoinSet::new();
        let pest = Arc::clone(self);
        task.spawn(async move {
            loop {
                let idle = Idle::open(pest.merchant.address, SOCKETS).await;
                pest.note(idle.as_ref().is_ok_and(|idle| idle.left() > 0));
                pest.round().await;
                sleep_until(Instant::now() + PAUSE).await;
            }
        });
        Bother { task }
    }

    /// Everything once. The merchant may be gone at any moment, so nothing of it need work.
    async fn round(&self) {
        let node = &self.stranger.node;
        for _ in 0..KEYSENDS {
            if self.keysends.fetch_add(1, Ordering::AcqRel) < KEYSENDS_MAX {
                let sent = node.keysend(self.merchant, KEYSEND_MSAT).await;
                self.note(sent.is_ok());
            }
        }
        // Never funded: what it broadcasts is swallowed.
        let Peer { node_id, address } = self.merchant;
        let open = move |node: &ldk_node::Node| {
            node.open_channel(node_id, address.into(), CHANNEL_SAT, None, None)
        };
        let opened = node.blocking(open).await;
        self.note(matches!(opened, Ok(Ok(_))));
        // Another one, and it hangs up before it is made.
        let opened = self.stranger.opens_and_hangs_up(self.merchant, CHANNEL_SAT);
        self.note(opened.await.is_ok());
        let connect = move |node: &ldk_node::Node| node.connect(node_id, address.into(), true);
        let _ = node.blocking(connect).await;
    }

    fn note(&self, is_done: bool) {
        self.done.fetch_add(u64::from(is_done), Ordering::AcqRel);
    }
}

impl Bother {
    /// Ends it; what is under way is given up.
    pub async fn end(mut self) {
        self.task.shutdown().await;
    }
}
