//! The bitcoin exchange rates. They are fetched in the background and kept in memory, so no request
//! ever waits for a source.

mod belief;
mod config;
mod judge;
mod memory;
mod rate;
mod status;
mod taken;
mod world;

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::base::amount::Msat;
use crate::base::clock::Clock;
use crate::base::price::{Currency, Fiat, Price, Rate};

use super::ask::Asker;
use super::unpriced::Unpriced;
use memory::Memory;
use rate::Entry;
use world::World;

pub use config::{RateConfig, RateOrigin, Watched};
pub use judge::Doubt;
pub use status::{RateStatus, SourceStatus};

/// The rates of all currencies.
#[derive(Debug)]
pub struct Rates {
    /// One entry for each currency, in the order of the settings. There are few entries.
    entries: Vec<Arc<Entry>>,
    world: World,
}

/// An amount of fiat money in bitcoin, and the rate that was used. The ledger records both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The amount in bitcoin, rounded up to a whole millisatoshi; never zero.
    pub price: Msat,
    /// The price of a bitcoin at the time of conversion.
    pub rate: Rate,
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
