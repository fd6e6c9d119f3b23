//! The settings as they are written, before they are interpreted. A key that is not here does not
//! exist.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A whole settings file. Everything except the routes has a built-in default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) data_dir: String,
    pub(super) http: RawHttp,
    pub(super) admin: RawAdmin,
    pub(super) node: RawNode,
    pub(super) l402: RawL402,
    pub(super) ledger: RawLedger,
    pub(super) backup: RawBackup,
    pub(super) limits: RawLimits,
    pub(super) log: RawLog,
    pub(super) rate: Vec<RawRate>,
    pub(super) hook: Vec<RawHook>,
    pub(super) route: Vec<RawRoute>,
}

/// The table `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) listen: String,
    pub(super) connections_max: u32,
    pub(super) network_share_percent: u32,
    pub(super) header_timeout: String,
    pub(super) write_timeout: String,
    pub(super) trusted_proxies: Vec<String>,
    pub(super) forwarded_header: String,
    pub(super) proxy_protocol: bool,
    pub(super) allow: Vec<String>,
    pub(super) block: Vec<String>,
    pub(super) cors_credentials: Vec<String>,
    pub(super) tls: Option<RawTls>,
    pub(super) acme: Option<RawAcme>,
    pub(super) body_bytes_max: u64,
    pub(super) body_timeout: String,
    pub(super) upstream_timeout: String,
    pub(super) upstream_idle_timeout: String,
    pub(super) shutdown_grace: String,
}

/// The table `[http.tls]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) cert: String,
    pub(super) key: String,
}

/// The table `[http.acme]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAcme {
    pub(super) domains: Vec<String>,
    pub(super) contact: Option<String>,
    pub(super) directory: Option<String>,
    pub(super) directory_ca: Option<String>,
    pub(super) cache: Option<String>,
}

/// The table `[admin]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: String,
    pub(super) tls: Option<RawTls>,
}

/// The table `[node]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) network: String,
    pub(super) alias: String,
    pub(super) listen: Vec<String>,
    pub(super) presets: String,
    pub(super) reserve: String,
    pub(super) gossip: String,
    pub(super) peers: RawPeers,
    pub(super) liquidity: RawLiquidity,
    pub(super) chain: RawChain,
    pub(super) withdraw: Option<RawWithdraw>,
    pub(super) vss: Option<RawVss>,
}

/// The table `[node.peers]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeers {
    pub(super) open: TextOrList,
    pub(super) trusted: Vec<String>,
    pub(super) channel_min: String,
    pub(super) channel_max: String,
    pub(super) pending_max: u32,
    pub(super) pending_per_peer: u32,
    pub(super) pending_timeout: String,
    pub(super) channels_max: u32,
    pub(super) channels_per_peer: u32,
    pub(super) channels_per_network: u32,
    pub(super) connections_max: u32,
    pub(super) connections_per_network: u32,
    pub(super) keysends_max: u32,
}

/// The table `[node.vss]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVss {
    pub(super) url: String,
    pub(super) store_id: String,
    pub(super) headers_file: Option<String>,
}

/// The table `[node.withdraw]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWithdraw {
    pub(super) above: String,
    pub(super) keep: Option<String>,
    pub(super) to: Option<String>,
    pub(super) invoice_from: Option<String>,
    pub(super) every: Option<String>,
}

/// The table `[node.liquidity]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLiquidity {
    pub(super) provider: TextOr<RawProvider>,
    pub(super) order_provider: TextOr<RawProvider>,
    pub(super) fee_max: String,
    pub(super) fee_max_percent: u32,
    pub(super) bundle_route: String,
    pub(super) bundle_grant: String,
    pub(super) low_sales: u32,
}

/// A provider: `{ node_id = "…", address = "…" }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProvider {
    pub(super) node_id: String,
    pub(super) address: String,
    pub(super) token_file: Option<String>,
}

/// The table `[node.chain]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChain {
    pub(super) esplora: TextOrList,
    pub(super) electrum: Option<String>,
    pub(super) bitcoind: Option<RawBitcoind>,
    pub(super) requests_per_hour: u32,
    pub(super) sync_interval: String,
}

/// The connection to Bitcoin Core: `bitcoind = { … }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBitcoind {
    pub(super) rpc: String,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) cookie_file: Option<String>,
}

/// The table `[l402]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawL402 {
    pub(super) invoice_expiry: String,
}

/// The table `[ledger]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLedger {
    pub(super) challenges_max: u32,
    pub(super) quotas_max: u32,
}

/// The table `[backup]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackup {
    pub(super) folder: String,
    pub(super) every: String,
    pub(super) keep: u32,
    pub(super) s3: Option<RawS3>,
}

/// The table `[backup.s3]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawS3 {
    pub(super) endpoint: String,
    pub(super) region: String,
    pub(super) bucket: String,
    pub(super) prefix: Option<String>,
    pub(super) access_key: String,
    pub(super) secret_key_file: String,
    pub(super) path_style: Option<bool>,
}

/// The table `[limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) challenges: Option<RawPace>,
    pub(super) tokens: Option<RawPace>,
}

/// A rate limit: `{ requests = 100, per = "10s" }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPace {
    pub(super) requests: u64,
    pub(super) per: String,
}

