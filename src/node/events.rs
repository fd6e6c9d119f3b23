//! Handles the node's events. Each event is recorded, flushed, and only then acknowledged.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ldk_node::Event;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::account::ledger::{Claims, Ledger};
use crate::base::clock::Clock;
use crate::chain::esplora::Relay;
use crate::channel_state::ChannelStateError;
use crate::protocol::invoice::Reach;

use super::booking::{enter, enter_channels};
use super::chain::source::Chain;
use super::coins::Coins;
use super::contested::{Contested, Turn};
use super::core::Core;
use super::door::Door;
use super::error::NodeError;
use super::keysends::Keysends;
use super::liquidity::activation::is_provider_here;
use super::liquidity::facet::Liquidity;
use super::liquidity::settings as liquidity;
use super::payments::Payments;
use super::reach::{self, Reachability};
use super::strangers::Strangers;
use super::wallet::Wallet;
use super::writing::Writing;

/// How often the event loop reads the channels, besides after each event. The node gets no event
/// when a peer reconnects.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// The interval of these reads while the node cannot receive payments, because clients are waiting.
const REFRESH_UNREADY_EVERY: Duration = Duration::from_millis(50);

/// The time after which a step counts as stuck. A step takes milliseconds, unless a node whose
/// state is on a server waits for that server.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Handles the node's events.
#[derive(Debug)]
pub(super) struct Events {
    core: Arc<Core>,
    chain: Arc<Chain>,
    reach: Arc<Reachability>,
    wallet: Arc<Wallet>,
    payments: Arc<Payments>,
    liquidity: Arc<Liquidity>,
    writing: Writing,
    /// The channels of peers that the operator did not choose.
    strangers: Strangers,
    door: Option<Arc<Door>>,
    /// The payments that the node claims on chain. A `std` mutex: held for one check, on a thread
    /// that may block.
    contested: Arc<Mutex<Contested>>,
    /// The records of payments without an invoice (keysend).
    keysends: Keysends,
    /// The number of times that a channel was opened, became ready or was closed since the start.
    channel_changes: watch::Sender<u64>,
}

/// The facets that events change.
pub(super) struct Facets<'a> {
    pub(super) chain: &'a Arc<Chain>,
    pub(super) reach: &'a Arc<Reachability>,
    pub(super) wallet: &'a Arc<Wallet>,
    pub(super) payments: &'a Arc<Payments>,
    pub(super) liquidity: &'a Arc<Liquidity>,
}

