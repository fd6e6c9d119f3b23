//! A local Esplora API for the node, in front of the endpoints that the operator has configured. It
//! does failover, keeps a budget of requests, and caches answers that do not change. It knows
//! nothing of the node.
//!
//! One endpoint is in use until it fails, because two servers are never at exactly the same block.
//! LDK closes a channel if its funding transaction vanishes (`Funding transaction was
//! un-confirmed`), and a server that lags behind looks like that. So an endpoint with fewer blocks
//! than were seen before is not trusted (see `tip.rs`), nor is an endpoint on another chain (see
//! `same_chain.rs`).

mod block;
mod broadcast;
mod cache;
mod client;
mod date;
mod endpoint;
mod fault;
mod fees;
mod left_out;
mod question;
mod resting;
mod same_chain;
mod saved;
mod serve;
mod status;
mod tip;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::Network;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::base::clock::Clock;

use broadcast::Broadcasts;
use cache::{Cache, Moment};
use endpoint::{ATTEMPT, Endpoint};
use fault::Fault;
use fees::Fees;
use left_out::LeftOut;
use question::{Answer, Learned, Question, Worth};
use resting::Resting;
use same_chain::Ours;
use saved::Kept;
use tip::TipSeen;

pub use status::{EndpointStatus, RelayStatus};
pub use tip::Waits;

pub(crate) use block::Block;
pub(crate) use broadcast::Sent;
pub(in crate::chain) use client::client;
pub(crate) use client::estimated_fee_rate;
pub(crate) use left_out::{Fundings, Where};
pub(crate) use resting::GIVEN;
pub(crate) use saved::{SAVED, mark};

/// The longest time that an answer may take. ldk-node's client gives up after 10 s, which leaves
/// time for the transfer.
const PATIENCE: Duration = Duration::from_secs(8);

/// The longest time that fee estimates may take: ldk-node waits 5 s. After it, the last known
/// estimates are used.
const FEES_PATIENCE: Duration = Duration::from_secs(3);

/// With less time left than this, no further endpoint is asked.
const TIME_LEAST: Duration = Duration::from_millis(500);

/// The part of a search's URL between the base URL and the path.
const SEARCHES: &str = "/search";

/// The settings of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network of all endpoints.
    pub network: Network,
    /// The base URLs of Esplora APIs, without a trailing slash, the preferred one first.
    pub endpoints: Vec<String>,
    /// The requests per hour to each endpoint.
    pub requests_per_hour: usize,
    /// The file that keeps fee estimates and a block of the chain for the next start. Other files
    /// are kept beside it.
    pub kept: PathBuf,
    /// Whether fee estimates are required: on the main network, ldk-node does not start without
    /// any.
    pub needs_fees: bool,
    /// The waits before something unusual is believed.
    pub waits: Waits,
}

/// The reason why the relay could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// No port on loopback could be opened.
    #[error("failed to listen on loopback for the node")]
    Listen(#[source] std::io::Error),
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness")]
    Randomness,
    /// The HTTP client could not be built, because TLS does not work here.
    #[error("failed to make a client for {base}")]
    Client {
        /// The base URL of the endpoint.
        base: String,
        /// The client's error.
        #[source]
        source: esplora_client::Error,
    },
}

/// The error that no endpoint answers, with each endpoint's reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no endpoint answers: {0}")]
struct NoAnswer(String);

/// The relay in front of the configured Esplora APIs.
#[derive(Debug)]
pub struct Relay {
    clock: Clock,
    endpoints: Vec<Endpoint>,
    /// The index of the endpoint in use.
    current: AtomicUsize,
    /// The cached answers. The `std` mutex is held for a look-up, never across an await.
    cache: Mutex<Cache>,
    /// The newest block. The `std` mutex is held to compare, never across an await.
    tip: Mutex<TipSeen>,
    /// The blocks that identify our chain. The `std` mutex is held for a look-up.
    ours: Mutex<Ours>,
    /// Held while an endpoint is checked before it comes into use, so that concurrent questions
    /// check it once.
    judging: tokio::sync::Mutex<()>,
    /// The file that keeps fee estimates and a block of the chain.
    kept: PathBuf,
    /// The state of that file at the last write. The `std` mutex is held for a look-up.
    written: Mutex<Option<crate::chain::esplora::saved::Written>>,
    fees: Fees,
    broadcasts: Broadcasts,
    /// Transactions that the relay does not query. The `std` mutex is held for a look-up.
    left_out: Mutex<LeftOut>,
    /// The wallet's scripts, and which of them rest. The `std` mutex is held for a look-up.
    resting: Mutex<Resting>,
    /// Held while the list of scripts is written, on a thread that may block.
    writing_resting: Mutex<()>,
    /// The time since which no endpoint answers, in Unix seconds; 0 while one answers.
    degraded_secs: AtomicU64,
    /// The number of requests sent to endpoints since the start.
    requests: AtomicU64,
    /// The base URL for the node. Its secret path keeps other users of this machine from spending
    /// the budget.
    url: String,
    /// The path of `url`.
    root: String,
}

