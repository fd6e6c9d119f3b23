//! The chain source at run time: the relay in front of Esplora APIs, the results of the syncs, and
//! the clock that it confirms or contradicts.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bitcoin::Network;

use crate::base::error_chain;
use crate::chain::ChainSource;
use crate::chain::esplora::{self, Relay, estimated_fee_rate};
use crate::node::core::Core;
use crate::node::error::{NodeError, NodeUnavailable};

use super::block_clock::BlockClock;

/// A clock that differs by this much from all servers' clocks is wrong. Correct clocks differ by a
/// second.
pub const CLOCK_OFF_SECS: i64 = 120;

/// The node sells nothing if its clock is this far behind: half of the ten minutes for which an
/// invoice is valid by default.
const CLOCK_BEHIND_MAX_SECS: i64 = 300;

/// The results of the syncs, including those that the operator starts.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Looks {
    /// The number of failures in a row.
    pub(super) failures: u32,
    /// When the syncs began to fail, Unix seconds; `None` while they succeed.
    pub(super) failing_secs: Option<u64>,
    /// The error of the last sync, if it failed.
    pub(super) complaint: Option<String>,
    /// When the next sync is due, Unix seconds.
    pub(super) next_secs: Option<u64>,
}

/// The node's chain source.
#[derive(Debug)]
pub(in crate::node) struct Chain {
    pub(in crate::node) core: Arc<Core>,
    /// The relay in front of Esplora APIs, once it is open.
    relay: OnceLock<Arc<Relay>>,
    /// The results of the syncs. A `std` mutex: held to copy a few words, never across an await.
    looks: Mutex<Looks>,
    /// The newest block's time, for sources whose servers do not report their time.
    pub(super) block_clock: BlockClock,
}

impl Chain {
    /// The chain source of the settings. Nothing is opened yet.
    pub(in crate::node) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
            relay: OnceLock::new(),
            looks: Mutex::default(),
            block_clock: BlockClock::default(),
        }
    }

    /// The relay in front of Esplora APIs, if the source has them and it is open.
    pub(in crate::node) fn relay(&self) -> Option<&Arc<Relay>> {
        self.relay.get()
    }

    /// Opens the relay, if the chain source is Esplora.
    pub(in crate::node) async fn open(
        &self,
    ) -> Result<Option<(Arc<Relay>, tokio::net::TcpListener)>, NodeError> {
        let config = &self.core.config;
        let ChainSource::Esplora {
            urls,
            requests_per_hour,
        } = &config.chain.source
        else {
            return Ok(None);
        };
        let opening = esplora::Config {
            network: config.network,
            endpoints: urls.clone(),
            requests_per_hour: *requests_per_hour,
            kept: config.folder.join(esplora::SAVED),
            needs_fees: config.network == Network::Bitcoin,
            waits: esplora::Waits::default(),
        };
        let (relay, listener) = Relay::open(opening, self.core.clock.clone())
            .await
            .map_err(NodeError::Relay)?;
        // A node runs only once. If it ran again, it would use the first relay, which is as good.
        let relay = Arc::clone(self.relay.get_or_init(|| relay));
        Ok(Some((relay, listener)))
    }

    /// The fee rate for a confirmation within so many blocks, in sat per virtual byte; `None` if no server tells it.
    pub(in crate::node) async fn fee_rate_within(&self, target_blocks: u16) -> Option<u64> {
        estimated_fee_rate(self.relay()?.url(), target_blocks).await
    }

    /// The number of requests sent to endpoints so far.
    pub(in crate::node) fn spent(&self) -> u64 {
        self.relay().map_or(0, |relay| relay.requests())
    }

    /// The results of the syncs.
    pub(in crate::node) fn looks(&self) -> Looks {
        let looks = self.looks.lock();
        looks.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes when the next look is due.
    pub(super) fn plan(&self, pause: Option<Duration>) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.next_secs = pause.map(|pause| self.core.clock.unix_secs() + pause.as_secs());
    }

    /// Notes the result of a sync. Logs only the first failure in a row and the first success after
    /// it.
    pub(in crate::node) fn looked(&self, ended: &Result<(), NodeUnavailable>) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        match ended {
            Ok(()) => {
                if looks.failing_secs.take().is_some() {
                    tracing::info!("The chain is read again");
                }
                looks.failures = 0;
                looks.complaint = None;
            }
            Err(error) => {
                looks.failures = looks.failures.saturating_add(1);
                if looks.failing_secs.is_none() {
                    looks.failing_secs = Some(self.core.clock.unix_secs());
                    tracing::warn!("Failed to read the chain: {}", error_chain::chain(error));
                }
                looks.complaint = Some(error_chain::chain(error));
            }
        }
    }

    /// How far our clock is behind the clocks of the chain source's servers, in seconds. Without
    /// such clocks, how far it is certainly behind the newest block.
    pub(in crate::node) fn clock_behind_secs(&self) -> Option<i64> {
        match self.relay() {
            Some(relay) => relay.clock_behind_secs(),
            None => self.block_clock.behind_secs(self.core.clock.unix_secs()),
        }
    }

    /// Whether payers would take a new invoice for expired, because its timestamp comes from our
    /// clock and that is too far behind.
    pub(in crate::node) fn is_clock_behind(&self) -> bool {
        let behind = self.clock_behind_secs();
        behind.is_some_and(|behind| behind >= CLOCK_BEHIND_MAX_SECS)
    }

    /// Whether no known time contradicts our clock.
    pub(in crate::node) fn is_clock_believed(&self) -> bool {
        let behind = self.clock_behind_secs();
        behind.is_none_or(|behind| behind.abs() < CLOCK_OFF_SECS)
    }
}

/// A clock's error in minutes, rounded to the nearest, because two clocks are never read at the
/// same moment.
pub fn clock_minutes(secs: i64) -> u64 {
    (secs.unsigned_abs() + 30) / 60
}
