//! Broadcasts: to every endpoint that answers, for one may keep a transaction to itself. LDK sends what is not confirmed again
//! every 30 s; an endpoint is told once a block, or the budget would be gone with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Transaction, Txid};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Relay;
use super::endpoint::Fault;

/// How long an endpoint's word on a transaction is good, unless a block comes first.
const TOLD_GOOD: Duration = Duration::from_secs(600);

/// Words that are remembered, each some 200 bytes: beyond it all are forgotten, which costs requests and nothing else.
const TOLD_MAX: usize = 1_024;

/// What was broadcast.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    /// What each endpoint said of each transaction. A `std` mutex: held for a look-up, never across an await.
    told: Mutex<HashMap<(usize, Txid), Told>>,
}

/// What an endpoint said of a transaction.
#[derive(Clone, Debug)]
struct Told {
    /// Its own words if it refused it.
    word: Result<(), String>,
    /// The height of the chain then.
    height: u32,
    /// When.
    at: Instant,
}

/// How a broadcast ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Somebody has it.
    Accepted(Txid),
    /// Whoever answered refused it.
    Refused(String),
    /// It is no transaction.
    Malformed,
    /// Nobody answered.
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
}

impl Relay {
    /// Sends a transaction to all endpoints that are not left alone; to all, if all of them are.
    pub(super) async fn broadcast(self: &Arc<Self>, hex: String) -> Sent {
        let Ok(tx) = deserialize_hex::<Transaction>(&hex) else {
            return Sent::Malformed;
        };
        let (txid, now) = (tx.compute_txid(), Instant::now());
        let all = 0..self.endpoints.len();
        // The budget is no reason: there is always room for a broadcast.
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
        match (is_accepted, refusal) {
            (true, _) => Sent::Accepted(txid),
            (false, Some(words)) => Sent::Refused(words),
            (false, None) => Sent::Nowhere(faults.join("; ")),
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
        match endpoint.broadcast(hex).await {
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
