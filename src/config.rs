//! Settings: built-in defaults, then the file, then the environment. They are read strictly and
//! turned into the `Config` of each room. Rooms below never see a settings file or an environment
//! variable.

mod backups;
mod chain;
mod circles;
mod classes;
mod environment;
mod front;
mod liquidity;
mod log;
mod node;
mod offers;
mod overlap;
mod peers;
mod presets;
mod quotes;
mod raw;
mod routes;
mod secrets;
mod strict;
mod understood;
mod upstreams;
mod usual_rates;
mod vss;
mod web_address;
mod withdraw;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Environment, File, FileFormat};
use serde::Deserialize as _;

use crate::account::ledger;
use crate::base::pace::Pace;
use crate::base::price::Currency;
use crate::base::secret_file::Secrets;
use crate::base::span;
use crate::node::Config as NodeConfig;
use crate::operate::backup;
use crate::sell::gate;
use crate::sell::http;
use crate::sell::quote;
use crate::sell::resource;
use crate::sell::route::RouteTable;

pub use log::{LogConfig, LogFormat};

use environment::{PREFIX, named_for, own_variables, variable_of};
pub use presets::{Preset, Presets};
use raw::{Raw, RawPace};
use strict::Strict;
pub use understood::{Understood, understood, understood_with};

/// The default settings, in a file with comments for operators.
const DEFAULTS: &str = include_str!("../config/default.toml");

/// The origin of a built-in value.
const BUILT_IN: &str = "the built-in defaults";

/// One mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The file, or the environment.
    pub origin: String,
    /// The key; empty if the complaint is about the whole file.
    pub key: String,
    /// The mistake and its correction.
    pub what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.origin, self.what)
        } else if self.origin == strict::ENVIRONMENT && !self.key.starts_with(PREFIX) {
            let (origin, variable) = (&self.origin, variable_of(&self.key));
            write!(f, "{origin}: {variable} ({}): {}", self.key, self.what)
        } else {
            write!(f, "{}: {}: {}", self.origin, self.key, self.what)
        }
    }
}

/// All mistakes in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaints(pub Vec<Complaint>);

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Complaints {}

/// The settings of every room.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of the seed, keys, ledger and channel state.
    pub data_dir: PathBuf,
    /// The public listener.
    pub http: http::Config,
    /// The trusted proxies, and the clients that may connect.
    pub clients: http::Clients,
    /// The operator's listener.
    pub admin_listen: SocketAddr,
    /// The certificate of the operator's listener, which needs one unless it is on loopback.
    pub admin_tls: Option<http::TlsSource>,
    /// The settings for forwarding requests.
    pub resource: resource::Config,
    /// The node.
    pub node: NodeConfig,
    /// The time in which an invoice can be paid.
    pub invoice_expiry: Duration,
    /// The ledger.
    pub ledger: ledger::Config,
    /// The place and schedule of backups.
    pub backup: backup::Config,
    /// The log.
    pub log: LogConfig,
    /// The rate limits of clients.
    pub limits: gate::Limits,
    /// The sources of exchange rates for prices in a currency.
    pub rates: Vec<quote::RateConfig>,
    /// The servers that set the price of a request.
    pub hooks: Vec<quote::HookConfig>,
    /// The routes on sale.
    pub routes: RouteTable,
    /// Warnings about settings that are allowed but may be mistakes, each in one line.
    pub warnings: Vec<String>,
}

impl Config {
    /// The URL of the operator's listener.
    pub fn admin_url(&self) -> String {
        let scheme = if self.admin_tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.admin_listen)
    }

    /// The certificates of both listeners, each with the settings key that names it.
    pub fn certificates(&self) -> Vec<(&'static str, http::TlsSource)> {
        let key = match &self.http.tls {
            Some(http::TlsSource::Acme(_)) => "http.acme",
            Some(http::TlsSource::Files(_)) | None => "http.tls",
        };
        let both = [(key, &self.http.tls), ("admin.tls", &self.admin_tls)];
        let there = both
            .into_iter()
            .filter_map(|(key, source)| Some((key, source.clone()?)));
        there.collect()
    }

    /// The keys whose values differ in `other` and take effect only after a restart.
    pub fn restart_needed_for(&self, other: &Self) -> Vec<&'static str> {
        let differing = [
            ("data_dir", self.data_dir != other.data_dir),
            ("http", self.http != other.http),
            (
                "admin",
                self.admin_listen != other.admin_listen || self.admin_tls != other.admin_tls,
            ),
            ("node", self.node != other.node),
            ("l402", self.invoice_expiry != other.invoice_expiry),
            ("ledger", self.ledger != other.ledger),
            ("backup", self.backup != other.backup),
            ("log", self.log != other.log),
        ];
        let differing = differing.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(key, _)| key).collect()
    }
}

