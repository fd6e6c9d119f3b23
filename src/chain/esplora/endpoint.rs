//! One Esplora API: its requests, its budget and its pauses.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::{BlockHash, Txid};
use bytes::Bytes;
use esplora_client::AsyncClient;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, timeout};

use crate::base::{error_chain, text};

use super::date::Heard;
use super::fault::Fault;
use super::question::{Answer, Flaw, Learned, Question, Worth};

/// The period of the budget.
const HOUR: Duration = Duration::from_secs(3_600);

/// The limit for one request. ldk-node gives up a sync of the channels after 10 s, so a second
/// endpoint must get its turn before that.
pub(super) const ATTEMPT: Duration = Duration::from_secs(4);

/// The longest answer. A page of 25 transactions of 400 KB each, in hexadecimal and twice, would be
/// 20 MB, but such transactions do not pay us. A hundred usual ones are 200 KB.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The longest quote of an endpoint's answer in a complaint, in characters.
const SAID_CHARS_MAX: usize = 120;

/// The share of the budget for the wallet, and for the wallet and the channels together. Broadcasts
/// are never refused, but they count. 5 % of 600 are 30 an hour, and a transaction is sent once per
/// block.
const WALLET_PERCENT: usize = 80;
const GUARD_PERCENT: usize = 95;

/// An Esplora API.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The base URL, without a trailing slash.
    pub(super) base: String,
    client: AsyncClient,
    /// The requests per hour.
    budget: usize,
    /// The state. The `std` mutex is held to count, never across an await.
    state: Mutex<State>,
}

/// The state of an endpoint.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The times of the requests within the last hour.
    pub(super) sent: VecDeque<Instant>,
    /// The number of failures since the last success.
    pub(super) failures: u32,
    /// The time until which the endpoint is paused.
    pub(super) until: Option<Instant>,
    /// The height of the endpoint's newest block, and the time at which the endpoint reported it.
    pub(super) height: Option<(u32, Instant)>,
    /// The block of our chain that the endpoint last showed; `None` if it has not shown one.
    pub(super) proven: Option<BlockHash>,
    /// The time of the last good answer, in Unix seconds.
    pub(super) success_secs: Option<u64>,
    /// The last reading of the endpoint's clock.
    pub(super) heard: Option<Heard>,
    /// The last fault and its time, in Unix seconds.
    pub(super) complaint: Option<(String, u64)>,
}

/// The answer of the server.
struct Reply {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Endpoint {
    /// Makes an endpoint that was not asked yet. Fails if TLS does not work on this machine.
    pub(super) fn new(base: &str, budget: usize) -> Result<Self, esplora_client::Error> {
        let client = esplora_client::Builder::new(base)
            // Our own timeout ends first and reports the reason.
            .timeout(ATTEMPT.as_secs() + 1)
            .max_retries(0)
            .header(
                "user-agent",
                concat!("tollhouse/", env!("CARGO_PKG_VERSION")),
            )
            .build_async()?;
        Ok(Self {
            base: base.to_owned(),
            client,
            budget,
            state: Mutex::default(),
        })
    }

    /// Locks and returns the state.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a question and checks the answer.
    pub(super) async fn ask(&self, question: &Question) -> Result<(Answer, Learned), Fault> {
        let path = question.to_string();
        let reply = timeout(ATTEMPT, self.send(&path, None))
            .await
            .map_err(|_| Fault::Late { within: ATTEMPT })??;
        match reply.status {
            StatusCode::OK => match question.check(&reply.body) {
                Ok(learned) => Ok((Answer::Body(reply.body), learned)),
                Err(flaw) => Err(Fault::Garbage { path, flaw }),
            },
            // An HTML page means that the path does not exist at all.
            StatusCode::NOT_FOUND
                if question.may_be_unknown()
                    && !reply.body.trim_ascii_start().starts_with(b"<") =>
            {
                Ok((Answer::NotThere, Learned::default()))
            }
            status => Err(reply.refusal(path, status)),
        }
    }

    /// Sends a transaction. The inner error has the endpoint's own words if it refuses the
    /// transaction.
    pub(super) async fn broadcast(
        &self,
        txid: Txid,
        hex: &str,
    ) -> Result<Result<(), String>, Fault> {
        const PATH: &str = "/tx";
        let reply = timeout(ATTEMPT, self.send(PATH, Some(hex.to_owned())))
            .await
            .map_err(|_| Fault::Late { within: ATTEMPT })??;
        match reply.status {
            StatusCode::OK if reply.body.trim_ascii() == txid.to_string().as_bytes() => Ok(Ok(())),
            StatusCode::OK => Err(Fault::Garbage {
                path: PATH.to_owned(),
                flaw: Flaw("no transaction id"),
            }),
            StatusCode::BAD_REQUEST => Ok(Err(said(&reply.body))),
            status => Err(reply.refusal(PATH.to_owned(), status)),
        }
    }

