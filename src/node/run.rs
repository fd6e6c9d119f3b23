//! Runs the node in rounds: builds and starts it, handles its events, and stops it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::account::ledger::Ledger;
use crate::channel_state::vss::lease::Lease;
use crate::channel_state::{ChannelStateError, copy, database, vss};
use crate::protocol::invoice::Unready;

use super::chain::watch;
use super::core::{Phase, Purpose};
use super::door::Door;
use super::error::NodeError;
use super::facets::Node;
use super::stop::stop_node;
use super::threads::Threads;
use super::{panics, recovery};

/// The longest time to stop a node whose state is on a server, because a stop waits for pending
/// writes. It is shorter than the time after which supervisors kill a process.
const STOP_MAX: Duration = Duration::from_secs(30);

impl Node {
    /// Builds and starts the node, retries while its chain source is away, and handles its events
    /// until told to stop. Ends early only on an error.
    pub async fn run(&self, ledger: Arc<Ledger>, stop: CancellationToken) -> Result<(), NodeError> {
        // The node has its own threads: ldk-node waits for its database on them, and requests must
        // not wait with it.
        let threads = Threads::start()?;
        // Cancelled on an error too, so that no task keeps waiting for the chain.
        let ending = stop.child_token();
        let listeners = Door::listen(&self.core.config.listen).await?;
        let running = async {
            let ended = self.rounds(threads.handle(), ledger, &ending).await;
            ending.cancel();
            ended
        };
        let running = async {
            let (ended, ()) = tokio::join!(running, self.let_in(listeners, &ending));
            ended
        };
        let ended = match self.chain.open().await? {
            None => running.await,
            Some((relay, listener)) => tokio::select! {
                ended = running => ended,
                never = relay.run(listener, ending.clone()) => match never {},
            },
        };
        self.reach.stop(Unready::Stopping);
        self.core.enter(Phase::Stopped);
        ended
    }

    /// Lets peers in until told to stop. Restarts the node if its own listener has died.
    async fn let_in(&self, listeners: Vec<tokio::net::TcpListener>, stop: &CancellationToken) {
        let Some(door) = &self.door else { return };
        let is_running = self.core.is_running();
        let mending = async {
            loop {
                door.dead().await;
                tracing::error!("The node's listener has died, restarting the node");
                self.core.restart();
            }
        };
        tokio::select! {
            () = door.run(listeners, is_running, stop.clone()) => {}
            () = mending => {}
        }
    }

    /// Runs the node, and runs a new one when a restart is requested.
    async fn rounds(
        &self,
        runtime: tokio::runtime::Handle,
        ledger: Arc<Ledger>,
        stop: &CancellationToken,
    ) -> Result<(), NodeError> {
        loop {
            let round = stop.child_token();
            let running = self.run_on(runtime.clone(), Arc::clone(&ledger), round.clone());
            tokio::pin!(running);
            let ended = tokio::select! {
                ended = &mut running => return ended,
                () = self.core.restart_requested() => {
                    round.cancel();
                    running.await
                }
            };
            if ended.is_err() || stop.is_cancelled() {
                return ended;
            }
            self.reach.stop(Unready::Starting);
            // Drops the node, because the next one opens its database.
            self.core.enter(Phase::Starting);
        }
    }

