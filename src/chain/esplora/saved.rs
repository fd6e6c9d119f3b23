//! What the next start wants to know, in a file: fee estimates, how much of the budget is used, and a block by which our chain is
//! known again. A file that is not there or is torn costs little: what is in it comes again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bitcoin::Network;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::clock::Clock;

use super::Relay;
use super::block::Block;
use super::endpoint::Endpoint;
use super::same_chain::Ours;

/// Its name, in the node's folder.
pub(crate) const SAVED: &str = "chain.json";

/// How old the file may become while little happens. To an idle node each write is a page of the disk, and one of its folder.
const WRITTEN_EVERY: Duration = Duration::from_secs(600);

/// How many requests it may lack: a program that is killed and started again and again must not exceed its budget by more.
const UNWRITTEN_MAX: u64 = 30;

/// What was written last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    at: Instant,
    block: Option<Block>,
    /// Requests sent by then since the start.
    requests: u64,
}

/// What requests are counted over.
const HOUR_SECS: u64 = 3_600;

/// What stands in the file.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Kept {
    /// Estimates as an Esplora API gives them.
    pub(super) fee_estimates: Option<HashMap<u16, f64>>,
    /// When they were heard, Unix seconds.
    pub(super) heard_secs: u64,
    /// Requests of the hour before `counted_secs`, by endpoint: a program that is started again and again keeps its budget.
    requests: HashMap<String, usize>,
    /// When they were counted, Unix seconds.
    counted_secs: u64,
    /// A block of our chain that is settled: endpoints of another one may be configured from one start to the next.
    pub(super) block: Option<Block>,
}

impl Kept {
    /// Reads what was kept.
    pub(super) async fn read(file: &Path) -> Option<Self> {
        let text = tokio::fs::read(file).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Counts the requests of the last hour.
    pub(super) fn count(&self, endpoints: &[Endpoint], clock: &Clock) {
        let age_secs = clock.unix_secs().saturating_sub(self.counted_secs);
        if age_secs >= HOUR_SECS {
            return;
        }
        let now = Instant::now();
        // All of them as late as they can have been.
        let at = now.checked_sub(Duration::from_secs(age_secs));
        for endpoint in endpoints {
            let count = self.requests.get(&endpoint.base).copied();
            endpoint.took_before(count.unwrap_or(0), at.unwrap_or(now));
        }
    }
}

/// The block by which that file's chain is told from others; if it knows of none, the first one of the network.
pub(crate) async fn mark(file: &Path, network: Network) -> Block {
    let kept = Kept::read(file).await;
    Ours::new(network, kept.and_then(|kept| kept.block)).mark()
}

impl Relay {
    /// Writes down what the next start wants to know, if that is due.
    pub async fn keep(self: &Arc<Self>) {
        if self.is_due(self.ours().settled()) {
            self.write_kept().await;
        }
        self.keep_scripts().await;
    }

    /// Whether the file is to be written, with this settled block; it counts as written then.
    fn is_due(&self, settled: Option<Block>) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = self.requests();
        let is_recent = written.is_some_and(|written| {
            written.at.elapsed() < WRITTEN_EVERY
                && written.block == settled
                && requests - written.requests < UNWRITTEN_MAX
        });
        if !is_recent {
            *written = Some(Written {
                at: Instant::now(),
                block: settled,
                requests,
            });
        }
        !is_recent
    }

    async fn write_kept(&self) {
        let now = Instant::now();
        let known = self.fees.known();
        let estimates = known
            .as_ref()
            .and_then(|heard| serde_json::from_slice(&heard.estimates).ok());
        let requests = self.endpoints.iter().map(|endpoint| {
            let (used, _) = endpoint.spending(now);
            (endpoint.base.clone(), used)
        });
        let kept = Kept {
            fee_estimates: estimates,
            heard_secs: known.map_or(0, |heard| heard.secs),
            requests: requests.collect(),
            counted_secs: self.clock.unix_secs(),
            block: self.ours().settled(),
        };
        let file = &self.kept;
        // By a rename: half a file is none.
        let new = file.with_extension("new");
        let written = async {
            let text = serde_json::to_vec(&kept)?;
            tokio::fs::write(&new, text).await?;
            tokio::fs::rename(&new, file).await
        };
        if let Err(error) = written.await {
            tracing::warn!(
                "Failed to keep what is known of the chain source in {}: {error}",
                file.display()
            );
            // The next call tries again.
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Writes down what the next start wants to know, however recent the last write is.
    pub(crate) async fn keep_at_the_end(self: &Arc<Self>) {
        self.rewrite_resting();
        self.write_kept().await;
        self.keep_scripts().await;
    }

    async fn keep_scripts(self: &Arc<Self>) {
        let relay = Arc::clone(self);
        if let Err(panicked) = tokio::task::spawn_blocking(move || relay.keep_resting()).await {
            tracing::warn!("Failed to write the list of empty addresses: {panicked}");
        }
    }
}