    async fn send(&self, path: &str, body: Option<String>) -> Result<Reply, Fault> {
        let url = format!("{}{path}", self.base);
        let request = match body {
            None => self.client.client().get(url),
            Some(body) => self.client.client().post(url).body(body),
        };
        let sent = request.send().await;
        let mut response =
            sent.map_err(|error| Fault::Unreachable(error_chain::chain(&error.without_url())))?;
        if let Some(heard) = Heard::of(response.headers(), Instant::now()) {
            self.state().heard = Some(heard);
        }
        let mut read = Vec::new();
        loop {
            let chunk = response.chunk().await;
            let chunk = chunk
                .map_err(|error| Fault::Unreachable(error_chain::chain(&error.without_url())))?;
            let Some(chunk) = chunk else { break };
            if read.len() + chunk.len() > ANSWER_BYTES_MAX {
                let path = path.to_owned();
                return Err(Fault::TooLong {
                    max: ANSWER_BYTES_MAX,
                    path,
                });
            }
            read.extend_from_slice(&chunk);
        }
        Ok(Reply {
            status: response.status(),
            retry_after: retry_after(response.headers()),
            body: read.into(),
        })
    }

    /// Takes one request of this priority out of the budget.
    pub(super) fn take(&self, worth: Worth, now: Instant) -> Result<(), Fault> {
        let mut state = self.state();
        if state.used(now) >= self.allowed(worth) {
            return Err(Fault::Spent);
        }
        state.sent.push_back(now);
        Ok(())
    }

    /// Returns the requests per hour for this priority and lower ones together.
    fn allowed(&self, worth: Worth) -> usize {
        let percent = match worth {
            Worth::Wallet => WALLET_PERCENT,
            Worth::Guard => GUARD_PERCENT,
        };
        self.budget * percent / 100
    }

    /// Counts a broadcast, which is never refused.
    pub(super) fn take_for_broadcast(&self, now: Instant) {
        let mut state = self.state();
        state.used(now);
        state.sent.push_back(now);
    }

    /// Counts requests that an earlier run made at this time.
    pub(super) fn took_before(&self, count: usize, at: Instant) {
        let mut state = self.state();
        let count = count.min(self.budget);
        state.sent.extend(std::iter::repeat_n(at, count));
    }

    /// Returns when the endpoint may be asked with this priority; `None` if it may be asked now.
    pub(super) fn waits_until(&self, worth: Worth, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let over = state.used(now).checked_sub(self.allowed(worth));
        // A request is possible once this request is an hour old.
        let spent = over.and_then(|over| state.sent.get(over));
        let spent = spent.map(|sent| *sent + HOUR);
        let paused = state.until.filter(|until| *until > now);
        paused.max(spent)
    }

    /// Returns when the wallet may send this many requests; `None` if it may send them now. A
    /// number above the hourly allowance counts as that allowance.
    pub(super) fn room_at(&self, count: usize, now: Instant) -> Option<Instant> {
        let allowed = self.allowed(Worth::Wallet);
        let mut state = self.state();
        let over = (state.used(now) + count.min(allowed)).checked_sub(allowed)?;
        // There is room once this request is an hour old.
        let last = state.sent.get(over.checked_sub(1)?)?;
        Some(*last + HOUR)
    }

    /// Whether the endpoint is paused for another reason than its budget.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.state().until.is_some_and(|until| until > now)
    }

    /// Records a good answer.
    pub(super) fn succeeded(&self, now_secs: u64) {
        let mut state = self.state();
        state.failures = 0;
        state.until = None;
        state.success_secs = Some(now_secs);
    }

    /// Records a fault and pauses the endpoint for a while. Returns `true` if the fault is new.
    pub(super) fn failed(&self, fault: &Fault, now: Instant, now_secs: u64) -> bool {
        let mut state = self.state();
        let text = fault.to_string();
        let before = state.complaint.replace((text.clone(), now_secs));
        let success_secs = state.success_secs.unwrap_or(0);
        let is_news = before.is_none_or(|(before, secs)| before != text || success_secs >= secs);
        // Requests that were in flight together and failed together count as one failure.
        if state.until.is_some_and(|until| until > now) {
            return false;
        }
        if !matches!(
            fault,
            Fault::Behind { .. }
                | Fault::OtherChain(_)
                | Fault::NoBlock { .. }
                | Fault::Contradiction
                | Fault::NoFees
        ) {
            state.failures = state.failures.saturating_add(1);
        }
        state.until = Some(now + fault.pause(state.failures));
        is_news
    }

