//! The rate of a currency, with the source that it came from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::base::clock::Clock;
use crate::base::error_chain::chain;
use crate::base::price::{Currency, Rate};

use super::super::source::{Source, SourceError};
use super::super::unpriced::Unpriced;
use super::belief::{Belief, Believed};
use super::config::{RateConfig, RateOrigin, Watched};
use super::judge::Doubt;
use super::memory::Memory;
use super::taken::Taken;
use super::world::{RETRY_FIRST, World};

/// One currency with its settings and its current state.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) config: RateConfig,
    /// The current state. A `std` mutex: held for a few instructions and never across an await.
    pub(super) known: Mutex<Known>,
    /// Held while the sources are asked, so that an older answer never replaces a newer one.
    pub(super) asking: tokio::sync::Mutex<()>,
}

/// The current state of one currency.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The last accepted rate.
    pub(super) taken: Option<Taken>,
    /// The state that decides whether a new rate is accepted.
    pub(super) belief: Belief,
    /// The reason why the last answers were not accepted.
    pub(super) doubt: Option<Doubt>,
    /// Whether the log has reported that this currency has no usable rate.
    pub(super) is_told_unusable: bool,
    /// The last result from each source, in the order of the settings.
    pub(super) sources: Vec<LastSaid>,
}

/// The last result from one source.
#[derive(Clone, Debug, Default)]
pub(super) struct LastSaid {
    /// The source's last rate.
    pub(super) rate: Option<Taken>,
    /// The reason why the source's last answer gave no rate.
    pub(super) error: Option<SourceError>,
}