impl Events {
    pub(super) fn new(
        core: &Arc<Core>,
        facets: &Facets<'_>,
        writing: &Writing,
        strangers: &Strangers,
        door: Option<&Arc<Door>>,
    ) -> Self {
        let config = &core.config;
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(facets.chain),
            reach: Arc::clone(facets.reach),
            wallet: Arc::clone(facets.wallet),
            payments: Arc::clone(facets.payments),
            liquidity: Arc::clone(facets.liquidity),
            writing: writing.clone(),
            strangers: strangers.clone(),
            door: door.cloned(),
            contested: Arc::default(),
            keysends: Keysends::new(config.peers.keysends_max, &config.folder),
            channel_changes: watch::channel(0).0,
        }
    }

    /// Subscribes to the number of times that a channel was opened, became ready or was closed.
    pub(super) fn channel_changes(&self) -> watch::Receiver<u64> {
        self.channel_changes.subscribe()
    }

    /// Handles events one by one until told to stop. This is the node's only consumer of events.
    pub(super) async fn handle(
        &self,
        ldk: &Arc<ldk_node::Node>,
        ledger: &Arc<Ledger>,
        stop: &CancellationToken,
    ) -> Result<(), NodeError> {
        ledger.follow(Arc::clone(&self.writing.claims));
        let (told, books) = (Arc::clone(ldk), Arc::clone(ledger));
        let strangers = self.strangers.clone();
        let known = tokio::task::spawn_blocking(move || {
            strangers.started(&told.list_channels());
            enter_channels(&told, &books)
        });
        known.await.map_err(NodeError::Panicked)??;
        let mut refresh_at = Instant::now();
        loop {
            let event = tokio::select! {
                event = ldk.next_event_async() => Some(event),
                () = sleep_until(refresh_at) => None,
                () = stop.cancelled() => return Ok(()),
            };
            let changes_channels = event
                .as_ref()
                .is_some_and(|event| self.strangers.changes_channels(event));
            if let (Some(event), Some(door), false) = (&event, &self.door, changes_channels) {
                self.strangers.given_up(event, door);
            }
            let step = self.step(ldk, ledger);
            // Every step may wait for the disk, or for a lock that the node holds while it waits for
            // the disk.
            let handled = tokio::task::spawn_blocking(move || step.take(event));
            let mut handled = std::pin::pin!(handled);
            let ended = tokio::select! {
                ended = &mut handled => ended,
                () = sleep_until(Instant::now() + STUCK_AFTER) => {
                    if let Some(pass) = &self.writing.pass {
                        self.reach.set(Reach::Unready(pass.unready()));
                    }
                    tokio::select! {
                        ended = &mut handled => ended,
                        // An orderly stop would also wait for the server.
                        () = stop.cancelled() => return Err(ChannelStateError::Away.into()),
                    }
                }
            };
            let Taken {
                is_event,
                reach,
                is_provider_here,
                is_closing_withheld,
            } = ended.map_err(NodeError::Panicked)??;
            if is_event {
                self.payments.event_handled();
            }
            refresh_at = Instant::now()
                + match reach {
                    Reach::Ready(_) if !is_closing_withheld => REFRESH_EVERY,
                    // A withheld channel must be closed as soon as its peer reconnects, before it
                    // carries a payment.
                    Reach::Ready(_) | Reach::Unready(_) => REFRESH_UNREADY_EVERY,
                };
            // Set before the reach. A request that finds the node unready looks for the bundle kept
            // ready, which needs the provider.
            self.liquidity.provider_is_here(is_provider_here);
            self.reach.set(reach);
            if changes_channels {
                self.channel_changes.send_modify(|count| *count += 1);
            }
        }
    }

    /// The parts that handling the next event needs.
    fn step(&self, ldk: &Arc<ldk_node::Node>, ledger: &Arc<Ledger>) -> Step {
        Step {
            ldk: Arc::clone(ldk),
            ledger: Arc::clone(ledger),
            strangers: self.strangers.clone(),
            door: self.door.clone(),
            keysends: self.keysends.clone(),
            claims: Arc::clone(&self.writing.claims),
            contested: Arc::clone(&self.contested),
            liquidity: self.core.config.liquidity.clone(),
            is_recovering: self.core.is_recovering(),
            clock: self.core.clock.clone(),
            folder: self.core.config.folder.clone(),
            coins: self.wallet.coins().clone(),
            relay: self.chain.relay().cloned(),
        }
    }
}

/// The parts that handling one event needs, on a thread that may block.
struct Step {
    ldk: Arc<ldk_node::Node>,
    ledger: Arc<Ledger>,
    strangers: Strangers,
    door: Option<Arc<Door>>,
    keysends: Keysends,
    claims: Arc<Claims>,
    contested: Arc<Mutex<Contested>>,
    liquidity: liquidity::Config,
    is_recovering: bool,
    clock: Clock,
    folder: PathBuf,
    coins: Coins,
    relay: Option<Arc<Relay>>,
}

/// The result of a step.
struct Taken {
    pub(super) is_event: bool,
    pub(super) reach: Reach,
    pub(super) is_provider_here: bool,
    /// Whether withheld channels, over which nothing may be sold, are still open.
    pub(super) is_closing_withheld: bool,
}