/// Reads the settings from this file and the environment of the process.
pub fn load(file: &Path) -> Result<Config, Complaints> {
    load_with(file, std::env::vars_os())
}

/// Reads the settings from this file and the given environment.
pub fn load_with(
    file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, Complaints> {
    let origin = file.display().to_string();
    let (merged, own) = merged(file, environment)?;
    let raw = Raw::deserialize(Strict::root(&merged)).map_err(|mismatch| {
        let is_variable = mismatch.origin.as_deref() == Some(strict::ENVIRONMENT);
        let key = match mismatch.key.unwrap_or_default() {
            key if is_variable && mismatch.is_table => named_for(&key, &own),
            key => key,
        };
        Complaints(vec![Complaint {
            origin: mismatch.origin.unwrap_or_else(|| origin.clone()),
            key,
            what: mismatch.what,
        }])
    })?;
    // This is the folder of the path as given, not of a link's target: the data folder must not
    // move when a link changes.
    let folder = std::path::absolute(file)
        .ok()
        .and_then(|file| file.parent().map(Path::to_owned))
        .unwrap_or_default();
    Meaning {
        merged: &merged,
        origin: &origin,
        folder: &folder,
        complaints: Vec::new(),
        warnings: Vec::new(),
        currencies: Vec::new(),
        hook_names: Vec::new(),
        secrets: Secrets::default(),
    }
    .of(&raw, file)
}

/// Merges built-in defaults, file and environment; later ones win. Also returns the variables.
fn merged(
    file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(config::Value, config::Map<String, String>), Complaints> {
    let own = own_variables(environment)?;
    let origin = file.display().to_string();
    let whole = |what: String| {
        Complaints(vec![Complaint {
            origin: origin.clone(),
            key: String::new(),
            what,
        }])
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| whole(format!("failed to read the settings: {error}")))?;
    // Parses the text here, because the crate would guess the format from the file's extension.
    let parsed = toml_value(&text, &origin).map_err(&whole)?;
    let merged = config::Config::builder()
        .add_source(toml_value(DEFAULTS, BUILT_IN).map_err(&whole)?)
        .add_source(parsed)
        .add_source(
            Environment::with_prefix(PREFIX)
                .prefix_separator("__")
                .separator("__")
                .source(Some(own.clone())),
        )
        .build()
        .map_err(|error| whole(error.to_string()))?;
    Ok((merged.cache, own))
}

/// Parses TOML and records the origin of each value. Complaints never quote the content: a file
/// named by mistake may hold a seed or a token.
fn toml_value(text: &str, origin: &str) -> Result<Named, String> {
    if let Err(error) = text.parse::<toml::Table>() {
        return Err(unread(text, &error));
    }
    let parsed = config::Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .build();
    let parsed = parsed.map_err(|_| "this is TOML that cannot be read as settings".to_owned())?;
    Ok(Named {
        value: renamed(parsed.cache, origin),
        origin: origin.to_owned(),
    })
}

/// The place of a TOML error and what was expected. In a file without any setting only the line is
/// given, because a column could reveal the length of a seed word.
fn unread(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    if !text.contains('=') {
        return format!(
            "line {line}: there is not one `key = value` in this file: is it the right one?"
        );
    }
    let column = before
        .chars()
        .rev()
        .take_while(|char| *char != '\n')
        .count()
        + 1;
    format!("line {line}, column {column}: {}", error.message())
}

/// Sets the origin of this value and all values inside it: the crate sets none for text.
fn renamed(value: config::Value, origin: &str) -> config::Value {
    let named = Some(origin.to_owned());
    if let config::ValueKind::Table(table) = value.kind {
        let table = table.into_iter();
        let table: config::Map<_, _> = table
            .map(|(key, value)| (key, renamed(value, origin)))
            .collect();
        return config::Value::new(named.as_ref(), table);
    }
    if let config::ValueKind::Array(values) = value.kind {
        let values = values.into_iter();
        let values: Vec<_> = values.map(|value| renamed(value, origin)).collect();
        return config::Value::new(named.as_ref(), values);
    }
    config::Value::new(named.as_ref(), value.kind)
}

/// A source of settings whose values know their origin.
#[derive(Clone, Debug)]
struct Named {
    value: config::Value,
    origin: String,
}

impl config::Source for Named {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        let config::ValueKind::Table(table) = &self.value.kind else {
            let what = format!("{} is no table", self.origin);
            return Err(config::ConfigError::Message(what));
        };
        Ok(table.clone())
    }
}

/// Turns keys into meaning and collects the mistakes in them.
struct Meaning<'a> {
    /// The merged values, which know their origin.
    merged: &'a config::Value,
    /// The settings file.
    origin: &'a str,
    /// The folder of the settings file, from which relative paths start.
    folder: &'a Path,
    /// The mistakes found so far.
    complaints: Vec<Complaint>,
    /// The warnings so far.
    warnings: Vec<String>,
    /// The currencies with a known rate.
    currencies: Vec<Currency>,
    /// The hooks that can set a price.
    hook_names: Vec<String>,
    /// The files that are never served.
    secrets: Secrets,
}

