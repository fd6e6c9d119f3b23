//! The node: a core that all parts share, and facets with a state of their own.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::base::clock::Clock;
use crate::keys::NodeKeys;
use crate::protocol::invoice::Reach;

use super::chain::source::Chain;
use super::channels::Channels;
use super::config::Config;
use super::core::Core;
use super::door::Door;
use super::error::NodeUnavailable;
use super::events::{self, Events};
use super::liquidity::facet::Liquidity;
use super::payments::Payments;
use super::peers::Peers;
use super::reach::Reachability;
use super::recovery::progress::Recoveries;
use super::start::Starter;
use super::status::Status;
use super::strangers::Strangers;
use super::sync::ChainSync;
use super::wallet::Wallet;
use super::withdraw::Withdrawals;
use super::writing::Writing;

/// The Lightning node: its core and its facets.
#[derive(Debug)]
pub struct Node {
    pub(super) core: Arc<Core>,
    pub(super) chain: Arc<Chain>,
    pub(super) reach: Arc<Reachability>,
    pub(super) sync: Arc<ChainSync>,
    pub(super) wallet: Arc<Wallet>,
    pub(super) payments: Arc<Payments>,
    pub(super) channels: Arc<Channels>,
    pub(super) peers: Peers,
    pub(super) liquidity: Arc<Liquidity>,
    pub(super) withdrawals: Withdrawals,
    pub(super) recovery: Recoveries,
    pub(super) starter: Starter,
    pub(super) events: Events,
    /// The channels of peers that the operator did not choose.
    pub(super) strangers: Strangers,
    /// The door that lets peers connect; `None` if `node.listen` is empty.
    pub(super) door: Option<Arc<Door>>,
    pub(super) writing: Writing,
    /// The node's part of the last status. A `std` mutex: held to copy it.
    pub(super) described: Mutex<Option<Status>>,
}

impl Node {
    /// Creates a node that is not started yet.
    pub fn new(config: Config, keys: NodeKeys, clock: Clock) -> Self {
        let strangers = Strangers::of(&config, &keys);
        let door = Door::of(&config).map(Arc::new);
        let writing = Writing::new(&config, &clock);
        let core = Arc::new(Core::new(config, keys, clock));
        let chain = Arc::new(Chain::new(&core));
        let reach = Arc::new(Reachability::new(&core, &chain, writing.pass.clone()));
        let sync = Arc::new(ChainSync::new(&core, &chain, &reach, &strangers));
        let wallet = Arc::new(Wallet::new(&core, &chain, &sync, &strangers));
        let payments = Arc::new(Payments::new(&core, &chain, &reach));
        let channels = Arc::new(Channels::new(&core, &wallet, &strangers));
        let liquidity = Arc::new(Liquidity::new(&core, &chain, &reach));
        let facets = events::Facets {
            chain: &chain,
            reach: &reach,
            wallet: &wallet,
            payments: &payments,
            liquidity: &liquidity,
        };
        Self {
            peers: Peers::new(&core, &strangers, door.as_ref()),
            withdrawals: Withdrawals::new(&core, &chain, &wallet, &channels, &payments),
            recovery: Recoveries::new(&core, &chain, &sync),
            starter: Starter::new(&core, &chain, &reach, door.as_ref(), &writing),
            events: Events::new(&core, &facets, &writing, &strangers, door.as_ref()),
            described: Mutex::default(),
            core,
            chain,
            reach,
            sync,
            wallet,
            payments,
            channels,
            liquidity,
            strangers,
            door,
            writing,
        }
    }

    /// The on-chain wallet.
    pub fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// Payments and invoices of the operator.
    pub fn payments(&self) -> &Payments {
        &self.payments
    }

    /// The channels.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The peers.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Inbound liquidity from providers.
    pub fn liquidity(&self) -> &Liquidity {
        &self.liquidity
    }

    /// Automatic withdrawals.
    pub fn withdrawals(&self) -> &Withdrawals {
        &self.withdrawals
    }

    /// Recoveries from a backup.
    pub fn recovery(&self) -> &Recoveries {
        &self.recovery
    }

    /// Subscribes to whether and how payments reach the node.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    /// Subscribes to the number of times that a channel was opened, became ready or was closed.
    /// After each change the newest backup is out of date.
    pub fn channel_changes(&self) -> watch::Receiver<u64> {
        self.events.channel_changes()
    }

    /// Syncs with the chain now, instead of at the next interval. This takes as long as the chain
    /// source needs.
    pub async fn sync(&self) -> Result<(), NodeUnavailable> {
        self.sync.now().await
    }
}
