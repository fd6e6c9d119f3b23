//! Turns keys into meaning, and collects the mistakes in them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::account::ledger;
use crate::base::pace::Pace;
use crate::base::price::Currency;
use crate::base::secret_file::Secrets;
use crate::base::span;
use crate::sell::{gate, resource};

use super::complaint::{Complaint, Complaints};
use super::raw::{Raw, RawPace};
use super::settings::Config;
use super::sources::BUILT_IN;

/// Turns keys into meaning and collects the mistakes in them.
pub(super) struct Meaning<'a> {
    /// The merged values, which know their origin.
    pub(super) merged: &'a config::Value,
    /// The settings file.
    pub(super) origin: &'a str,
    /// The folder of the settings file, from which relative paths start.
    pub(super) folder: &'a Path,
    /// The mistakes found so far.
    pub(super) complaints: Vec<Complaint>,
    /// The warnings so far.
    pub(super) warnings: Vec<String>,
    /// The currencies with a known rate.
    pub(super) currencies: Vec<Currency>,
    /// The hooks that can set a price.
    pub(super) hook_names: Vec<String>,
    /// The files that are never served.
    pub(super) secrets: Secrets,
}

impl Meaning<'_> {
    pub(super) fn of(mut self, raw: &Raw, file: &Path) -> Result<Config, Complaints> {
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
    pub(super) fn complain(&mut self, key: &str, what: impl Into<String>) {
        let origin = origin_of(self.merged, key)
            .unwrap_or(self.origin)
            .to_owned();
        self.complaints.push(Complaint {
            origin,
            key: key.to_owned(),
            what: what.into(),
        });
    }

    pub(super) fn span(&mut self, key: &str, text: &str) -> Duration {
        span::parse(text).unwrap_or_else(|what| {
            self.complain(key, what);
            Duration::from_secs(1)
        })
    }

    pub(super) fn address(&mut self, key: &str, text: &str) -> SocketAddr {
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

    pub(super) fn at_least_one(&mut self, key: &str, number: u32) -> usize {
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
