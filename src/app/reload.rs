//! Changing what is sold while it is being sold: the settings are read again, and either all that can change changes, or
//! nothing does. Requests in flight end as they began.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::ledger::Ledger;
use crate::base::clock::Clock;
use crate::base::error_chain::chain;
use crate::base::live::Live;
use crate::base::secret_file::Secrets;
use crate::config::{self, Config};
use crate::operate::api::{Ahead, Broken, Reloads, Wish};
use crate::sell::gate::{Gate, Quotes};
use crate::sell::http::{Shop, Stop};
use crate::sell::quote::{Hooks, Rates};
use crate::sell::resource::{Background, Ending};
use crate::sell::route::{Offer, RouteTable};

use super::{AppError, broken, embedded};

/// What can be changed, and with what.
pub(super) struct Reloading {
    /// The settings file.
    pub(super) file: PathBuf,
    /// The settings that the program was started with: what changes only with a restart is compared with them.
    pub(super) started_with: Config,
    /// What is sold.
    pub(super) shop: Arc<Live<Shop>>,
    /// The same for the operator to see.
    pub(super) routes: Arc<Live<RouteTable>>,
    /// What is sold behind guards, in somebody else's program.
    pub(super) guarded: Option<Arc<Live<Vec<Offer>>>>,
    /// The decision.
    pub(super) gate: Arc<Gate>,
    /// The ledger, to count the tokens that a reload ends.
    pub(super) ledger: Arc<Ledger>,
    /// Where the time comes from.
    pub(super) clock: Clock,
    /// Who asks for it.
    pub(super) reloads: Reloads,
}

/// What goes on beside the requests of one reading of the settings.
pub(super) struct Beside {
    /// Health checks and tunnels.
    pub(super) background: Background,
    /// Currencies' rates.
    pub(super) rates: Arc<Rates>,
}

impl Beside {
    /// Runs it until the token is cancelled, or the program ends.
    fn start(self, tracker: &TaskTracker, ending: &Ending) -> CancellationToken {
        let stop = ending.begin.child_token();
        tracker.spawn(self.background.run(stop.clone(), ending.clone()));
        tracker.spawn(self.rates.run(stop.clone()));
        stop
    }
}

/// The file in the data folder that keeps the last good rates.
pub(crate) const RATES_FILE: &str = "rates.json";

/// What pricing asks the world, by these settings; what the one before knows of the same is not asked again.
pub(super) fn quotes(config: &Config, before: Option<&Quotes>, clock: &Clock) -> Quotes {
    let rates = Rates::new(config.rates.clone(), clock.clone())
        .remembering(&config.data_dir.join(RATES_FILE));
    let hooks = Hooks::new(config.hooks.clone(), clock);
    match before {
        None => Quotes {
            rates: Arc::new(rates),
            hooks,
        },
        Some(before) => Quotes {
            rates: Arc::new(rates.after(&before.rates)),
            hooks: hooks.after(&before.hooks),
        },
    }
}

/// Logs warnings about settings that lead back to this program.
pub(super) async fn warn(config: Config) -> Config {
    tokio::task::spawn_blocking(move || {
        for warning in config.circles() {
            tracing::warn!("{warning}");
        }
        config
    })
    .await
    .expect("looking at settings does not panic")
}

impl Reloading {
    /// Does what it is asked, until told to stop.
    pub(super) async fn run(mut self, beside: Beside, tracker: TaskTracker, stop: Stop) {
        let ending = Ending {
            begin: stop.begin,
            hurry: stop.hurry,
            grace: self.started_with.http.grace,
        };
        let mut running = beside.start(&tracker, &ending);
        loop {
            let asked = tokio::select! {
                asked = self.reloads.recv() => asked,
                () = ending.begin.cancelled() => None,
            };
            let tell = match asked {
                None => return,
                Some(Wish::Look(tell)) => {
                    // The client may have disconnected.
                    let _ = tell.send(self.look().await);
                    continue;
                }
                Some(Wish::Reload(tell)) => tell,
            };
            let reloaded = match self.read().await {
                Ok(config) => {
                    self.warn_of_broken(&config).await;
                    let (beside, restart_needed_for) = self.change(config);
                    let before = std::mem::replace(&mut running, beside.start(&tracker, &ending));
                    before.cancel();
                    Ok(restart_needed_for)
                }
                Err(complaints) => {
                    // Keeps the complaints on one log line.
                    let shown = complaints.replace('\n', "; ");
                    tracing::error!(
                        "Reload rejected, the previous settings stay in force: {shown}"
                    );
                    Err(complaints)
                }
            };
            // Whoever asked may have gone.
            let _ = tell.send(reloaded);
        }
    }

