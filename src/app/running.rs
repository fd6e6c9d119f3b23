//! A running program: its tasks, what ends them, and the order in which they end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::ledger::{Ledger, LedgerError};
use crate::base::error_chain::chain;
use crate::base::sparing;
use crate::node::Node;
use crate::operate::api::Following;
use crate::operate::backup::Backups;
use crate::sell::http::{Server, Stop};

use super::certificates;
use super::error::AppError;
use super::inbound::Inbound;
use super::reload::{Beside, Reloading};

/// Time between two writes of the records that no caller waits for. A crash loses at most this much
/// of the use counts, in the customer's favour.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The tasks of a running program, in the order in which they are stopped.
pub(super) struct Running {
    http: Tasks,
    node: Tasks,
    admin: Tasks,
    writer: Tasks,
}

/// The part of the program that faces the public.
pub(super) enum Front {
    /// The program's own listener.
    Listener(Box<Server>),
    /// Guards in an embedding program.
    Guards {
        /// The admitted requests, each until the last byte of its response.
        in_flight: TaskTracker,
        /// Time for requests in flight to finish when the program stops.
        grace: Duration,
    },
}

impl Front {
    /// Serves until the program stops, then waits for requests in flight, at most for the grace
    /// time.
    async fn run(self, tracker: TaskTracker, stop: Stop) {
        let (in_flight, grace) = match self {
            Self::Listener(server) => return server.run(tracker, stop).await,
            Self::Guards { in_flight, grace } => (in_flight, grace),
        };
        stop.begin.cancelled().await;
        in_flight.close();
        let is_finished = tokio::select! {
            finished = tokio::time::timeout(grace, in_flight.wait()) => finished.is_ok(),
            () = stop.hurry.cancelled() => false,
        };
        if !is_finished {
            tracing::warn!("Gave up on requests in flight behind guards");
        }
    }
}

/// The servers and the tasks that belong to them, not yet started.
pub(super) struct Servers {
    pub(super) front: Front,
    pub(super) admin: Server,
    pub(super) backups: Arc<Backups>,
    pub(super) reloading: Reloading,
    pub(super) beside: Beside,
    pub(super) inbound: Inbound,
    pub(super) following: Following,
}

/// A group of tasks, and the tokens that stop it.
struct Tasks {
    tracker: TaskTracker,
    stop: Stop,
}

impl Tasks {
    fn new(hurry: CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: Stop {
                begin: CancellationToken::new(),
                hurry,
            },
        }
    }

    /// Spawns a task that runs until the program stops it.
    fn spawn<T: Future<Output = ()> + Send + 'static>(
        &self,
        task: impl FnOnce(CancellationToken) -> T,
    ) {
        self.tracker.spawn(task(self.stop.begin.clone()));
    }

    async fn end(&self) {
        self.stop.begin.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Running {
    /// Starts the tasks and waits until all have ended. HTTP starts first, because valid
    /// credentials are served in any state of the node.
    pub(super) async fn start(
        servers: Servers,
        node: Arc<Node>,
        ledger: Arc<Ledger>,
        stop: Stop,
    ) -> Result<(), AppError> {
        let Servers {
            front,
            admin,
            backups,
            reloading,
            beside,
            inbound,
            following,
        } = servers;
        let shown = reloading.started_with.certificates();
        let clock = reloading.clock.clone();
        let tasks = || Tasks::new(stop.hurry.clone());
        let running = Self {
            http: tasks(),
            node: tasks(),
            admin: tasks(),
            writer: tasks(),
        };
        let Self {
            http: http_tasks,
            node: node_tasks,
            admin: admin_tasks,
            writer: writer_tasks,
        } = &running;
        http_tasks
            .tracker
            .spawn(front.run(http_tasks.tracker.clone(), http_tasks.stop.clone()));
        http_tasks.tracker.spawn(reloading.run(
            beside,
            http_tasks.tracker.clone(),
            http_tasks.stop.clone(),
        ));
        admin_tasks
            .tracker
            .spawn(admin.run(admin_tasks.tracker.clone(), admin_tasks.stop.clone()));
        admin_tasks.spawn(|stop| backups.run(stop));
        admin_tasks.spawn(|stop| following.run(stop));
        admin_tasks.spawn(|stop| certificates::watch(shown, clock, stop));
        let mut writing = writer_tasks.tracker.spawn(write_behind(
            Arc::clone(&ledger),
            writer_tasks.stop.begin.clone(),
        ));
        node_tasks
            .tracker
            .spawn(inbound.watch(node_tasks.stop.begin.clone()));
        let node_ledger = Arc::clone(&ledger);
        let node_stop = node_tasks.stop.begin.clone();
        let mut serving = node_tasks
            .tracker
            .spawn(async move { node.run(node_ledger, node_stop).await });
        let fault = tokio::select! {
            () = stop.begin.cancelled() => None,
            ended = &mut serving => fault(ended),
            ended = &mut writing => fault(ended),
        };
        match &fault {
            None => tracing::info!("Stopping: requests in flight are finished first"),
            Some(fault) => tracing::error!("Stopping because of a fault: {}", chain(fault)),
        }
        // The embedding program and its guards must learn of a fault, too.
        stop.begin.cancel();
        let ended = running.end(&ledger).await;
        // Return the first fault, which may also be why the ledger failed to close.
        fault.map_or(ended, Err)
    }

    /// Stops the groups in reverse order: the public front, the node, the operator's listener, the
    /// ledger's writer. Then it closes the ledger.
    async fn end(self, ledger: &Arc<Ledger>) -> Result<(), AppError> {
        self.http.end().await;
        self.node.end().await;
        self.admin.end().await;
        self.writer.end().await;
        let ledger = Arc::clone(ledger);
        tokio::task::spawn_blocking(move || ledger.close()).await??;
        tracing::info!("Stopped");
        Ok(())
    }
}

/// Writes the records that no caller waits for, until `stop` is cancelled.
async fn write_behind(ledger: Arc<Ledger>, stop: CancellationToken) -> Result<(), LedgerError> {
    let mut tick = interval(WRITE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        sparing::tell_held_back();
        let ledger = Arc::clone(&ledger);
        tokio::task::spawn_blocking(move || ledger.write_behind())
            .await
            .expect("whatever the ledger does with its store is calm")?;
    }
}

/// The fault that ended a task before the program stopped it; `None` if the task ended without one.
fn fault<E: Into<AppError>>(
    ended: Result<Result<(), E>, tokio::task::JoinError>,
) -> Option<AppError> {
    match ended {
        Ok(ended) => ended.err().map(Into::into),
        Err(panicked) => Some(panicked.into()),
    }
}
