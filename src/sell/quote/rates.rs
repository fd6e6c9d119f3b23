//! What a bitcoin costs: asked in the background, answered from memory. No request ever waits for a source.

mod belief;
mod judge;
mod memory;
mod status;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::base::amount::Msat;
use crate::base::clock::{Clock, Moment};
use crate::base::error_chain::chain;
use crate::base::price::{Currency, Fiat, Price, Rate};

use super::Unpriced;
use super::ask::Asker;
use super::source::{Source, SourceError};

use belief::{Belief, Believed};
use memory::Memory;

pub use judge::Doubt;
pub use status::{RateStatus, SourceStatus};

/// The first pause after a failure; doubled each time, up to the usual time between two questions.
const RETRY_FIRST: Duration = Duration::from_secs(2);

/// How a currency's rate is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// Of this currency.
    pub currency: Currency,
    /// Where it comes from.
    pub origin: RateOrigin,
}

/// Where a rate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateOrigin {
    /// The settings.
    Fixed(Rate),
    /// Sources.
    Watched(Watched),
}

/// A rate that sources are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Whom to ask.
    pub sources: Vec<Source>,
    /// How many of them must agree.
    pub quorum: usize,
    /// Time between two questions.
    pub refresh: Duration,
    /// How long a source may take.
    pub timeout: Duration,
    /// How long a rate is good.
    pub max_age: Duration,
    /// A rate below it is not taken.
    pub at_least: Option<Rate>,
    /// A rate above it is not taken.
    pub at_most: Option<Rate>,
}

/// The rates of all currencies.
#[derive(Debug)]
pub struct Rates {
    /// One for each currency, in the settings' order; there are few.
    entries: Vec<Arc<Entry>>,
    world: World,
}

/// Everything that a refresh needs besides the currency.
#[derive(Clone, Debug)]
struct World {
    asker: Asker,
    clock: Clock,
    /// The file with the last good rates.
    memory: Option<Arc<Memory>>,
}

/// An amount of a currency in bitcoin, and the rate that made it so: the books keep both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Rounded up to a whole millisatoshi; never zero.
    pub price: Msat,
    /// What a bitcoin cost.
    pub rate: Rate,
}

/// One currency.
#[derive(Debug)]
struct Entry {
    config: RateConfig,
    /// What is known. A `std` mutex: held for a few instructions, and never across a wait.
    known: Mutex<Known>,
    /// Held while its sources are asked, so that an earlier answer never comes after a later one.
    asking: tokio::sync::Mutex<()>,
}

/// What is known of one currency.
#[derive(Debug, Default)]
struct Known {
    /// The last rate that could be taken, and when its sources were asked.
    taken: Option<Taken>,
    /// The rate that the next one is compared with.
    belief: Belief,
    /// Why the last answers could not be taken.
    doubt: Option<Doubt>,
    /// Whether the log has been told that nothing can be sold by it.
    is_told_unusable: bool,
    /// What each source last said, in the settings' order.
    sources: Vec<LastSaid>,
}

/// A rate that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    rate: Rate,
    /// When its sources were asked, in milliseconds since the machine started. Its age counts from then, and
    /// setting the clock does not change it.
    asked_ms: u64,
}

impl Taken {
    /// Converts the time from the wall clock, as in the file, to the time since the machine started. `None` if the
    /// rate was taken before the machine started or by a clock that was ahead, because then its age is not certain.
    fn since_boot(self, now: Moment) -> Option<Self> {
        let age_ms = now.unix_ms.checked_sub(self.asked_ms)?;
        let asked_ms = now.since_boot_ms.checked_sub(age_ms)?;
        Some(Self { asked_ms, ..self })
    }

    /// Converts the time back to the wall clock.
    fn on_the_wall(self, now: Moment) -> Self {
        let age_ms = now.since_boot_ms.saturating_sub(self.asked_ms);
        let asked_ms = now.unix_ms.saturating_sub(age_ms);
        Self { asked_ms, ..self }
    }
}

/// What a source last said.
#[derive(Clone, Debug, Default)]
struct LastSaid {
    /// Its last rate, and when it was asked.
    rate: Option<Taken>,
    /// Why it gave none when it was last asked.
    error: Option<SourceError>,
}

impl Rates {
    /// Knows nothing yet but what stands in the settings; [`Rates::run`] asks.
    pub fn new(configs: Vec<RateConfig>, clock: Clock) -> Self {
        let entries = configs.into_iter().map(Entry::new).map(Arc::new).collect();
        Self {
            entries,
            world: World {
                asker: Asker::new(),
                clock,
                memory: None,
            },
        }
    }

