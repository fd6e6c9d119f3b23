//! Broadcasts a transaction to every endpoint that answers, because a single endpoint may withhold
//! it. LDK rebroadcasts an unconfirmed transaction every 30 s. An endpoint gets it once per block,
//! or the budget would soon be used up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Transaction, Txid};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::Relay;
use super::fault::Fault;

/// How long an endpoint's reply about a transaction is valid, unless a block comes first.
const TOLD_GOOD: Duration = Duration::from_secs(600);

/// The most replies that are remembered, about 200 bytes each. Beyond it, all are forgotten, which
/// only costs requests.
const TOLD_MAX: usize = 1_024;

/// The most transactions that no endpoint is known to have, and the longest of them in hexadecimal.
/// The wallet's transactions have about 500 bytes.
const UNDELIVERED_MAX: usize = 16;
const UNDELIVERED_BYTES_MAX: usize = 200_000;

/// How often the wallet's undelivered transaction is sent again. Only one is sent at a time, which
/// makes 120 requests an hour, and only while no endpoint answers.
const SEND_AGAIN_EVERY: Duration = Duration::from_secs(30);

/// The state of all broadcasts.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    /// Each endpoint's reply about each transaction. The `std` mutex is held for a look-up, never
    /// across an await.
    told: Mutex<HashMap<(usize, Txid), Told>>,
    /// The result of each broadcast and its time.
    ended: watch::Sender<HashMap<Txid, (Sent, Instant)>>,
    /// The transactions that no endpoint is known to have, as hex. LDK rebroadcasts its own
    /// transactions, while ldk-node's wallet does not. The `std` mutex is held for a look-up.
    undelivered: Mutex<HashMap<Txid, String>>,
    /// The transaction that is sent again. The `std` mutex is held for a look-up.
    kept_sending: Mutex<Option<Txid>>,
}

/// An endpoint's reply about a transaction.
#[derive(Clone, Debug)]
struct Told {
    /// The endpoint's own words if it refused the transaction.
    word: Result<(), String>,
    /// The height of the chain at that time.
    height: u32,
    /// The time of the reply.
    at: Instant,
}

/// The result of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// An endpoint has the transaction.
    Accepted(Txid),
    /// All endpoints that were asked refused the transaction.
    Refused(String),
    /// The hex is not a valid transaction.
    Malformed,
    /// No endpoint is known to have the transaction, and some have not answered.
    Nowhere(String),
}

impl Broadcasts {
    fn said(&self, index: usize, txid: Txid, height: u32) -> Option<Result<(), String>> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.get(&(index, txid))?;
        let is_good = told.height == height && told.at.elapsed() < TOLD_GOOD;
        is_good.then(|| told.word.clone())
    }

    fn heard(&self, index: usize, txid: Txid, told: Told) {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= TOLD_MAX {
            all.clear();
        }
        all.insert((index, txid), told);
    }

    /// Records the result of a broadcast. Returns `true` if it is a refusal that differs from the
    /// last result.
    fn end(&self, txid: Txid, hex: &str, sent: &Sent) -> bool {
        let mut undelivered = self.undelivered();
        if !matches!(sent, Sent::Nowhere(_)) {
            undelivered.remove(&txid);
        } else if hex.len() <= UNDELIVERED_BYTES_MAX {
            if undelivered.len() >= UNDELIVERED_MAX {
                let kept_sending = self.kept_sending();
                undelivered.retain(|txid, _| Some(*txid) == kept_sending);
            }
            undelivered.insert(txid, hex.to_owned());
        }
        drop(undelivered);
        let mut is_news = false;
        self.ended.send_modify(|ended| {
            if ended.len() >= TOLD_MAX {
                ended.clear();
            }
            let before = ended.insert(txid, (sent.clone(), Instant::now()));
            is_news = before.is_none_or(|(before, _)| before != *sent);
        });
        is_news && matches!(sent, Sent::Refused(_))
    }

    /// Waits for the result of a broadcast that began at `began` or later. A new payment from the
    /// same coins may be the same transaction, so earlier results do not count.
    async fn word_on(&self, txid: Txid, began: Instant, within: Duration) -> Option<Sent> {
        let mut ended = self.ended.subscribe();
        let is_new = |ended: &HashMap<Txid, (Sent, Instant)>| {
            ended.get(&txid).is_some_and(|(_, at)| *at >= began)
        };
        let waited = timeout(within, ended.wait_for(is_new));
        // The sender belongs to `self`, so it is never dropped here.
        let ended = waited.await.ok()?.ok()?;
        ended.get(&txid).map(|(sent, _)| sent.clone())
    }

    fn undelivered(&self) -> MutexGuard<'_, HashMap<Txid, String>> {
        let undelivered = self.undelivered.lock();
        undelivered.unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_sending(&self) -> Option<Txid> {
        let kept = self.kept_sending.lock();
        *kept.unwrap_or_else(PoisonError::into_inner)
    }

    fn to_send_again(&self) -> Option<String> {
        let txid = self.kept_sending()?;
        self.undelivered().get(&txid).cloned()
    }
}