impl Step {
    /// Records an event, if there is one, and checks the channels.
    fn take(self, event: Option<Event>) -> Result<Taken, NodeError> {
        let ldk = &self.ldk;
        if let Some(event) = &event {
            self.coins.hear(event, self.clock.unix_secs());
            if let (Some(relay), Some(sent)) = (&self.relay, self.coins.sent()) {
                relay.keep_sending(Some(sent));
            }
            if self.is_forgotten(event) {
                tracing::debug!(
                    "Ignored a repeated event for a payment without an invoice (keysend)"
                );
            } else {
                enter(ldk, &self.ledger, &self.liquidity, &self.claims, event)?;
            }
            if self.is_recovering {
                refuse(ldk, event);
            }
            if let Event::PaymentReceived {
                payment_id: Some(id),
                ..
            } = event
            {
                self.keysends.arrived(ldk, id);
            }
            ldk.event_handled().map_err(NodeError::Acknowledge)?;
        }
        self.follow_claims()?;
        let (channels, peers) = (ldk.list_channels(), ldk.list_peers());
        let strangers = &self.strangers;
        if let Some(door) = &self.door {
            door.know(&peers, strangers.keeps(&channels));
        }
        if !self.is_recovering {
            strangers.enforce(ldk, &channels, self.door.as_deref(), self.relay.as_deref());
        }
        Ok(Taken {
            is_event: event.is_some(),
            reach: reach::now(ldk, &channels, strangers, &self.clock, &self.folder),
            is_provider_here: is_provider_here(&peers, &self.liquidity),
            is_closing_withheld: strangers.has_open_withheld(),
        })
    }
}

impl Step {
    /// Whether LDK repeats a payment without an invoice (keysend) whose record the node has
    /// deleted.
    fn is_forgotten(&self, event: &Event) -> bool {
        let Event::PaymentReceived { payment_hash, .. } = event else {
            return false;
        };
        // A payer with a preimage may have paid both by keysend and by invoice.
        self.keysends.has_forgotten(&payment_hash.0) && !self.ledger.is_challenged(&payment_hash.0)
    }

    /// Checks, at each new block, the payments that are claimed on chain, and records the lost
    /// ones.
    fn follow_claims(&self) -> Result<(), NodeError> {
        let height = self.ldk.status().current_best_block.height;
        let mut contested = self
            .contested
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !contested.is_due(height) {
            return Ok(());
        }
        let balances = self.ldk.list_balances().lightning_balances;
        for turn in contested.look(&balances, height) {
            match turn {
                Turn::Contested {
                    payment_hash,
                    sat,
                    timeout_height,
                } => {
                    let hash = hex::encode(payment_hash);
                    tracing::warn!(
                        payment.hash = hash,
                        "Payment {hash} of {sat} sat is claimed on chain: its channel was closed before the peer gave it up. \
                         From block {timeout_height} on the peer may take it back; coins in the wallet make the claim faster"
                    );
                }
                Turn::Missed { payment_hash, sat } => {
                    let hash = hex::encode(payment_hash);
                    tracing::warn!(
                        payment.hash = hash,
                        "The claim of payment {hash} of {sat} sat on chain is decided, and how is not known: the chain was not \
                         read meanwhile. `tollhouse balance` shows what arrived"
                    );
                }
                Turn::Lost { payment_hash, sat } => {
                    let hash = hex::encode(payment_hash);
                    let is_sale = self.ledger.lose(&payment_hash)?.is_some();
                    let sale = if is_sale {
                        "; its sale is in the books as lost, and its token is revoked"
                    } else {
                        ""
                    };
                    tracing::error!(
                        payment.hash = hash,
                        "Lost payment {hash} of {sat} sat: the peer of its channel has taken it back on chain{sale}"
                    );
                }
            }
        }
        Ok(())
    }
}

/// Closes a channel that a peer has opened during a recovery. ldk-node refuses anchor channels
/// before this. A refused peer then tries a channel without anchors, which ldk-node accepts from
/// any peer. None of the channel's money is ours.
fn refuse(ldk: &ldk_node::Node, event: &Event) {
    let Event::ChannelPending {
        user_channel_id,
        counterparty_node_id,
        ..
    } = event
    else {
        return;
    };
    let reason = Some("this node recovers from a backup".to_owned());
    let closed = ldk.force_close_channel(user_channel_id, *counterparty_node_id, reason);
    if let Err(error) = closed {
        tracing::warn!("Failed to close a channel that was opened during the recovery: {error}");
    }
}
