//! A stranger that makes all attacks at once that cost it nothing, for a soak test.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bitcoin::{Amount, OutPoint};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Idle, Stranger, Wire};
use crate::esplora::{Esplora, Manner};
use crate::folder;
use crate::network::Network;
use crate::payer::{Payer, PayerOptions, Peer};
use crate::port;
use crate::wait::eventually;

/// Its money, enough for a channel after each kill of a long soak test.
const FUNDS: Amount = Amount::from_sat(500_000_000);
/// The size of its channels.
const CHANNEL_SAT: u64 = 200_000;
/// Confirmations until both sides use a channel.
const CHANNEL_BLOCKS: u32 = 6;
/// How long it tries to get a usable channel. Without one it makes the other attacks only.
const USABLE_DEADLINE: Duration = Duration::from_secs(5);
/// Its address, in a network (/24) other than the buyers': the merchant shuts out the whole network of a peer that exceeds its
/// limits.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
/// The amount of each payment that it sends without an invoice (keysend).
const KEYSEND_MSAT: u64 = 1;
/// The most keysends in all: together less than a satoshi, so that the merchant's balance, which is counted in sat, does not
/// change.
const KEYSENDS_MAX: u64 = 900;
/// The keysends in one round.
const KEYSENDS: u64 = 2;
/// Idle connections that it leaves open.
const SOCKETS: usize = 40;
/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// A stranger that attacks a merchant.
#[derive(Debug)]
pub struct Pest {
    stranger: Stranger,
    /// Its own chain source.
    esplora: Esplora,
    /// The merchant, at the address where the wire to it listens.
    merchant: Peer,
    _wire: Wire,
    /// The funding outputs of its channels, closed ones included. A std mutex: held to extend or to copy it.
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
    /// Starts a pest with money in its wallet.
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

    /// The number of attacks that have succeeded so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// The funding outputs of its channels, closed ones included. Most of their transactions were never broadcast.
    #[must_use]
    pub fn fundings(&self) -> Vec<OutPoint> {
        let channels = self.stranger.node.channels();
        let now = channels.iter().filter_map(|channel| channel.funding_txo);
        let mut fundings = self.fundings.lock().unwrap_or_else(PoisonError::into_inner);
        fundings.extend(now);
        fundings.iter().copied().collect()
    }

    /// Opens a usable channel if it has none, and closes those that it never funded. Failures are ignored: the merchant may
    /// refuse its channels, and a channel that it began before may have spent the same coin.
    pub async fn get_ready(&self, network: &Network) {
        self.esplora.answers(Manner::Well);
        let node = &self.stranger.node;
        let _ = node.connect(self.merchant).await;
        let _ = node.sync().await;
        // If a funding transaction appears at the last moment, its channel is funded, and is closed here anyway.
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
        let opened = timeout(
            USABLE_DEADLINE,
            node.open_channel(self.merchant, CHANNEL_SAT),
        );
        let funding = opened.await.context("the merchant has shut it out")??;
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

    /// Attacks the merchant, whether it is running or not.
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

    /// One round of all attacks. The merchant may stop at any moment, so each of them may fail.
    async fn round(&self) {
        let node = &self.stranger.node;
        for _ in 0..KEYSENDS {
            if self.keysends.fetch_add(1, Ordering::AcqRel) < KEYSENDS_MAX {
                let sent = node.keysend(self.merchant, KEYSEND_MSAT).await;
                self.note(sent.is_ok());
            }
        }
        // This channel is never funded: the chain source drops the transactions that the pest broadcasts.
        let Peer { node_id, address } = self.merchant;
        let open = move |node: &ldk_node::Node| {
            node.open_channel(node_id, address.into(), CHANNEL_SAT, None, None)
        };
        let opened = node.blocking(open).await;
        self.note(matches!(opened, Ok(Ok(_))));
        // Starts to open another channel, and disconnects before it is open.
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
    /// Ends the work; attacks that are under way are abandoned.
    pub async fn end(mut self) {
        self.task.shutdown().await;
    }
}
