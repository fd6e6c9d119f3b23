//! An Esplora API of our own on loopback, to which the node is pointed, in front of those that the operator has configured:
//! failover, a budget of requests, and nothing asked for twice that does not change. It knows nothing of the node.
//!
//! One endpoint is in use until it fails: two servers are never at quite the same block, and LDK closes a channel whose
//! funding transaction it sees vanish (`Funding transaction was un-confirmed`), which is what a server that lags behind looks
//! like. So whoever shows fewer blocks than were seen before is not listened to, see `tip.rs`; nor is whoever is of another chain,
//! see `same_chain.rs`.

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

/// How long ldk-node waits for an answer at most, less what the way takes: its client gives up after 10 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// The same for fee estimates, for which it waits 5 s: then those that are known have to do.
const FEES_PATIENCE: Duration = Duration::from_secs(3);

/// With less time than this nobody is asked any more.
const TIME_LEAST: Duration = Duration::from_millis(500);

/// Between the base URL and the paths of a search.
const SEARCHES: &str = "/search";

/// What the relay is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network that they must be of.
    pub network: Network,
    /// Base URLs of Esplora APIs, without a slash at the end, the best one first.
    pub endpoints: Vec<String>,
    /// Requests an hour to each of them.
    pub requests_per_hour: usize,
    /// Where fee estimates and a block of the chain are kept for the next start; other files are kept beside it.
    pub kept: PathBuf,
    /// Whether there must be fee estimates: ldk-node refuses to start without any on the main network.
    pub needs_fees: bool,
    /// How long to wait before something unusual is believed.
    pub waits: Waits,
}

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// No port on loopback.
    #[error("failed to listen on loopback for the node")]
    Listen(#[source] std::io::Error),
    /// No randomness.
    #[error("the operating system gives no randomness")]
    Randomness,
    /// No client: TLS does not work here.
    #[error("failed to make a client for {base}")]
    Client {
        /// The endpoint.
        base: String,
        /// What the client said.
        #[source]
        source: esplora_client::Error,
    },
}

/// No endpoint answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no endpoint answers: {0}")]
struct NoAnswer(String);

/// The relay.
#[derive(Debug)]
pub struct Relay {
    clock: Clock,
    endpoints: Vec<Endpoint>,
    /// Which of them is in use.
    current: AtomicUsize,
    /// A `std` mutex: held for a look-up, never across an await.
    cache: Mutex<Cache>,
    /// The newest block. A `std` mutex: held to compare, never across an await.
    tip: Mutex<TipSeen>,
    /// Which chain it is. A `std` mutex, too.
    ours: Mutex<Ours>,
    /// Held while an endpoint is judged before it comes into use, so that questions that come together ask once.
    judging: tokio::sync::Mutex<()>,
    /// Where fee estimates and a block of the chain are kept.
    kept: PathBuf,
    /// What of that was last written. A `std` mutex: held for a look.
    written: Mutex<Option<crate::chain::esplora::saved::Written>>,
    fees: Fees,
    broadcasts: Broadcasts,
    /// Transactions that nobody is asked for on the node's behalf. A `std` mutex, too.
    left_out: Mutex<LeftOut>,
    /// The wallet's scripts, and which of them rest. A `std` mutex, too.
    resting: Mutex<Resting>,
    /// Held while the list of them is written, on a thread that may block.
    writing_resting: Mutex<()>,
    /// Since when nobody answers, Unix seconds; 0 while somebody does.
    degraded_secs: AtomicU64,
    /// Requests sent to endpoints since the start.
    requests: AtomicU64,
    /// Where the node finds it. The path keeps other users of this machine from spending the budget.
    url: String,
    /// The path of `url`.
    root: String,
}

impl Relay {
    /// Opens the relay on a free port of loopback; it answers once [`Relay::run`] is polled.
    ///
    /// # Errors
    /// When there is no port, no randomness or no TLS.
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

    /// The base URL for the node, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The base URL for a search, whose questions are never answered from what is known of resting scripts.
    pub fn url_for_searches(&self) -> String {
        format!("{}{SEARCHES}", self.url)
    }

    /// Requests sent to endpoints since the start.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// When there is room for so many requests of the wallet at one of the endpoints that answer; `None` if that is now.
    pub fn room_at(&self, count: u64) -> Option<Instant> {
        let now = Instant::now();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let answering = self
            .endpoints
            .iter()
            .filter(|endpoint| !endpoint.is_paused(now));
        // No time at all is the earliest.
        answering
            .map(|endpoint| endpoint.room_at(count, now))
            .min()
            .flatten()
    }

    /// From now on answers are fresh, but for those that cannot have changed and for fee estimates.
    pub fn look_afresh(&self) {
        self.tip().look_afresh();
        self.cache().look_afresh(Instant::now());
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which endpoint is in use.
    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// The endpoints in the order in which they are asked: who is in use, then the others as configured.
    fn order(&self) -> impl Iterator<Item = usize> {
        let current = self.current();
        let others = (0..self.endpoints.len()).filter(move |index| *index != current);
        std::iter::once(current).chain(others)
    }

    /// The answer to a question: what is known, or what the first endpoint says that answers.
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
                // Whoever has no time left to answer in is not to blame for it.
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
            // All of them are left alone. A short pause is waited for: the node's own look would fail otherwise.
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

    /// When the first of them may be asked again.
    fn next_chance(&self, question: &Question) -> Option<Instant> {
        let now = Instant::now();
        let chances = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.waits_until(question.worth(), now).unwrap_or(now));
        chances.min()
    }

    /// Asks one endpoint, if it is of our chain, and no other than the one in use unless it has all blocks that are known.
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

    /// Sends a question to an endpoint, out of its budget for what it is worth.
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
            // What the other one said a moment ago is of another moment.
            self.look_afresh();
            let (from, to) = (&self.endpoints[before].base, &self.endpoints[index].base);
            tracing::warn!("The chain is read from {to} from now on, no longer from {from}");
        }
    }

    fn failed(&self, index: usize, fault: &Fault) {
        // Nothing to blame it for: there is just nothing left.
        if *fault == Fault::Spent {
            return;
        }
        let endpoint = &self.endpoints[index];
        if endpoint.failed(fault, Instant::now(), self.clock.unix_secs()) {
            tracing::warn!("The chain source {} gave no answer: {fault}", endpoint.base);
        }
    }

    /// Nobody answers: notes since when, and says why.
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
        // The wallet can wait for the next hour's budget, as long as the channels are looked after.
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