impl Meaning<'_> {
    fn of(mut self, raw: &Raw, file: &Path) -> Result<Config, Complaints> {
        let data_dir = self.folder.join(&raw.data_dir);
        self.own_secrets(file, &data_dir);
        self.data_dir_is_one(raw, &data_dir);
        let http_listen = self.address("http.listen", &raw.http.listen);
        let (admin_listen, admin_tls) = self.operators(&raw.admin);
        if http_listen == admin_listen && http_listen.port() != 0 {
            self.complain(
                "admin.listen",
                "the operator's listener cannot be the public one: give it another port",
            );
        }
        let http = self.front(&raw.http, http_listen, &data_dir);
        let clients = self.clients(&raw.http);
        let resource = resource::Config {
            body_bytes_max: raw.http.body_bytes_max,
            body_timeout: self.span("http.body_timeout", &raw.http.body_timeout),
            upstream_timeout: self.span("http.upstream_timeout", &raw.http.upstream_timeout),
            idle_timeout: self.span(
                "http.upstream_idle_timeout",
                &raw.http.upstream_idle_timeout,
            ),
        };
        let node = self.node(raw, &data_dir);
        let invoice_expiry = self.span("l402.invoice_expiry", &raw.l402.invoice_expiry);
        let ledger = ledger::Config {
            folder: data_dir.join("ledger"),
            challenges_max: self.at_least_one("ledger.challenges_max", raw.ledger.challenges_max),
            quotas_max: self.at_least_one("ledger.quotas_max", raw.ledger.quotas_max),
        };
        let backup = self.backups(raw, &data_dir);
        let log = self.log(raw);
        let limits = gate::Limits {
            challenges: self.pace("limits.challenges", raw.limits.challenges.as_ref()),
            tokens: self.pace("limits.tokens", raw.limits.tokens.as_ref()),
        };
        let rates = self.rates(&raw.rate);
        let hooks = self.hooks(&raw.hook);
        self.currencies = rates.iter().map(|rate| rate.currency).collect();
        self.hook_names = raw.hook.iter().map(|hook| hook.name.clone()).collect();
        let routes = self.routes(&raw.route);
        self.bundle_fits(&node.liquidity, &routes);
        if !self.complaints.is_empty() {
            return Err(Complaints(self.complaints));
        }
        Ok(Config {
            data_dir,
            http,
            clients,
            admin_listen,
            admin_tls,
            resource,
            node,
            invoice_expiry,
            ledger,
            backup,
            log,
            limits,
            rates,
            hooks,
            routes,
            warnings: self.warnings,
        })
    }

    /// Records a mistake with its key and origin.
    fn complain(&mut self, key: &str, what: impl Into<String>) {
        let origin = origin_of(self.merged, key)
            .unwrap_or(self.origin)
            .to_owned();
        self.complaints.push(Complaint {
            origin,
            key: key.to_owned(),
            what: what.into(),
        });
    }

    fn span(&mut self, key: &str, text: &str) -> Duration {
        span::parse(text).unwrap_or_else(|what| {
            self.complain(key, what);
            Duration::from_secs(1)
        })
    }

    fn address(&mut self, key: &str, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            self.complain(key, format!("`{text}` is no address: write an IP address and a port, as in \"127.0.0.1:8402\""));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    fn pace(&mut self, key: &str, raw: Option<&RawPace>) -> Option<Pace> {
        let raw = raw?;
        if raw.requests == 0 {
            self.complain(
                &format!("{key}.requests"),
                "at least 1; leave the key out for no limit",
            );
        }
        Some(Pace {
            requests: raw.requests,
            per: self.span(&format!("{key}.per"), &raw.per),
        })
    }

    fn at_least_one(&mut self, key: &str, number: u32) -> usize {
        if number == 0 {
            self.complain(key, "at least 1");
        }
        number as usize
    }
}

/// The origin of a key's value, such as `http.listen` or `route[2].price`.
fn origin_of<'a>(root: &'a config::Value, key: &str) -> Option<&'a str> {
    let mut value = root;
    for part in key.split('.') {
        let (name, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((name, index)) => (name, Some(index.parse::<usize>().ok()?.checked_sub(1)?)),
            None => (part, None),
        };
        let config::ValueKind::Table(table) = &value.kind else {
            return None;
        };
        let Some(inner) = table.get(name) else {
            return value.origin().filter(|origin| *origin != BUILT_IN);
        };
        value = inner;
        if let Some(index) = index {
            let config::ValueKind::Array(values) = &value.kind else {
                return None;
            };
            value = values.get(index)?;
        }
    }
    value.origin()
}
