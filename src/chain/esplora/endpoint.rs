//! One Esplora API: what it is asked, how often, and when it is left alone.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::{BlockHash, Txid};
use bytes::Bytes;
use esplora_client::AsyncClient;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, timeout};

use crate::base::error_chain;
use crate::base::text;

use super::date::Heard;
use super::fault::Fault;
use super::question::{Answer, Flaw, Learned, Question, Worth};

/// What the budget is counted over.
const HOUR: Duration = Duration::from_secs(3_600);

/// How long one question may take. ldk-node gives up a look at the channels after 10 s: a second endpoint must have its turn.
pub(super) const ATTEMPT: Duration = Duration::from_secs(4);

/// The longest answer: a page of 25 transactions of 400 KB each, in hexadecimal and twice, would be 20 MB, which nobody pays us
/// with; a hundred usual ones are 200 KB.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How much of what it said goes into a complaint.
const SAID_CHARS_MAX: usize = 120;

/// Of a hundred requests, how many the wallet may use, and how many it and what guards the channels. Broadcasts are never
/// refused, and count: 5 % of 600 are 30 an hour, and one transaction is sent once a block.
const WALLET_PERCENT: usize = 80;
const GUARD_PERCENT: usize = 95;

/// An Esplora API.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Its base URL, without a slash at the end.
    pub(super) base: String,
    client: AsyncClient,
    /// Requests an hour.
    budget: usize,
    /// A `std` mutex: held to count, never across an await.
    state: Mutex<State>,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// When it was asked within the last hour.
    sent: VecDeque<Instant>,
    /// Failures since the last success.
    failures: u32,
    /// Until when it is left alone.
    pub(super) until: Option<Instant>,
    /// The height of its newest block, and when it said so.
    pub(super) height: Option<(u32, Instant)>,
    /// The block by which it was last told from endpoints of other chains; nothing if it was not.
    pub(super) proven: Option<BlockHash>,
    /// When it last gave a good answer, Unix seconds.
    pub(super) success_secs: Option<u64>,
    /// What its clock last showed.
    pub(super) heard: Option<Heard>,
    /// What was last wrong, and when, Unix seconds.
    pub(super) complaint: Option<(String, u64)>,
}

/// What came back.
struct Reply {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Endpoint {
    /// One that was not asked yet; an error if TLS does not work on this machine.
    pub(super) fn new(base: &str, budget: usize) -> Result<Self, esplora_client::Error> {
        let client = esplora_client::Builder::new(base)
            // Ours ends first, and says so.
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

    /// What is known of it.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and reads the answer.
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
            // A page in HTML says that nothing at all is there.
            StatusCode::NOT_FOUND
                if question.may_be_unknown()
                    && !reply.body.trim_ascii_start().starts_with(b"<") =>
            {
                Ok((Answer::NotThere, Learned::default()))
            }
            status => Err(reply.refusal(path, status)),
        }
    }

    /// Sends a transaction: its own words if it refuses it.
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

    /// Takes one request out of the budget, for something of this worth.
    pub(super) fn take(&self, worth: Worth, now: Instant) -> Result<(), Fault> {
        let mut state = self.state();
        if state.used(now) >= self.allowed(worth) {
            return Err(Fault::Spent);
        }
        state.sent.push_back(now);
        Ok(())
    }

    /// Requests an hour for something of this worth, and what is worth less.
    fn allowed(&self, worth: Worth) -> usize {
        let percent = match worth {
            Worth::Wallet => WALLET_PERCENT,
            Worth::Guard => GUARD_PERCENT,
        };
        self.budget * percent / 100
    }

    /// Counts a broadcast, for which there is always room.
    pub(super) fn take_for_broadcast(&self, now: Instant) {
        let mut state = self.state();
        state.used(now);
        state.sent.push_back(now);
    }

    /// Counts requests that were made before this program began, at that time.
    pub(super) fn took_before(&self, count: usize, at: Instant) {
        let mut state = self.state();
        let count = count.min(self.budget);
        state.sent.extend(std::iter::repeat_n(at, count));
    }

    /// When it may be asked for something of this worth; `None` if that is now.
    pub(super) fn waits_until(&self, worth: Worth, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let over = state.used(now).checked_sub(self.allowed(worth));
        // The request whose hour must be over first.
        let spent = over.and_then(|over| state.sent.get(over));
        let spent = spent.map(|sent| *sent + HOUR);
        let paused = state.until.filter(|until| *until > now);
        paused.max(spent)
    }

    /// When the wallet may use so many requests of it; `None` if that is now. What is more than it has for an hour is waited for
    /// as if it were that.
    pub(super) fn room_at(&self, count: usize, now: Instant) -> Option<Instant> {
        let allowed = self.allowed(Worth::Wallet);
        let mut state = self.state();
        let over = (state.used(now) + count.min(allowed)).checked_sub(allowed)?;
        // The last one of those whose hour must be over.
        let last = state.sent.get(over.checked_sub(1)?)?;
        Some(*last + HOUR)
    }

    /// Whether it is left alone, for another reason than its budget.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.state().until.is_some_and(|until| until > now)
    }

    /// It gave a good answer.
    pub(super) fn succeeded(&self, now_secs: u64) {
        let mut state = self.state();
        state.failures = 0;
        state.until = None;
        state.success_secs = Some(now_secs);
    }

    /// It did not: it is left alone for a while. `true` if that is news.
    pub(super) fn failed(&self, fault: &Fault, now: Instant, now_secs: u64) -> bool {
        let mut state = self.state();
        let text = fault.to_string();
        let before = state.complaint.replace((text.clone(), now_secs));
        let success_secs = state.success_secs.unwrap_or(0);
        let is_news = before.is_none_or(|(before, secs)| before != text || success_secs >= secs);
        // Questions that were under way together have failed together, which is one failure.
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

    /// Requests of the last hour, and what is left of its budget.
    pub(super) fn spending(&self, now: Instant) -> (usize, usize) {
        let used = self.state().used(now);
        (used, self.budget.saturating_sub(used))
    }
}

impl State {
    /// How many requests of the last hour there are.
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

/// When a server wants to be asked again, of those that say it in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let secs = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(secs.trim().parse().ok()?))
}

/// The beginning of what somebody said, as a line of the log can hold it.
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
        // What guards took does not leave more to the wallet.
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