    /// Keeps the last good rates in this file, and starts with its content. The first answers are compared with
    /// these rates, which are used as prices only while they are not too old. Blocks.
    #[must_use]
    pub fn remembering(mut self, file: &Path) -> Self {
        let memory = Memory::open(file);
        let (moment, now) = (self.world.clock.moment(), self.world.clock.since_boot());
        for entry in &self.entries {
            if let RateOrigin::Watched(watched) = &entry.config.origin
                && let Some(taken) = memory.of(&entry.config, watched, moment.unix_ms)
            {
                let mut known = entry.known();
                known.belief.begin(taken.rate, now);
                known.taken = taken.since_boot(moment);
            }
        }
        self.world.memory = Some(Arc::new(memory));
        self
    }

    /// New settings: a currency whose settings are the same goes on with what was known of it. One whose settings are new
    /// forgets it, which is also how an operator says that a rate that jumped is right.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for entry in &mut self.entries {
            let mut known = before.entries.iter();
            if let Some(same) = known.find(|known| known.config == entry.config) {
                *entry = Arc::clone(same);
            }
        }
        self
    }

    /// What a bitcoin costs now. Cheap: from memory.
    pub fn rate(&self, currency: Currency) -> Result<Rate, Unpriced> {
        let mut entries = self.entries.iter();
        let entry = entries
            .find(|entry| entry.config.currency == currency)
            .ok_or(Unpriced::NoRate(currency))?;
        entry.rate(self.world.clock.since_boot_ms())
    }

    /// What that is in bitcoin now.
    pub fn convert(&self, fiat: Fiat) -> Result<Converted, Unpriced> {
        let rate = self.rate(fiat.currency)?;
        let price = fiat.at(rate).ok_or(Unpriced::TooLarge(fiat))?;
        Ok(Converted { price, rate })
    }

    /// A price in bitcoin now, and the rate at which it is, if it goes by one.
    pub fn in_msat(&self, price: Price) -> Result<(Msat, Option<Rate>), Unpriced> {
        match price {
            Price::Fixed(amount) => Ok((amount, None)),
            Price::Fiat(fiat) => {
                let converted = self.convert(fiat)?;
                Ok((converted.price, Some(converted.rate)))
            }
        }
    }

    /// Asks all sources now, and waits until they have been heard.
    pub async fn refresh(&self) {
        let mut asking = JoinSet::new();
        for entry in &self.entries {
            let (entry, world) = (Arc::clone(entry), self.world.clone());
            asking.spawn(async move { entry.refresh(&world).await });
        }
        asking.join_all().await;
    }

    /// Asks again and again, each currency at its own pace, until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut watching = JoinSet::new();
        for entry in &self.entries {
            let (entry, world) = (Arc::clone(entry), self.world.clone());
            let stop = stop.clone();
            watching.spawn(async move {
                let watch = entry.watch(&world);
                stop.run_until_cancelled(watch).await;
            });
        }
        // Panics if one of them does.
        watching.join_all().await;
        stop.cancelled().await;
    }

    /// What is known of each currency, for the operator.
    pub fn status(&self) -> Vec<RateStatus> {
        let now_ms = self.world.clock.since_boot_ms();
        let entries = self.entries.iter();
        entries.map(|entry| status::of(entry, now_ms)).collect()
    }
}

impl Entry {
    fn new(config: RateConfig) -> Self {
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

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in it is half done if somebody panics.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rate(&self, now_ms: u64) -> Result<Rate, Unpriced> {
        let watched = match &self.config.origin {
            RateOrigin::Fixed(rate) => return Ok(*rate),
            RateOrigin::Watched(watched) => watched,
        };
        self.known().usable(&self.config, watched, now_ms)
    }

    /// Asks again and again. After a failure sooner than usual, for customers are turned away meanwhile.
    async fn watch(&self, world: &World) {
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

    /// Asks all sources at once. Whether their answers could be taken.
    async fn refresh(&self, world: &World) -> bool {
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

    /// The new rate, if one can be taken from these answers.
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
    /// Remembers an answer, and tells the log if it is news.
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
                // Once, and again if it is another kind of failure: not at every question.
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
    fn usable(
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

    /// Takes a rate that is believed, or logs why there is none.
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
