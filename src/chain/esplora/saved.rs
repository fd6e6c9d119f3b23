//! A file that keeps data for the next start: fee estimates, the used part of the budget, and a
//! block that identifies our chain. A missing or torn file costs little, because the data is
//! learned again.

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

/// The name of the file in the node's folder.
pub(crate) const SAVED: &str = "chain.json";

/// How old the file may become while little happens. On an idle node, each write costs a disk page
/// of the file and one of its folder.
const WRITTEN_EVERY: Duration = Duration::from_secs(600);

/// How many requests the file may lack. A program that is killed and restarted repeatedly may
/// exceed its budget only by this number.
const UNWRITTEN_MAX: u64 = 30;

/// The data of the last write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    at: Instant,
    block: Option<Block>,
    /// The number of requests sent by then since the start.
    requests: u64,
}

/// The period of the request counts.
const HOUR_SECS: u64 = 3_600;

/// The content of the file.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Kept {
    /// The fee estimates, in the format of an Esplora API.
    pub(super) fee_estimates: Option<HashMap<u16, f64>>,
    /// The time at which an endpoint gave the estimates, in Unix seconds.
    pub(super) heard_secs: u64,
    /// The requests in the hour before `counted_secs`, by endpoint, so that a restart does not
    /// renew the budget.
    requests: HashMap<String, usize>,
    /// The time of the count, in Unix seconds.
    counted_secs: u64,
    /// A settled block of our chain. It detects endpoints of another chain that are configured
    /// between two runs.
    pub(super) block: Option<Block>,
}

impl Kept {
    /// Reads the file; `None` if it is missing or invalid.
    pub(super) async fn read(file: &Path) -> Option<Self> {
        let text = tokio::fs::read(file).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Charges the requests of the last hour to the endpoints' budgets.
    pub(super) fn count(&self, endpoints: &[Endpoint], clock: &Clock) {
        let age_secs = clock.unix_secs().saturating_sub(self.counted_secs);
        if age_secs >= HOUR_SECS {
            return;
        }
        let now = Instant::now();
        // All requests count from the latest time at which they can have been made.
        let at = now.checked_sub(Duration::from_secs(age_secs));
        for endpoint in endpoints {
            let count = self.requests.get(&endpoint.base).copied();
            endpoint.took_before(count.unwrap_or(0), at.unwrap_or(now));
        }
    }
}

/// Returns the block that identifies the chain of this file, or else the network's first block.
pub(crate) async fn mark(file: &Path, network: Network) -> Block {
    let kept = Kept::read(file).await;
    Ours::new(network, kept.and_then(|kept| kept.block)).mark()
}

impl Relay {
    /// Writes the data for the next start, if a write is due.
    pub async fn keep(self: &Arc<Self>) {
        if self.is_due(self.ours().settled()) {
            self.write_kept().await;
        }
        self.keep_scripts().await;
    }

    /// Whether the file must be written with this settled block. If so, it counts as written from
    /// now on.
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
        // A rename replaces the whole file at once, because a half-written file is useless.
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

    /// Writes the data for the next start, however recent the last write is.
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
