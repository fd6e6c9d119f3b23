//! The settings of the chain source.

use std::time::Duration;

use crate::chain::{Bitcoind, ChainConfig, ChainSource, Login};
use crate::node::host_and_port;

use super::meaning::Meaning;
use super::presets::Preset;
use super::raw::{RawBitcoind, RawChain};
use super::web_address::is_web_address;

/// The minimum time between two syncs, which is also ldk-node's own.
const SYNC_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// The maximum time between two syncs: three blocks, a quarter of the time that channels can do
/// without the chain.
const SYNC_INTERVAL_MAX: Duration = Duration::from_secs(1_800);

/// The most Esplora APIs. They are tried in turn, and more than a handful fail only for a common
/// cause.
const ENDPOINTS_MAX: usize = 8;

/// The bounds for requests per hour. With fewer than one per minute, a node with channels falls
/// behind. A rate above 280 per second would not limit anything.
const REQUESTS_MIN: u32 = 60;
const REQUESTS_MAX: u32 = 1_000_000;

impl Meaning<'_> {
    pub(super) fn chain(&mut self, raw: &RawChain, preset: Option<&Preset>) -> ChainConfig {
        const INTERVAL: &str = "node.chain.sync_interval";
        let sync_interval = self.span(INTERVAL, &raw.sync_interval);
        if sync_interval < SYNC_INTERVAL_MIN {
            self.complain(INTERVAL, "at least 10s");
        } else if sync_interval > SYNC_INTERVAL_MAX {
            self.complain(INTERVAL, "at most 30m");
        }
        ChainConfig {
            source: self.chain_source(raw, preset),
            sync_interval,
        }
    }

    /// Reads the chain source, of which there must be exactly one kind.
    fn chain_source(&mut self, raw: &RawChain, preset: Option<&Preset>) -> ChainSource {
        let esplora = !raw.esplora.0.is_empty();
        match (esplora, &raw.electrum, &raw.bitcoind) {
            (_, None, None) => self.esplora(raw, preset),
            (false, Some(url), None) => self.electrum(url),
            (false, None, Some(bitcoind)) => self.bitcoind(bitcoind),
            (true, Some(_), _) | (true, _, Some(_)) | (_, Some(_), Some(_)) => {
                self.complain(
                    "node.chain",
                    "the chain is read from one kind of source: give one of esplora, electrum and bitcoind",
                );
                self.esplora(raw, preset)
            }
        }
    }

    fn esplora(&mut self, raw: &RawChain, preset: Option<&Preset>) -> ChainSource {
        const KEY: &str = "node.chain.esplora";
        let urls = raw.esplora.0.iter().map(|url| url.trim_end_matches('/'));
        let mut urls: Vec<String> = urls.map(str::to_owned).collect();
        if urls.is_empty() {
            urls = preset.map_or_else(Vec::new, |preset| preset.esplora().to_vec());
        }
        if urls.is_empty() {
            self.complain(
                KEY,
                "none is known for this network: give the base URL of an Esplora API, as in \"https://example.com/api\"; two are better",
            );
        }
        for (index, url) in urls.iter().enumerate() {
            if !is_web_address(url) {
                self.complain(KEY, format!("`{url}` is no http or https URL"));
            } else if urls[..index].contains(url) {
                self.complain(KEY, format!("`{url}` stands there twice"));
            }
        }
        if urls.len() > ENDPOINTS_MAX {
            self.complain(KEY, format!("at most {ENDPOINTS_MAX}"));
        }
        let requests_per_hour = raw.requests_per_hour;
        if !(REQUESTS_MIN..=REQUESTS_MAX).contains(&requests_per_hour) {
            self.complain(
                "node.chain.requests_per_hour",
                format!("at least {REQUESTS_MIN} and at most {REQUESTS_MAX}"),
            );
        }
        ChainSource::Esplora {
            urls,
            requests_per_hour: requests_per_hour as usize,
        }
    }

    fn electrum(&mut self, url: &str) -> ChainSource {
        let address = url
            .strip_prefix("ssl://")
            .or_else(|| url.strip_prefix("tcp://"));
        if address.and_then(host_and_port).is_none() {
            self.complain(
                "node.chain.electrum",
                format!(
                    "`{url}` is no Electrum server: write one as in \"ssl://example.com:50002\""
                ),
            );
        }
        ChainSource::Electrum(url.to_owned())
    }

    fn bitcoind(&mut self, raw: &RawBitcoind) -> ChainSource {
        const KEY: &str = "node.chain.bitcoind";
        let (host, port) = host_and_port(&raw.rpc).unwrap_or_else(|| {
            let rpc = &raw.rpc;
            self.complain(
                &format!("{KEY}.rpc"),
                format!("`{rpc}` is no address: write a host and a port, as in \"127.0.0.1:8332\""),
            );
            (String::new(), 0)
        });
        let login = match (&raw.user, &raw.password_file, &raw.cookie_file) {
            (Some(user), Some(file), None) => Login::Password {
                user: user.clone(),
                file: self.secret(&format!("{KEY}.password_file"), file),
            },
            (None, None, Some(file)) => {
                Login::Cookie(self.secret(&format!("{KEY}.cookie_file"), file))
            }
            (_, _, _) => {
                self.complain(
                    KEY,
                    "give either user and password_file or cookie_file, to log in with",
                );
                Login::Cookie(self.folder.to_owned())
            }
        };
        ChainSource::Bitcoind(Bitcoind { host, port, login })
    }
}
