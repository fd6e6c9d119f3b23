//! The settings of every part of the program, once they have been understood.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::account::ledger;
use crate::node::Config as NodeConfig;
use crate::operate::backup;
use crate::sell::route::RouteTable;
use crate::sell::{gate, http, quote, resource};

use super::log_config::LogConfig;

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