    /// Returns the number of requests in the last hour, and the rest of the budget.
    pub(super) fn spending(&self, now: Instant) -> (usize, usize) {
        let used = self.state().used(now);
        (used, self.budget.saturating_sub(used))
    }
}

impl State {
    /// Returns the number of requests in the last hour.
    fn used(&mut self, now: Instant) -> usize {
        while self.sent.front().is_some_and(|sent| *sent + HOUR <= now) {
            self.sent.pop_front();
        }
        self.sent.len()
    }
}

impl Reply {
    fn refusal(&self, path: String, status: StatusCode) -> Fault {
        Fault::Status {
            path,
            status,
            said: said(&self.body),
            retry_after: self.retry_after,
        }
    }
}

/// Returns the wait that the server asks for in `Retry-After`, if it is given in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let secs = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(secs.trim().parse().ok()?))
}

/// Returns the beginning of a server's answer, in a form that fits a log line.
pub(super) fn said(body: &[u8]) -> String {
    text::said(body, SAID_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(budget: usize) -> Endpoint {
        Endpoint::new("http://127.0.0.1:1", budget).unwrap()
    }

    #[test]
    fn the_wallet_leaves_room_for_what_guards_and_both_for_broadcasts() {
        let (endpoint, now) = (endpoint(100), Instant::now());
        let take = |worth| {
            (0..)
                .take_while(|_| endpoint.take(worth, now).is_ok())
                .count()
        };
        assert_eq!(take(Worth::Wallet), 80);
        assert_eq!(take(Worth::Guard), 15);
        assert_eq!(endpoint.waits_until(Worth::Guard, now), Some(now + HOUR));
        for _ in 0..10 {
            endpoint.take_for_broadcast(now);
        }
        assert_eq!(endpoint.spending(now), (105, 0));
        assert!(endpoint.take(Worth::Guard, now + HOUR).is_ok());
        assert_eq!(endpoint.spending(now + HOUR), (1, 99));
        assert_eq!(endpoint.waits_until(Worth::Wallet, now + HOUR), None);
    }

    #[test]
    fn there_is_room_for_a_look_when_as_much_of_the_last_hour_is_over() {
        let (endpoint, now) = (endpoint(100), Instant::now());
        let at = |minute: u64| now + Duration::from_secs(minute * 60);
        assert_eq!(endpoint.room_at(1_000, now), None);
        for minute in [0, 10, 20] {
            for _ in 0..25 {
                endpoint.take(Worth::Wallet, at(minute)).unwrap();
            }
        }
        let now = at(20);
        assert_eq!(endpoint.room_at(0, now), None);
        assert_eq!(endpoint.room_at(5, now), None);
        assert_eq!(endpoint.room_at(6, now), Some(at(60)));
        assert_eq!(endpoint.room_at(30, now), Some(at(60)));
        assert_eq!(endpoint.room_at(31, now), Some(at(70)));
        assert_eq!(endpoint.room_at(80, now), Some(at(80)));
        assert_eq!(endpoint.room_at(1_000, now), Some(at(80)));
        // Requests for the channels do not leave more room for the wallet.
        for _ in 0..20 {
            endpoint.take(Worth::Guard, now).unwrap();
        }
        assert_eq!(endpoint.room_at(1, now), Some(at(60)));
        assert_eq!(endpoint.room_at(31, at(70)), None);
    }

    #[test]
    fn an_hour_is_any_hour() {
        let (endpoint, now) = (endpoint(60), Instant::now());
        for minute in 0..180_u64 {
            let at = now + Duration::from_secs(minute * 20);
            let _ = endpoint.take(Worth::Wallet, at);
            assert!(endpoint.spending(at).0 <= 48);
        }
    }

    #[test]
    fn questions_that_fail_together_are_one_failure() {
        let (endpoint, now) = (endpoint(60), Instant::now());
        assert!(endpoint.failed(&Fault::Late { within: ATTEMPT }, now, 1));
        for _ in 0..5 {
            assert!(!endpoint.failed(&Fault::Late { within: ATTEMPT }, now, 1));
        }
        let until = endpoint.waits_until(Worth::Guard, now).unwrap();
        assert!(until <= now + Duration::from_millis(1_250));
        endpoint.succeeded(2);
        assert_eq!(endpoint.waits_until(Worth::Guard, now), None);
    }

    #[test]
    fn what_was_said_stays_on_its_line() {
        assert_eq!(said(b" \n"), "nothing");
        assert_eq!(said(b"<html>\r\n<b>"), "<html>\\r\\n<b>");
        assert_eq!(said(&[b'a'; 121]), format!("{}…", "a".repeat(120)));
    }
}