impl Entry {
    pub(super) fn new(config: RateConfig) -> Self {
        let known = Known {
            sources: match &config.origin {
                RateOrigin::Fixed(_) => Vec::new(),
                RateOrigin::Watched(watched) => vec![LastSaid::default(); watched.sources.len()],
            },
            ..Known::default()
        };
        Self {
            config,
            known: Mutex::new(known),
            asking: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        // The state is consistent at every point where a thread could panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rate(&self, now_ms: u64) -> Result<Rate, Unpriced> {
        let watched = match &self.config.origin {
            RateOrigin::Fixed(rate) => return Ok(*rate),
            RateOrigin::Watched(watched) => watched,
        };
        self.known().usable(&self.config, watched, now_ms)
    }

    /// Refreshes this currency in a loop. Retries early after a failure, because clients may be
    /// turned away until a refresh succeeds.
    pub(super) async fn watch(&self, world: &World) {
        let RateOrigin::Watched(watched) = &self.config.origin else {
            return;
        };
        let mut retry = RETRY_FIRST;
        loop {
            let pause = if self.refresh(world).await {
                retry = RETRY_FIRST;
                watched.refresh
            } else {
                let pause = retry.min(watched.refresh);
                retry = pause * 2;
                pause
            };
            #[expect(
                clippy::disallowed_methods,
                reason = "the pause between two questions; nobody waits for it"
            )]
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks all sources at once. Returns whether a rate was accepted.
    pub(super) async fn refresh(&self, world: &World) -> bool {
        let RateOrigin::Watched(watched) = &self.config.origin else {
            return true;
        };
        let _one_at_a_time = self.asking.lock().await;
        let asked_ms = world.clock.since_boot_ms();
        let currency = self.config.currency;
        let mut asking = JoinSet::new();
        for (index, source) in watched.sources.iter().enumerate() {
            let (source, asker, within) = (source.clone(), world.asker.clone(), watched.timeout);
            asking.spawn(async move { (index, source.ask(&asker, currency, within).await) });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by_key(|(index, _)| *index);
        let taken = self.hear(watched, answers, asked_ms, &world.clock);
        if let (Some(taken), Some(memory)) = (taken, &world.memory) {
            let taken = taken.on_the_wall(world.clock.moment());
            self.remember(watched, taken, memory).await;
        }
        taken.is_some()
    }

    /// Returns the new rate, if these answers are accepted.
    fn hear(
        &self,
        watched: &Watched,
        answers: Vec<(usize, Result<Rate, SourceError>)>,
        asked_ms: u64,
        clock: &Clock,
    ) -> Option<Taken> {
        let currency = self.config.currency;
        let mut known = self.known();
        let mut given = Vec::with_capacity(answers.len());
        for ((source, last), (_, answer)) in
            watched.sources.iter().zip(&mut known.sources).zip(answers)
        {
            let rate = last.hear(currency, source, answer, asked_ms);
            given.extend(rate.map(|rate| (source.address.server(), rate)));
        }
        let judged = known.belief.judge(watched, &given, clock.since_boot());
        let taken = known.take(currency, judged, asked_ms);
        known.tell_if_unusable(&self.config, watched, clock.since_boot_ms());
        taken
    }

    async fn remember(&self, watched: &Watched, taken: Taken, memory: &Arc<Memory>) {
        let (config, watched, memory) = (self.config.clone(), watched.clone(), Arc::clone(memory));
        tokio::task::spawn_blocking(move || memory.note(&config, &watched, taken))
            .await
            .expect("noting a rate does not panic");
    }
}

impl LastSaid {
    /// Remembers an answer, and logs it if the source has failed or recovered.
    fn hear(
        &mut self,
        currency: Currency,
        source: &Source,
        answer: Result<Rate, SourceError>,
        asked_ms: u64,
    ) -> Option<Rate> {
        let address = &source.address;
        match answer {
            Ok(rate) => {
                if self.error.take().is_some() {
                    tracing::info!("The source {address} gives the rate of {currency} again");
                }
                self.rate = Some(Taken { rate, asked_ms });
                Some(rate)
            }
            Err(error) => {
                // Logs a failure once, and again only when its kind changes, instead of at every
                // refresh.
                let kind = std::mem::discriminant(&error);
                let is_news = self.error.as_ref().map(std::mem::discriminant) != Some(kind);
                if is_news {
                    tracing::warn!(
                        "The source {address} gives no rate of {currency}: {}",
                        chain(&error)
                    );
                }
                self.error = Some(error);
                None
            }
        }
    }
}

impl Known {
    pub(super) fn usable(
        &self,
        config: &RateConfig,
        watched: &Watched,
        now_ms: u64,
    ) -> Result<Rate, Unpriced> {
        let currency = config.currency;
        let taken = self.taken.ok_or(Unpriced::RateUnknown(currency))?;
        let age = now_ms
            .checked_sub(taken.asked_ms)
            .map(Duration::from_millis);
        match age {
            Some(age) if age <= watched.max_age => Ok(taken.rate),
            Some(_) | None => Err(Unpriced::RateTooOld {
                currency,
                age_secs: age.unwrap_or_default().as_secs(),
            }),
        }
    }

    /// Keeps an accepted rate. Logs the reason if no rate was accepted.
    fn take(
        &mut self,
        currency: Currency,
        judged: Result<Believed, Doubt>,
        asked_ms: u64,
    ) -> Option<Taken> {
        match judged {
            Ok(Believed { rate, changed_from }) => {
                if let Some(last) = changed_from {
                    tracing::warn!(
                        "Accepted the rate of {rate} after {last}: the sources confirmed the change"
                    );
                } else if self.doubt.is_some() || self.taken.is_none() {
                    tracing::info!("A bitcoin costs {rate}");
                }
                self.doubt = None;
                self.taken = Some(Taken { rate, asked_ms });
                self.taken
            }
            Err(doubt) => {
                let kind = std::mem::discriminant(&doubt);
                if self.doubt.as_ref().map(std::mem::discriminant) != Some(kind) {
                    tracing::warn!("The rate of {currency} stays what it was: {doubt}");
                }
                self.doubt = Some(doubt);
                None
            }
        }
    }

    fn tell_if_unusable(&mut self, config: &RateConfig, watched: &Watched, now_ms: u64) {
        let unusable = self.usable(config, watched, now_ms).err();
        if let (Some(why), false) = (&unusable, self.is_told_unusable) {
            tracing::error!(
                "Nothing is sold at prices in {} for now: {why}",
                config.currency
            );
        }
        self.is_told_unusable = unusable.is_some();
    }
}
