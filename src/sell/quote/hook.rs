//! The operator's price hook: a server that says what one request costs. Many may want the same price at once, and some want
//! prices only to make work: so an answer is kept for a while, whoever asks for what is being asked already waits for that
//! answer, and only so many questions are on their way at a time.

mod answer;
mod contact;
mod health;
mod kept;
mod places;
mod question;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::HeaderName;
use tokio::time::Instant;

use crate::base::amount::Msat;
use crate::base::clock::Clock;
use crate::base::text::Unseen;

use super::ask::{self, AskError, Asker};
use super::{Address, Unpriced};

use contact::Contact;
use health::Health;
use kept::{Kept, Outcome, Slots};
use places::Places;

pub use answer::{Quoted, QuotedGrant};
pub use health::HookStatus;
pub use places::Asking;
pub use question::HookRequest;

/// How long a failure is remembered: whoever asks for the same meanwhile hears of it at once.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

/// A price hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookConfig {
    /// What routes call it.
    pub name: Arc<str>,
    /// Whom to ask.
    pub address: Address,
    /// How long it may take in all.
    pub timeout: Duration,
    /// The request's headers that it is told.
    pub headers: Vec<HeaderName>,
    /// How long an answer is good for the same question; zero if every request is asked for anew.
    pub cache: Duration,
    /// A higher price is taken for a mistake.
    pub price_max: Msat,
    /// What happens while the hook is away.
    pub on_failure: OnFailure,
}

/// What happens while a hook is away. Failures that a client can cause (a bad answer, a late one, a broken
/// connection) do not count as away, so they never make a request cheaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// No challenge: 503.
    Refuse,
    /// This price, and the route's own grant.
    Price(Msat),
}

/// Why a hook gave no price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// No answer at all.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Not what a hook answers.
    #[error("its answer is not understood ({why}): {said}")]
    NotUnderstood {
        /// What is wrong with it, and where.
        why: String,
        /// The beginning of what it said.
        said: String,
    },
    /// For nothing.
    #[error("it gave a price of zero, which sells nothing; a route is free by access = \"free\"")]
    Zero,
    /// Above the settings' limit.
    #[error("it gave a price of {price_msat} msat, and price_max is {max}")]
    TooDear {
        /// The price.
        price_msat: u64,
        /// The limit.
        max: Msat,
    },
    /// A grant of nothing, or of an age.
    #[error("it gave a grant whose `{0}` is zero, or too large")]
    Grant(&'static str),
    /// A description that cannot be signed.
    #[error("it gave a bad description: {0}")]
    Description(#[source] Unseen),
    /// A class that cannot be written into a token.
    #[error("it gave a class that is not 1 to 32 of a-z, 0-9, - and _")]
    Class,
    /// Too many requests to the hook are running, in all or for this client's network.
    #[error("too many requests to it are running already")]
    Busy,
}

/// One hook, with what it has said lately.
#[derive(Debug)]
pub struct Hook {
    config: HookConfig,
    asker: Asker,
    clock: Clock,
    /// Limits the requests to the hook that run at once.
    places: Places,
    /// What it said to which question.
    slots: Slots,
    /// That it could not be reached, which speaks of every question. A `std` mutex: held for a few instructions.
    unreachable: Mutex<Option<Kept>>,
    /// The times of its connections, to tell whether it is away.
    contact: Contact,
    /// How it does. A `std` mutex as above.
    health: Mutex<Health>,
}

impl Hook {
    /// Asks nobody yet.
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

    /// The headers of a request that it is told.
    pub fn headers(&self) -> &[HeaderName] {
        &self.config.headers
    }

    /// What this request costs now. The same question within the settings' time has the same answer.
    pub async fn quote(&self, request: &HookRequest<'_>) -> Result<Quoted, Unpriced> {
        self.quote_for(request, None).await
    }

    /// The price of this request for this client, which may use only its share of the requests to the hook.
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

    /// Whether this failure means that the hook is unreachable, and this client did not cause it.
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
        // Whoever asks first holds the slot; if its client hangs up, the next one in line asks.
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
            // Says nothing of this question.
            Err(HookError::Busy) => None,
            // It had less time than it may take.
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

    /// Asks, unless it could not be reached a moment ago, and tells the log of a failure.
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

/// All hooks of the settings, by name.
#[derive(Debug)]
pub struct Hooks(Vec<Arc<Hook>>);

impl Hooks {
    /// Asks nobody yet.
    pub fn new(configs: Vec<HookConfig>, clock: &Clock) -> Self {
        let hooks = configs.into_iter();
        Self(
            hooks
                .map(|config| Arc::new(Hook::new(config, clock.clone())))
                .collect(),
        )
    }

    /// New settings: a hook whose settings are the same goes on with what it has said.
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

    /// How they do, for the operator.
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
