//! The operator's price hook: a server that decides the price of one request. Many clients may want
//! the same price at once, and some may send requests only to cause work. So answers are cached, a
//! client waits for a running request with the same question, and the number of running requests is
//! limited.

mod answer;
pub(super) mod config;
mod contact;
mod health;
mod kept;
mod places;
mod question;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::HeaderName;
use tokio::time::Instant;

use crate::base::clock::Clock;

use super::ask::{self, AskError, Asker};
use super::unpriced::Unpriced;
use contact::Contact;
use health::Health;
use kept::{Kept, Outcome, Slots};
use places::Places;

pub use answer::{Quoted, QuotedGrant};
pub use config::{HookConfig, HookError, OnFailure};
pub use health::HookStatus;
pub use places::Asking;
pub use question::HookRequest;

/// How long a failure is cached. The same question gets the cached failure during that time.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

/// One hook, with its recent answers.
#[derive(Debug)]
pub struct Hook {
    config: HookConfig,
    asker: Asker,
    clock: Clock,
    /// Limits the number of running calls to the hook.
    places: Places,
    /// The cached answer to each question.
    slots: Slots,
    /// A recent failure to connect, which applies to every question. A `std` mutex: held for a few
    /// instructions.
    unreachable: Mutex<Option<Kept>>,
    /// The times of the connections, which decide whether the hook is away.
    contact: Contact,
    /// The hook's counters and last failure. A `std` mutex: held for a few instructions.
    health: Mutex<Health>,
}

impl Hook {
    /// Does not call the hook yet.
    pub fn new(config: HookConfig, clock: Clock) -> Self {
        Self {
            config,
            asker: Asker::new(),
            health: Mutex::new(Health::new(&clock)),
            clock,
            places: Places::default(),
            slots: Slots::default(),
            unreachable: Mutex::default(),
            contact: Contact::default(),
        }
    }

    /// The names of the request headers that the hook receives.
    pub fn headers(&self) -> &[HeaderName] {
        &self.config.headers
    }

    /// Returns the current price of this request. The same question gets the same answer for the
    /// cache time in the settings.
    pub async fn quote(&self, request: &HookRequest<'_>) -> Result<Quoted, Unpriced> {
        self.quote_for(request, None).await
    }

    /// Returns the price of this request. A client that is named may take only its share of the
    /// concurrent calls to the hook.
    pub async fn quote_for(
        &self,
        request: &HookRequest<'_>,
        asking: Option<Asking>,
    ) -> Result<Quoted, Unpriced> {
        match (self.answer(request, asking).await, self.config.on_failure) {
            (Ok(quoted), OnFailure::Refuse | OnFailure::Price(_)) => Ok(quoted),
            (Err(why), OnFailure::Price(price)) if self.is_away(&why) => {
                Ok(Quoted::without_an_answer(price))
            }
            (Err(why), OnFailure::Refuse | OnFailure::Price(_)) => Err(Unpriced::Hook {
                name: Arc::clone(&self.config.name),
                why,
            }),
        }
    }

    /// Whether this failure means that the hook is unreachable for reasons that this client did not
    /// cause.
    fn is_away(&self, why: &HookError) -> bool {
        match why {
            HookError::Ask(why) => {
                let is_in_full =
                    !matches!(why, AskError::NoConnection(time) if *time < self.config.timeout);
                is_in_full && self.contact.is_away(why, self.clock.since_boot())
            }
            HookError::Busy
            | HookError::NotUnderstood { .. }
            | HookError::Zero
            | HookError::TooDear { .. }
            | HookError::Grant(_)
            | HookError::Description(_)
            | HookError::Class => false,
        }
    }

