//! Settings as they are written: every key, no meaning yet. A key that is not here does not exist.

use serde::Deserialize;

/// All of a settings file. Everything but the routes has a built-in default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) data_dir: String,
    pub(super) http: RawHttp,
    pub(super) admin: RawAdmin,
    pub(super) node: RawNode,
    pub(super) l402: RawL402,
    pub(super) ledger: RawLedger,
    pub(super) log: RawLog,
    pub(super) rate: Vec<RawRate>,
    pub(super) route: Vec<RawRoute>,
}

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) listen: String,
    pub(super) connections_max: u32,
    pub(super) header_timeout: String,
    pub(super) write_timeout: String,
    pub(super) body_bytes_max: u64,
    pub(super) body_timeout: String,
    pub(super) upstream_timeout: String,
    pub(super) shutdown_grace: String,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: String,
}

/// `[node]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) network: String,
    pub(super) alias: String,
    pub(super) listen: Vec<String>,
    pub(super) chain: RawChain,
}

/// `[node.chain]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChain {
    pub(super) esplora: String,
    pub(super) sync_interval: String,
}

/// `[l402]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawL402 {
    pub(super) invoice_expiry: String,
}

/// `[ledger]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLedger {
    pub(super) challenges_max: u32,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: String,
    pub(super) format: String,
}

/// One `[[rate]]`.
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

/// `{ url = "…", pointer = "…" }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub(super) url: String,
    pub(super) pointer: String,
}

/// One `[[route]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    pub(super) path: String,
    pub(super) methods: Option<Vec<String>>,
    pub(super) access: Option<String>,
    pub(super) service: Option<String>,
    pub(super) price: Option<String>,
    pub(super) grant: Option<RawGrant>,
    pub(super) upstream: Option<String>,
    pub(super) files: Option<String>,
    pub(super) strip_prefix: Option<bool>,
}

/// `grant = { … }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrant {
    pub(super) requests: Option<u64>,
    pub(super) valid: Option<String>,
}