/// The table `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: String,
    pub(super) format: String,
}

/// One table `[[rate]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRate {
    pub(super) currency: String,
    pub(super) fixed: Option<String>,
    pub(super) sources: Option<Vec<RawSource>>,
    pub(super) quorum: Option<u32>,
    pub(super) refresh: Option<String>,
    pub(super) max_age: Option<String>,
    pub(super) at_least: Option<String>,
    pub(super) at_most: Option<String>,
}

/// A source of a rate: `{ url = "…", pointer = "…" }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub(super) url: String,
    pub(super) pointer: String,
}

/// One table `[[hook]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHook {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) timeout: Option<String>,
    pub(super) headers: Option<Vec<String>>,
    pub(super) cache: Option<String>,
    pub(super) price_max: String,
    pub(super) on_failure: Option<String>,
}

/// One table `[[route]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    pub(super) path: String,
    pub(super) methods: Option<Vec<String>>,
    pub(super) access: Option<String>,
    pub(super) service: Option<String>,
    pub(super) price: Option<RawPrice>,
    pub(super) tier: Option<u32>,
    pub(super) grant: Option<RawGrant>,
    pub(super) grants: Option<Vec<RawPlan>>,
    pub(super) free_quota: Option<RawQuota>,
    pub(super) overrun: Option<String>,
    pub(super) count: Option<String>,
    pub(super) metered_by: Option<String>,
    pub(super) dry_run: Option<bool>,
    pub(super) overlap: Option<String>,
    pub(super) upstream: Option<TextOr<RawUpstream>>,
    pub(super) files: Option<String>,
    pub(super) strip_prefix: Option<bool>,
    pub(super) add_prefix: Option<String>,
    pub(super) encoded_slashes: Option<String>,
    pub(super) request_headers: Option<RawHeaders>,
    pub(super) response_headers: Option<RawHeaders>,
    pub(super) forward_credential: Option<bool>,
    pub(super) upgrades: Option<Vec<String>>,
    pub(super) redirects: Option<String>,
}

/// The default grant of a route: `grant = { … }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrant {
    pub(super) name: Option<String>,
    pub(super) requests: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) seconds: Option<u64>,
    pub(super) valid: Option<String>,
    pub(super) services: Option<Vec<String>>,
}

/// One of `grants = [ … ]`: a grant with its own name and price.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlan {
    pub(super) name: String,
    pub(super) price: String,
    pub(super) requests: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) seconds: Option<u64>,
    pub(super) valid: Option<String>,
    pub(super) services: Option<Vec<String>>,
}

/// The free quota of a route: `free_quota = { … }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuota {
    pub(super) requests: u64,
    pub(super) per: String,
}

/// A price: `price = "…"` or `price = { by = "…", … }`.
pub(super) type RawPrice = TextOr<RawPriceTable>;

/// A price by request: `price = { by = "query:size", values = { … } }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPriceTable {
    pub(super) by: String,
    #[serde(default)]
    pub(super) values: BTreeMap<String, RawClass>,
    pub(super) missing: Option<RawClass>,
}

/// A price class: `"10 sat"` or `{ price = "10 sat", tier = 1 }`.
pub(super) type RawClass = TextOr<RawClassTable>;

/// A price class with its tier: `{ price = "10 sat", tier = 1 }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClassTable {
    pub(super) price: String,
    pub(super) tier: u32,
}

/// An upstream: `upstream = { … }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) url: Option<String>,
    pub(super) urls: Option<Vec<String>>,
    pub(super) protocol: Option<String>,
    pub(super) connect_timeout: Option<String>,
    pub(super) first_byte_timeout: Option<String>,
    pub(super) connection_age_max: Option<String>,
    pub(super) idle_timeout: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) health: Option<RawHealth>,
}

/// A health check: `health = { … }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    pub(super) path: String,
    pub(super) every: Option<String>,
}

/// Edits of headers, such as `request_headers = { … }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHeaders {
    #[serde(default)]
    pub(super) set: BTreeMap<String, TextOr<RawFile>>,
    #[serde(default)]
    pub(super) remove: Vec<String>,
}

/// A value that is read from a file: `{ file = "…" }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) file: String,
}

/// A setting that can be text or, in complex cases, a table.
#[derive(Clone, Debug)]
pub(super) enum TextOr<T> {
    Text(String),
    Table(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrTable(std::marker::PhantomData))
    }
}

/// Reads a [`TextOr`]. It is written by hand, because the code that serde derives for such a choice
/// does not report which key was wrong.
struct TextOrTable<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrTable<T> {
    type Value = TextOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a table")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Table)
    }
}

/// A setting that can be text for one entry or a list for several. In an environment variable,
/// which holds only text, commas separate the entries.
#[derive(Clone, Debug)]
pub(super) struct TextOrList(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for TextOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrListVisitor)
    }
}

/// Reads a [`TextOrList`].
struct TextOrListVisitor;

impl<'de> Visitor<'de> for TextOrListVisitor {
    type Value = TextOrList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        let parts = text.split(',').map(str::trim);
        Ok(TextOrList(
            parts
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
        ))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = list.next_element()? {
            parts.push(part);
        }
        Ok(TextOrList(parts))
    }
}