    async fn answer(&self, request: &HookRequest<'_>, asking: Option<Asking>) -> Outcome {
        let question = request.as_json(&self.config.headers);
        let within = self.config.timeout;
        if self.config.cache.is_zero() {
            return self.ask(request, &question, (within, asking)).await;
        }
        let slot = self.slots.of(&question);
        let begun = Instant::now();
        // The first client to ask holds the slot. If that client hangs up, the next one in line
        // asks.
        let (mut slot, within) = match slot.try_lock() {
            Ok(slot) => (slot, within),
            Err(_) => {
                let slot = tokio::time::timeout(within, slot.lock())
                    .await
                    .map_err(|_| HookError::Busy)?;
                (slot, within.saturating_sub(begun.elapsed()))
            }
        };
        let now_ms = self.clock.since_boot_ms();
        if let Some(outcome) = slot.as_ref().and_then(|kept| kept.at(now_ms)) {
            return outcome;
        }
        let outcome = self.ask(request, &question, (within, asking)).await;
        let keep = match &outcome {
            Ok(_) => Some(self.config.cache),
            // This failure says nothing about the question.
            Err(HookError::Busy) => None,
            // The call had less time than the configured timeout.
            Err(HookError::Ask(AskError::Late(time) | AskError::NoConnection(time)))
                if *time < self.config.timeout =>
            {
                None
            }
            Err(_) => Some(FAILURE_KEPT.min(self.config.cache)),
        };
        *slot = keep.map(|time| Kept::new(outcome.clone(), now_ms, time));
        outcome
    }

    /// Calls the hook, unless a connection failed a moment ago, and logs a failure.
    async fn ask(
        &self,
        request: &HookRequest<'_>,
        question: &[u8],
        (within, asking): (Duration, Option<Asking>),
    ) -> Outcome {
        let now_ms = self.clock.since_boot_ms();
        if let Some(outcome) = self.unreachable().as_ref().and_then(|kept| kept.at(now_ms)) {
            return outcome;
        }
        let outcome = self.ask_now(question, within, asking).await;
        if let Err(HookError::Ask(AskError::Unreachable { .. })) = &outcome {
            let kept = Kept::new(outcome.clone(), now_ms, FAILURE_KEPT);
            *self.unreachable() = Some(kept);
        }
        let error = outcome.as_ref().err();
        self.health().hear(&self.config, request, error, now_ms);
        outcome
    }

    async fn ask_now(&self, question: &[u8], within: Duration, asking: Option<Asking>) -> Outcome {
        let _place = self.places.take(asking).ok_or(HookError::Busy)?;
        let question = bytes::Bytes::copy_from_slice(question);
        let (request, connection) = ask::post(&self.config.address, question);
        let asking = self.contact.asking(&connection, &self.clock);
        let answer = self.asker.ask(request, &connection, within).await;
        asking.heard(&answer);
        let answer = answer?;
        answer::read(&answer, self.config.price_max)
    }

    fn unreachable(&self) -> MutexGuard<'_, Option<Kept>> {
        self.unreachable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All hooks in the settings, by name.
#[derive(Debug)]
pub struct Hooks(Vec<Arc<Hook>>);

impl Hooks {
    /// Does not call any hook yet.
    pub fn new(configs: Vec<HookConfig>, clock: &Clock) -> Self {
        let hooks = configs.into_iter();
        Self(
            hooks
                .map(|config| Arc::new(Hook::new(config, clock.clone())))
                .collect(),
        )
    }

    /// Takes over the state of the hooks whose settings have not changed.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for hook in &mut self.0 {
            let mut known = before.0.iter();
            if let Some(same) = known.find(|known| known.config == hook.config) {
                *hook = Arc::clone(same);
            }
        }
        self
    }

    /// The state of each hook, for the operator.
    pub fn status(&self) -> Vec<HookStatus> {
        let hooks = self.0.iter();
        hooks
            .map(|hook| {
                hook.health()
                    .status(&hook.config, hook.clock.since_boot_ms())
            })
            .collect()
    }

    /// The hook of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Hook>> {
        self.0.iter().find(|hook| &*hook.config.name == name)
    }
}