impl Relay {
    /// Opens the relay on a free port of loopback. It answers once [`Relay::run`] is polled.
    ///
    /// # Errors
    /// If no port, no randomness or no TLS is available.
    pub async fn open(
        config: Config,
        clock: Clock,
    ) -> Result<(Arc<Self>, TcpListener), RelayError> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(RelayError::Listen)?;
        let address = listener.local_addr().map_err(RelayError::Listen)?;
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|_| RelayError::Randomness)?;
        let root = format!("/{}", hex::encode(secret));
        let endpoints = config.endpoints.iter().map(|base| {
            Endpoint::new(base, config.requests_per_hour).map_err(|source| RelayError::Client {
                base: base.clone(),
                source,
            })
        });
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        let kept = Kept::read(&config.kept).await;
        let folder = config.kept.parent().map(PathBuf::from).unwrap_or_default();
        if let Some(kept) = &kept {
            kept.count(&endpoints, &clock);
        }
        let settled = kept.as_ref().and_then(|kept| kept.block);
        let relay = Self {
            clock,
            endpoints,
            current: AtomicUsize::new(0),
            cache: Mutex::default(),
            tip: Mutex::new(TipSeen::new(config.waits)),
            ours: Mutex::new(Ours::new(config.network, settled)),
            judging: tokio::sync::Mutex::default(),
            kept: config.kept,
            written: Mutex::default(),
            fees: Fees::new(config.needs_fees, kept.as_ref()),
            broadcasts: Broadcasts::default(),
            left_out: Mutex::default(),
            resting: Mutex::new(Resting::read(&folder)),
            writing_resting: Mutex::default(),
            degraded_secs: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            url: format!("http://{address}{root}"),
            root,
        };
        Ok((Arc::new(relay), listener))
    }

    /// Returns the base URL for the node, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the base URL for a search. A question below it is never answered from the list of
    /// resting scripts.
    pub fn url_for_searches(&self) -> String {
        format!("{}{SEARCHES}", self.url)
    }

    /// Returns the number of requests sent to endpoints since the start.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns when the first endpoint that is not paused has room for this many wallet requests.
    /// Returns `None` if one has room now, or if all endpoints are paused.
    pub fn room_at(&self, count: u64) -> Option<Instant> {
        let now = Instant::now();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let answering = self
            .endpoints
            .iter()
            .filter(|endpoint| !endpoint.is_paused(now));
        // `None` sorts first and means now.
        answering
            .map(|endpoint| endpoint.room_at(count, now))
            .min()
            .flatten()
    }

    /// Makes all later answers fresh, except fee estimates and answers that cannot have changed.
    pub fn look_afresh(&self) {
        self.tip().look_afresh();
        self.cache().look_afresh(Instant::now());
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the index of the endpoint in use.
    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Returns the endpoints in the order of asking: the one in use first, then the others as
    /// configured.
    fn order(&self) -> impl Iterator<Item = usize> {
        let current = self.current();
        let others = (0..self.endpoints.len()).filter(move |index| *index != current);
        std::iter::once(current).chain(others)
    }

    /// Answers a question from the cache, or from the first endpoint that answers.
    async fn ask(&self, question: &Question) -> Result<Answer, NoAnswer> {
        if let Some(answer) = self.known(question) {
            return Ok(answer);
        }
        if *question == Question::TipHash {
            self.look_around().await;
        }
        let patience = if *question == Question::Fees {
            FEES_PATIENCE
        } else {
            PATIENCE
        };
        let deadline = Instant::now() + patience;
        loop {
            for index in self.order() {
                let now = Instant::now();
                // An endpoint without enough time to answer is not to blame for that.
                if now + TIME_LEAST > deadline {
                    return Err(self.no_answer(question));
                }
                let waits = self.endpoints[index].waits_until(question.worth(), now);
                if waits.is_some() {
                    continue;
                }
                let asked = timeout_at(deadline, self.ask_of(index, question));
                match asked.await.unwrap_or(Err(Fault::Late { within: ATTEMPT })) {
                    Ok(answer) => return Ok(answer),
                    Err(fault) => self.failed(index, &fault),
                }
            }
            // No endpoint may be asked now. The relay waits out a short pause, because the node's
            // sync would fail otherwise.
            match self.next_chance(question) {
                Some(chance) if chance < deadline => sleep_until(chance).await,
                Some(_) | None => return Err(self.no_answer(question)),
            }
        }
    }

    fn known(&self, question: &Question) -> Option<Answer> {
        let now = Instant::now();
        let tip = self.tip();
        let moment = Moment {
            now,
            height: tip.height(),
            newest: tip.newest(now),
        };
        drop(tip);
        self.cache().get(question, &moment)
    }

    /// Returns when the first endpoint may be asked again.
    fn next_chance(&self, question: &Question) -> Option<Instant> {
        let now = Instant::now();
        let chances = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.waits_until(question.worth(), now).unwrap_or(now));
        chances.min()
    }

    /// Asks one endpoint. It must be on our chain and, if it is not the one in use, have all known
    /// blocks.
    async fn ask_of(&self, index: usize, question: &Question) -> Result<Answer, Fault> {
        self.judge(index).await?;
        let (answer, learned) = self.send(index, question, question.worth()).await?;
        if *question == Question::Fees && learned.is_empty && self.fees.are_needed() {
            return Err(Fault::NoFees);
        }
        if let Some(tip) = learned.tip {
            self.examine(index, tip).await?;
        }
        if *question == Question::Blocks {
            self.ours().learn(&learned.heights);
        }
        self.use_from_now_on(index);
        self.hear_scripts(&learned);
        self.cache()
            .put(question, &answer, &learned, Instant::now());
        let secs = self.clock.unix_secs();
        self.endpoints[index].succeeded(secs);
        if self.degraded_secs.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!(
                "The chain source answers again: {}",
                self.endpoints[index].base
            );
        }
        Ok(answer)
    }

    /// Sends a question to an endpoint and charges it to the budget for this priority.
    async fn send(
        &self,
        index: usize,
        question: &Question,
        worth: Worth,
    ) -> Result<(Answer, Learned), Fault> {
        let endpoint = &self.endpoints[index];
        endpoint.take(worth, Instant::now())?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        endpoint.ask(question).await
    }

    fn use_from_now_on(&self, index: usize) {
        let before = self.current.swap(index, Ordering::Relaxed);
        if before != index {
            // The other endpoint's recent answers describe another moment.
            self.look_afresh();
            let (from, to) = (&self.endpoints[before].base, &self.endpoints[index].base);
            tracing::warn!("The chain is read from {to} from now on, no longer from {from}");
        }
    }

    fn failed(&self, index: usize, fault: &Fault) {
        // The budget is used up, which is not the endpoint's fault.
        if *fault == Fault::Spent {
            return;
        }
        let endpoint = &self.endpoints[index];
        if endpoint.failed(fault, Instant::now(), self.clock.unix_secs()) {
            tracing::warn!("The chain source {} gave no answer: {fault}", endpoint.base);
        }
    }

    /// Records that no endpoint answers, and returns the reasons.
    fn no_answer(&self, question: &Question) -> NoAnswer {
        let (now, secs) = (Instant::now(), self.clock.unix_secs());
        let whys = self.endpoints.iter().map(|endpoint| {
            let (_, left) = endpoint.spending(now);
            let complaint = endpoint.state().complaint.clone();
            match complaint {
                Some((complaint, _)) if left > 0 => format!("{}: {complaint}", endpoint.base),
                Some(_) | None => format!("{}: {}", endpoint.base, Fault::Spent),
            }
        });
        let why = NoAnswer(whys.collect::<Vec<_>>().join("; "));
        let is_guarded = |endpoint: &Endpoint| endpoint.waits_until(Worth::Guard, now).is_none();
        // The wallet can wait for the next hour's budget as long as the channels are watched.
        let is_short = question.worth() == Worth::Wallet && self.endpoints.iter().any(is_guarded);
        let since = &self.degraded_secs;
        if !is_short
            && since
                .compare_exchange(0, secs, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::warn!("The node is without its chain source: {why}");
        }
        why
    }
}
