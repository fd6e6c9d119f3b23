//! The bitcoin exchange rates. They are fetched in the background and kept in memory, so no request
//! ever waits for a source.

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

/// The first pause after a failure. It doubles with each failure, up to the usual refresh interval.
const RETRY_FIRST: Duration = Duration::from_secs(2);

/// The settings for one currency's rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// The currency.
    pub currency: Currency,
    /// The origin of the rate.
    pub origin: RateOrigin,
}

/// The origin of a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateOrigin {
    /// A fixed rate from the settings.
    Fixed(Rate),
    /// A rate that is fetched from sources.
    Watched(Watched),
}

/// The settings for a rate that is fetched from sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The sources to ask.
    pub sources: Vec<Source>,
    /// The number of sources that must agree.
    pub quorum: usize,
    /// The time between two refreshes.
    pub refresh: Duration,
    /// The timeout for one source.
    pub timeout: Duration,
    /// The age up to which a rate is used.
    pub max_age: Duration,
    /// The lower bound: lower rates are rejected.
    pub at_least: Option<Rate>,
    /// The upper bound: higher rates are rejected.
    pub at_most: Option<Rate>,
}

/// The rates of all currencies.
#[derive(Debug)]
pub struct Rates {
    /// One entry for each currency, in the order of the settings. There are few entries.
    entries: Vec<Arc<Entry>>,
    world: World,
}

/// The shared resources that a refresh needs.
#[derive(Clone, Debug)]
struct World {
    asker: Asker,
    clock: Clock,
    /// The file with the last good rates.
    memory: Option<Arc<Memory>>,
}

/// An amount of fiat money in bitcoin, and the rate that was used. The ledger records both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The amount in bitcoin, rounded up to a whole millisatoshi; never zero.
    pub price: Msat,
    /// The price of a bitcoin at the time of conversion.
    pub rate: Rate,
}

/// One currency with its settings and its current state.
#[derive(Debug)]
struct Entry {
    config: RateConfig,
    /// The current state. A `std` mutex: held for a few instructions and never across an await.
    known: Mutex<Known>,
    /// Held while the sources are asked, so that an older answer never replaces a newer one.
    asking: tokio::sync::Mutex<()>,
}

/// The current state of one currency.
#[derive(Debug, Default)]
struct Known {
    /// The last accepted rate.
    taken: Option<Taken>,
    /// The state that decides whether a new rate is accepted.
    belief: Belief,
    /// The reason why the last answers were not accepted.
    doubt: Option<Doubt>,
    /// Whether the log has reported that this currency has no usable rate.
    is_told_unusable: bool,
    /// The last result from each source, in the order of the settings.
    sources: Vec<LastSaid>,
}

/// An accepted rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    rate: Rate,
    /// The time at which the sources were asked, in milliseconds since the machine started. The
    /// rate's age counts from that time, so setting the clock does not change it.
    asked_ms: u64,
}

impl Taken {
    /// Converts the wall-clock time from the file to the time since the machine started. Returns
    /// `None` if the rate is older than the machine's start, or comes from a clock that was ahead,
    /// because then its age is uncertain.
    fn since_boot(self, now: Moment) -> Option<Self> {
        let age_ms = now.unix_ms.checked_sub(self.asked_ms)?;
        let asked_ms = now.since_boot_ms.checked_sub(age_ms)?;
        Some(Self { asked_ms, ..self })
    }

    /// Converts the time since the machine started back to wall-clock time.
    fn on_the_wall(self, now: Moment) -> Self {
        let age_ms = now.since_boot_ms.saturating_sub(self.asked_ms);
        let asked_ms = now.unix_ms.saturating_sub(age_ms);
        Self { asked_ms, ..self }
    }
}

/// The last result from one source.
#[derive(Clone, Debug, Default)]
struct LastSaid {
    /// The source's last rate.
    rate: Option<Taken>,
    /// The reason why the source's last answer gave no rate.
    error: Option<SourceError>,
}

impl Rates {
    /// Starts with the fixed rates from the settings only. [`Rates::run`] asks the sources.
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

    /// Stores the last accepted rates in this file and starts with its content. The first answers
    /// are compared with the stored rates. A stored rate is used for prices only until it is too
    /// old. Blocks.
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

    /// Takes over the state of the currencies whose settings have not changed. A currency with
    /// changed settings starts without a known rate, so an operator can accept a rate that jumped
    /// by changing its settings.
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

    /// The current price of a bitcoin. Cheap, because it is read from memory.
    pub fn rate(&self, currency: Currency) -> Result<Rate, Unpriced> {
        let mut entries = self.entries.iter();
        let entry = entries
            .find(|entry| entry.config.currency == currency)
            .ok_or(Unpriced::NoRate(currency))?;
        entry.rate(self.world.clock.since_boot_ms())
    }

    /// Converts an amount of fiat money to bitcoin at the current rate.
    pub fn convert(&self, fiat: Fiat) -> Result<Converted, Unpriced> {
        let rate = self.rate(fiat.currency)?;
        let price = fiat.at(rate).ok_or(Unpriced::TooLarge(fiat))?;
        Ok(Converted { price, rate })
    }

    /// Returns a price in bitcoin, and the rate that was used if the price is in fiat money.
    pub fn in_msat(&self, price: Price) -> Result<(Msat, Option<Rate>), Unpriced> {
        match price {
            Price::Fixed(amount) => Ok((amount, None)),
            Price::Fiat(fiat) => {
                let converted = self.convert(fiat)?;
                Ok((converted.price, Some(converted.rate)))
            }
        }
    }

    /// Asks all sources now and waits for their answers.
    pub async fn refresh(&self) {
        let mut asking = JoinSet::new();
        for entry in &self.entries {
            let (entry, world) = (Arc::clone(entry), self.world.clone());
            asking.spawn(async move { entry.refresh(&world).await });
        }
        asking.join_all().await;
    }

    /// Refreshes each currency at its own interval until `stop` is cancelled.
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
        // Panics if one of the tasks panics.
        watching.join_all().await;
        stop.cancelled().await;
    }

    /// The state of each currency, for the operator.
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
        // The state is consistent at every point where a thread could panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rate(&self, now_ms: u64) -> Result<Rate, Unpriced> {
        let watched = match &self.config.origin {
            RateOrigin::Fixed(rate) => return Ok(*rate),
            RateOrigin::Watched(watched) => watched,
        };
        self.known().usable(&self.config, watched, now_ms)
    }

    /// Refreshes this currency in a loop. Retries early after a failure, because clients may be
    /// turned away until a refresh succeeds.
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

    /// Asks all sources at once. Returns whether a rate was accepted.
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
