//! Reloading the settings while the program sells. A reload changes either every setting that can
//! change or none. Requests in flight finish under the settings that they started with.

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

use super::error::AppError;
use super::{broken, guarded};

/// The parts of the program that a reload changes, and the inputs of a reload.
pub(super) struct Reloading {
    /// The settings file.
    pub(super) file: PathBuf,
    /// The settings of the program's start. A reload reports the keys that differ from them and
    /// take effect only after a restart.
    pub(super) started_with: Config,
    /// The shop: routes, resources and client lists.
    pub(super) shop: Arc<Live<Shop>>,
    /// The routes, for the operator API.
    pub(super) routes: Arc<Live<RouteTable>>,
    /// The offers of guards in an embedding program; `None` for `tollhouse run`.
    pub(super) guarded: Option<Arc<Live<Vec<Offer>>>>,
    /// The gate, which decides on every request.
    pub(super) gate: Arc<Gate>,
    /// The ledger, to count the tokens that a reload ends.
    pub(super) ledger: Arc<Ledger>,
    /// The time source.
    pub(super) clock: Clock,
    /// The requests for a reload.
    pub(super) reloads: Reloads,
}

/// The background tasks of one version of the settings.
pub(super) struct Beside {
    /// Health checks and tunnels.
    pub(super) background: Background,
    /// The exchange rates.
    pub(super) rates: Arc<Rates>,
}

impl Beside {
    /// Starts the tasks, which run until the returned token is cancelled or the program stops.
    fn start(self, tracker: &TaskTracker, ending: &Ending) -> CancellationToken {
        let stop = ending.begin.child_token();
        tracker.spawn(self.background.run(stop.clone(), ending.clone()));
        tracker.spawn(self.rates.run(stop.clone()));
        stop
    }
}

/// The file in the data folder that keeps the last good rates.
pub(crate) const RATES_FILE: &str = "rates.json";

/// The hooks and exchange rates of these settings. A hook or rate whose settings did not change
/// keeps its known answers from `before`.
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
    /// Handles requests for a reload until the program stops.
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
            // The requester may have gone.
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

    /// The sold tokens that these settings invalidate. A failure to read the ledger is only logged,
    /// so that the operator can still change the settings.
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

    /// Refuses another data folder. The settings were checked against the folder that they name, so
    /// the seed and keys in the folder in use would no longer be protected from sale.
    fn stays_where_it_is(&self, config: &Config) -> Result<(), String> {
        if config.data_dir == self.started_with.data_dir {
            return Ok(());
        }
        let started_with = self.started_with.data_dir.display();
        Err(format!(
            "data_dir: the program has {started_with} and keeps it until a restart; nothing is changed together with it"
        ))
    }

    /// Checks that these settings can sell the offers of guards.
    fn fits(&self, config: &Config) -> Result<(), AppError> {
        match &self.guarded {
            Some(guarded) => guarded::fits(&guarded.get(), config),
            None => Ok(()),
        }
    }

    /// Puts other settings in force. Every request sees either all the old settings or all the new
    /// ones, except for the limits, which do not depend on the other settings.
    fn change(&self, mut config: Config) -> (Beside, Vec<&'static str>) {
        let restart_needed_for = self.started_with.restart_needed_for(&config);
        config.routes = with_secrets_of(config.routes, &self.started_with.routes);
        config.warn();
        warn_of_lower_classes(&self.routes.get(), &config.routes);
        let before = self.shop.get();
        let (resources, background) = before.resources.after(config.resource, &config.routes);
        let quotes = quotes(&config, Some(&self.gate.quotes()), &self.clock);
        let rates = Arc::clone(&quotes.rates);
        // The gate changes before the routes, because the routes may name a new hook or currency.
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

/// The routes, which serve neither the secret files of these settings nor those of the start: keys
/// that the new settings no longer name stay in use until a restart.
fn with_secrets_of(routes: RouteTable, started_with: &RouteTable) -> RouteTable {
    let mut secrets = Secrets::clone(routes.secrets());
    for secret in started_with.secrets().iter() {
        secrets.add(secret.key.clone(), secret.path.clone());
    }
    routes.without(secrets)
}

/// Warns of prices that move to a lower class because the settings do not name their `tier`. Prices
/// that move to a higher class are logged with the tokens that they invalidate.
fn warn_of_lower_classes(before: &RouteTable, after: &RouteTable) {
    let moved = before.classes_moved(after).into_iter();
    for (service, price, old, new) in moved.filter(|(_, _, old, new)| new < old) {
        tracing::warn!(
            "{price} of service {service} was price class {old} and is {new} now: tokens that were sold before open what class \
             {old} is now. Write `tier` beside the prices to keep them"
        );
    }
}