    /// Reports what a reload would do now.
    async fn look(&self) -> Result<Ahead, String> {
        let config = self.read().await?;
        Ok(Ahead {
            restart_needed_for: self.started_with.restart_needed_for(&config),
            broken: self.broken(&config).await,
        })
    }

    /// The sold tokens that these settings invalidate. If the ledger cannot be read, that is only logged, so that the operator
    /// can still change the settings.
    async fn broken(&self, config: &Config) -> Vec<Broken> {
        let (before, after) = (self.routes.get(), config.routes.clone());
        let (ledger, now_secs) = (Arc::clone(&self.ledger), self.clock.unix_secs());
        let looked =
            tokio::task::spawn_blocking(move || broken::broken(&before, &after, &ledger, now_secs));
        looked
            .await
            .expect("looking through the books does not panic")
            .unwrap_or_else(|error| {
                tracing::error!(
                    "Failed to count the tokens that a reload affects: {}",
                    chain(&error)
                );
                Vec::new()
            })
    }

    /// Logs the sold tokens that these settings invalidate, before they take effect.
    async fn warn_of_broken(&self, config: &Config) {
        for broken in self.broken(config).await {
            let at_least = if broken.are_all_counted {
                ""
            } else {
                "at least "
            };
            tracing::warn!(
                "{} (currently valid tokens: {at_least}{})",
                broken.what,
                broken.tokens
            );
        }
    }

    async fn read(&self) -> Result<Config, String> {
        let file = self.file.clone();
        let config = tokio::task::spawn_blocking(move || config::load(&file))
            .await
            .expect("reading settings does not panic")
            .map_err(|complaints| complaints.to_string())?;
        self.fits(&config).map_err(|error| chain(&error))?;
        self.stays_where_it_is(&config)?;
        // With `guarded`, another program listens, so these warnings do not apply.
        Ok(if self.guarded.is_none() {
            warn(config).await
        } else {
            config
        })
    }

    /// The settings were held against the data folder that they name: seed and keys in another one would be for sale.
    fn stays_where_it_is(&self, config: &Config) -> Result<(), String> {
        if config.data_dir == self.started_with.data_dir {
            return Ok(());
        }
        let started_with = self.started_with.data_dir.display();
        Err(format!(
            "data_dir: the program has {started_with} and keeps it until a restart; nothing is changed together with it"
        ))
    }

    /// Whether what this program guards can be sold by these settings.
    fn fits(&self, config: &Config) -> Result<(), AppError> {
        match &self.guarded {
            Some(guarded) => embedded::fits(&guarded.get(), config),
            None => Ok(()),
        }
    }

    /// Puts other settings in force. Every request sees either all of the old ones or all of the new ones, but for the limits,
    /// which stand by themselves.
    fn change(&self, mut config: Config) -> (Beside, Vec<&'static str>) {
        let restart_needed_for = self.started_with.restart_needed_for(&config);
        config.routes = with_secrets_of(config.routes, &self.started_with.routes);
        config.warn();
        warn_of_lower_classes(&self.routes.get(), &config.routes);
        let before = self.shop.get();
        let (resources, background) = before.resources.after(config.resource, &config.routes);
        let quotes = quotes(&config, Some(&self.gate.quotes()), &self.clock);
        let rates = Arc::clone(&quotes.rates);
        // Before the routes, which may name a hook or a currency that is new.
        self.gate.change(config.limits, quotes);
        self.routes.set(config.routes.clone());
        self.shop.set(Shop {
            routes: config.routes,
            resources,
            clients: config.clients,
        });
        tracing::info!("The settings were read again and are in force");
        if !restart_needed_for.is_empty() {
            let keys = restart_needed_for.join(", ");
            tracing::warn!("Changed, and in force only after a restart: {keys}");
        }
        (Beside { background, rates }, restart_needed_for)
    }
}

/// The routes without the secrets of either settings: keys that the new settings no longer name stay in use until a
/// restart.
fn with_secrets_of(routes: RouteTable, started_with: &RouteTable) -> RouteTable {
    let mut secrets = Secrets::clone(routes.secrets());
    for secret in started_with.secrets().iter() {
        secrets.add(secret.key.clone(), secret.path.clone());
    }
    routes.without(secrets)
}

/// Warns of prices that move to a lower class because the settings do not name their `tier`. Prices that move to a higher class
/// are logged with the tokens that they invalidate.
fn warn_of_lower_classes(before: &RouteTable, after: &RouteTable) {
    let moved = before.classes_moved(after).into_iter();
    for (service, price, old, new) in moved.filter(|(_, _, old, new)| new < old) {
        tracing::warn!(
            "{price} of service {service} was price class {old} and is {new} now: tokens that were sold before open what class \
             {old} is now. Write `tier` beside the prices to keep them"
        );
    }
}
