//! Buyers: each asks, pays and redeems, and begins again, until the merchant is gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http::StatusCode;
use tokio::task::JoinSet;

use crate::client::{Challenge, Client};
use crate::network::Network;
use crate::payer::Payer;
use crate::wait::eventually;

/// How long the first purchase of a cycle may take.
const FIRST_DEADLINE: Duration = Duration::from_secs(20);

/// Some buyers at work.
#[derive(Debug)]
pub(super) struct Buyers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What they have in common.
#[derive(Debug)]
struct Shared {
    client: Client,
    payer: Arc<Payer>,
    url: String,
    /// Purchases that were made from the request to the resource.
    purchases: AtomicU64,
    /// Whether nobody is to begin again.
    is_enough: AtomicBool,
    /// Every challenge that may have been paid. A std mutex: held for a push.
    challenges: Mutex<Vec<Challenge>>,
}

impl Buyers {
    /// Lets so many of them begin to buy this path.
    pub(super) fn start(network: &Network, path: &str, count: usize) -> Self {
        let shared = Arc::new(Shared {
            client: network.client().clone(),
            payer: Arc::clone(&network.payer),
            url: format!("{}{path}", network.gate_url()),
            purchases: AtomicU64::new(0),
            is_enough: AtomicBool::new(false),
            challenges: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(Arc::clone(&shared).buy());
        }
        Self { shared, tasks }
    }

    /// Waits until one of them has what it bought.
    pub(super) async fn first_purchase(&self) -> Result<()> {
        eventually(
            "the first purchase of the cycle",
            FIRST_DEADLINE,
            || async {
                match self.shared.purchases.load(Ordering::Acquire) {
                    0 => Err("none yet"),
                    _ => Ok(Some(())),
                }
            },
        )
        .await
    }

    /// Lets nobody begin another purchase.
    pub(super) fn enough(&self) {
        self.shared.is_enough.store(true, Ordering::Release);
    }

    /// Every challenge that was, or will be, paid.
    pub(super) fn challenges(&self) -> Vec<Challenge> {
        let challenges = self.shared.challenges.lock();
        challenges.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends those that still wait: the payer's node knows more than they do.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Shared {
    /// Buys until told that it is enough, or until something fails: the merchant is gone, most likely. What came of it is
    /// found out afterwards.
    async fn buy(self: Arc<Self>) {
        while !self.is_enough.load(Ordering::Acquire) {
            let Ok(challenge) = self.client.challenge(&self.url).await else {
                return;
            };
            self.challenges
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(challenge.clone());
            let Ok(paid) = self.payer.pay(&challenge.bolt11).await else {
                return;
            };
            let credential = challenge.credential(&paid);
            match self.client.get(&self.url, Some(&credential)).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    self.purchases.fetch_add(1, Ordering::AcqRel);
                }
                Ok(_) | Err(_) => return,
            }
        }
    }
}