    async fn run_on(
        &self,
        runtime: tokio::runtime::Handle,
        ledger: Arc<Ledger>,
        ending: CancellationToken,
    ) -> Result<(), NodeError> {
        // Runs before anything else opens the database, because a damaged database must not be
        // changed.
        let (folder, vss) = (
            self.core.config.folder.clone(),
            self.core.config.vss.clone(),
        );
        let prepared = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder).map_err(NodeError::Folder)?;
            let is_marked = vss::fits(vss.as_ref(), &folder)?;
            if vss.is_none() {
                database::prepare(&folder)?;
            }
            Ok::<_, NodeError>(is_marked)
        });
        let is_marked = prepared.await.map_err(NodeError::Panicked)??;
        let (Some(vss), Some(pass)) = (&self.core.config.vss, &self.writing.pass) else {
            return self.run_prepared(runtime, ledger, ending).await;
        };
        let running = async {
            match self.starter.lease(vss, pass, is_marked, &ending).await? {
                None => Ok(()),
                Some(lease) => self.run_leased(&lease, runtime, ledger, ending).await,
            }
        };
        tokio::select! {
            ended = running => ended,
            never = pass.headers.watch() => match never {},
        }
    }

    /// Runs the node with the right to use its store, and renews that right.
    async fn run_leased(
        &self,
        lease: &Lease,
        runtime: tokio::runtime::Handle,
        ledger: Arc<Ledger>,
        ending: CancellationToken,
    ) -> Result<(), NodeError> {
        let kept = CancellationToken::new();
        let running = async {
            let ended = self.run_prepared(runtime, ledger, ending).await;
            kept.cancel();
            ended
        };
        let keeping = async {
            if let Err(lost) = lease.keep(&kept).await {
                self.writing.lost.send_replace(lost);
            }
        };
        let (ended, ()) = tokio::join!(running, keeping);
        // A node that did not stop cleanly may still write, so the right is not returned.
        if ended.is_ok() {
            lease.give_back().await;
        }
        ended
    }

    async fn run_prepared(
        &self,
        runtime: tokio::runtime::Handle,
        ledger: Arc<Ledger>,
        ending: CancellationToken,
    ) -> Result<(), NodeError> {
        if !recovery::run(&self.recovery_parts(), &runtime, &ledger, &ending).await? {
            return Ok(());
        }
        let Some(node) = self.starter.up(&runtime, Purpose::Sell, &ending).await? else {
            return Ok(());
        };
        let handling = async {
            let ended = self.events.handle(&node, &ledger, &ending).await;
            ending.cancel();
            ended
        };
        let withdrawing = async {
            if let Some(config) = &self.core.config.withdraw {
                self.withdrawals.keep(config, &ending).await;
            }
        };
        let watching = watch::keep(&self.sync, &node, &ending);
        let after = recovery::watch_after(&self.recovery, &node, &ending);
        let (ended, (), (), ()) = tokio::select! {
            biased;
            why = self.undone() => {
                // LDK panics when it cannot continue. Stopping or dropping the node afterwards
                // panics, too.
                std::mem::forget(Arc::clone(&node));
                return Err(why);
            }
            ended = async { tokio::join!(handling, watching, withdrawing, after) } => ended,
        };
        self.reach.stop(Unready::Stopping);
        if let Some(relay) = self.chain.relay() {
            relay.keep_at_the_end().await;
        }
        if let Err(NodeError::Panicked(_) | NodeError::ChannelState(ChannelStateError::Away)) =
            ended
        {
            // Dropping this node would panic, too.
            std::mem::forget(node);
            return ended;
        }
        let stopping = stop_node(&node);
        if self.core.config.vss.is_none() {
            stopping.await;
        } else if timeout(STOP_MAX, stopping).await.is_err() {
            tracing::error!("The node did not stop: its server is away");
            std::mem::forget(node);
            return ended.and(Err(ChannelStateError::Away.into()));
        }
        ended
    }

    /// Waits for a reason to end at once without another write. Either the state cannot be written,
    /// another program owns it, or a task panicked.
    async fn undone(&self) -> NodeError {
        let (mut unwritable, mut lost) = (
            self.writing.unwritable.subscribe(),
            self.writing.lost.subscribe(),
        );
        let mut panics = panics::listen();
        loop {
            if let Some(why) = unwritable.borrow_and_update().clone() {
                let path = self.core.config.folder.join(copy::FILE);
                return NodeError::Unwritable { path, why };
            }
            if let Some(why) = lost.borrow_and_update().why() {
                return why.into();
            }
            // The senders are fields of this node, so `changed` never fails. LDK reports why it
            // gives up before it panics.
            tokio::select! {
                biased;
                _ = unwritable.changed() => {}
                _ = lost.changed() => {}
                _ = panics.changed() => {
                    if let Some(what) = panics.borrow_and_update().clone() {
                        let is_explained = self.writing.unwritable.subscribe().borrow().is_some()
                            || self.writing.lost.borrow().why().is_some();
                        if !is_explained {
                            return NodeError::TaskGone(what);
                        }
                    }
                }
            }
        }
    }

    fn recovery_parts(&self) -> recovery::Parts<'_> {
        recovery::Parts {
            recovery: &self.recovery,
            starter: &self.starter,
            events: &self.events,
            sync: &self.sync,
        }
    }
}