impl Relay {
    /// Sends a transaction to all endpoints that are not paused, or to all if all are paused. A
    /// descendant of a missing funding transaction is not sent and counts as accepted.
    pub(super) async fn broadcast(self: &Arc<Self>, hex: String) -> Sent {
        let Ok(tx) = deserialize_hex::<Transaction>(&hex) else {
            return Sent::Malformed;
        };
        let (txid, now) = (tx.compute_txid(), Instant::now());
        if self.leaves_out_spending(&tx) {
            return Sent::Accepted(txid);
        }
        self.pays(&tx);
        let all = 0..self.endpoints.len();
        // The budget does not matter here, because broadcasts are never refused.
        let is_paused = |index: &usize| {
            let until = self.endpoints[*index].state().until;
            until.is_some_and(|until| until > now)
        };
        let healthy: Vec<_> = all.clone().filter(|index| !is_paused(index)).collect();
        let asked = if healthy.is_empty() {
            all.collect()
        } else {
            healthy
        };
        let mut sending = JoinSet::new();
        for index in asked {
            let (relay, hex) = (Arc::clone(self), hex.clone());
            sending.spawn(async move { relay.broadcast_to(index, txid, &hex).await });
        }
        let (mut refusal, mut faults) = (None, Vec::new());
        let mut is_accepted = false;
        while let Some(sent) = sending.join_next().await {
            match sent {
                Ok(Ok(Ok(()))) => is_accepted = true,
                Ok(Ok(Err(words))) => refusal = Some(words),
                Ok(Err(fault)) => faults.push(fault.to_string()),
                Err(panicked) => faults.push(panicked.to_string()),
            }
        }
        let sent = match (is_accepted, refusal) {
            (true, _) => Sent::Accepted(txid),
            (false, Some(words)) if faults.is_empty() => Sent::Refused(words),
            (false, words) => {
                faults.extend(words);
                Sent::Nowhere(faults.join("; "))
            }
        };
        if self.broadcasts.end(txid, &hex, &sent)
            && let Sent::Refused(words) = &sent
        {
            tracing::warn!("The chain source does not take transaction {txid}: {words}");
        }
        sent
    }

    /// Returns the result of the broadcast of this transaction that began at `began`, if the result
    /// comes within this time.
    pub(crate) async fn word_on(
        &self,
        txid: Txid,
        began: Instant,
        within: Duration,
    ) -> Option<Sent> {
        self.broadcasts.word_on(txid, began, within).await
    }

    /// Whether an endpoint has accepted this transaction.
    pub(crate) fn is_taken(&self, txid: Txid) -> bool {
        let ended = self.broadcasts.ended.borrow();
        matches!(ended.get(&txid), Some((Sent::Accepted(_), _)))
    }

    /// Sends this transaction, and no other, again until an endpoint is known to have it.
    pub(crate) fn keep_sending(&self, txid: Option<Txid>) {
        let kept = self.broadcasts.kept_sending.lock();
        *kept.unwrap_or_else(PoisonError::into_inner) = txid;
    }

    /// Sends the undelivered transaction again from time to time, for as long as the future is
    /// polled.
    pub(super) async fn send_again(self: &Arc<Self>) -> Infallible {
        loop {
            sleep_until(Instant::now() + SEND_AGAIN_EVERY).await;
            if let Some(hex) = self.broadcasts.to_send_again() {
                self.broadcast(hex).await;
            }
        }
    }

    async fn broadcast_to(
        &self,
        index: usize,
        txid: Txid,
        hex: &str,
    ) -> Result<Result<(), String>, Fault> {
        let height = self.tip().height();
        if let Some(word) = self.broadcasts.said(index, txid, height) {
            return Ok(word);
        }
        let endpoint = &self.endpoints[index];
        endpoint.take_for_broadcast(Instant::now());
        self.requests
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match endpoint.broadcast(txid, hex).await {
            Ok(word) => {
                let told = Told {
                    word: word.clone(),
                    height,
                    at: Instant::now(),
                };
                self.broadcasts.heard(index, txid, told);
                Ok(word)
            }
            Err(fault) => {
                self.failed(index, &fault);
                Err(fault)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    #[tokio::test]
    async fn what_was_said_of_a_transaction_before_is_no_word_on_its_next_broadcast() {
        let broadcasts = Broadcasts::default();
        let txid = Txid::from_byte_array([1; 32]);
        let refused = Sent::Refused("too cheap".to_owned());
        let first = Instant::now();
        broadcasts.end(txid, "01", &refused);
        let word_since = |began| broadcasts.word_on(txid, began, Duration::from_millis(20));
        assert_eq!(word_since(first).await, Some(refused));
        let again = Instant::now() + Duration::from_nanos(1);
        assert_eq!(word_since(again).await, None);
        broadcasts.end(txid, "01", &Sent::Accepted(txid));
        assert_eq!(word_since(again).await, Some(Sent::Accepted(txid)));
    }

    #[test]
    fn only_what_the_wallet_waits_for_is_sent_again_and_only_until_somebody_has_it() {
        let broadcasts = Broadcasts::default();
        let txid = |byte| Txid::from_byte_array([byte; 32]);
        let nowhere = Sent::Nowhere("away".to_owned());
        broadcasts.end(txid(1), "01", &nowhere);
        assert_eq!(broadcasts.to_send_again(), None);
        // Transactions that LDK rebroadcasts itself do not push out the wallet's transaction.
        *broadcasts.kept_sending.lock().unwrap() = Some(txid(1));
        for byte in 2..100 {
            broadcasts.end(txid(byte), "02", &nowhere);
        }
        assert_eq!(broadcasts.to_send_again().as_deref(), Some("01"));
        assert!(broadcasts.undelivered().len() <= UNDELIVERED_MAX);
        broadcasts.end(txid(1), "01", &Sent::Accepted(txid(1)));
        assert_eq!(broadcasts.to_send_again(), None);
        broadcasts.end(txid(1), "01", &nowhere);
        assert!(broadcasts.to_send_again().is_some());
        // The wallet no longer waits for the transaction, so its coins are free again.
        *broadcasts.kept_sending.lock().unwrap() = None;
        assert_eq!(broadcasts.to_send_again(), None);
    }
}
