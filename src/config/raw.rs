//! Settings as they are written: every key, no meaning yet. A key that is not here does not exist.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

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
    pub(super) limits: RawLimits,
    pub(super) log: RawLog,
    pub(super) rate: Vec<RawRate>,
    pub(super) hook: Vec<RawHook>,
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
    pub(super) quotas_max: u32,
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) challenges: Option<RawPace>,
    pub(super) tokens: Option<RawPace>,
}

/// `{ requests = 100, per = "10s" }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPace {
    pub(super) requests: u64,
    pub(super) per: String,
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

/// One `[[hook]]`.
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

/// One `[[route]]`.
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
    pub(super) metered_by: Option<String>,
    pub(super) dry_run: Option<bool>,
    pub(super) upstream: Option<String>,
    pub(super) files: Option<String>,
    pub(super) strip_prefix: Option<bool>,
}

/// `grant = { … }`
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

/// One of `grants = [ … ]`: a grant with a name and a price of its own.
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

/// `free_quota = { … }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuota {
    pub(super) requests: u64,
    pub(super) per: String,
}

/// `price = "…"` or `price = { by = "…", … }`
#[derive(Clone, Debug)]
pub(super) enum RawPrice {
    Text(String),
    Table(RawPriceTable),
}

/// `price = { by = "query:size", values = { … } }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPriceTable {
    pub(super) by: String,
    pub(super) values: BTreeMap<String, RawClass>,
    pub(super) missing: Option<RawClass>,
}

/// `"10 sat"` or `{ price = "10 sat", tier = 1 }`
#[derive(Clone, Debug)]
pub(super) enum RawClass {
    Text(String),
    Table(RawClassTable),
}

/// `{ price = "10 sat", tier = 1 }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClassTable {
    pub(super) price: String,
    pub(super) tier: u32,
}

/// A value that is written as text, or as a table where text does not say enough. serde's own `untagged` would forget which
/// key is wrong.
macro_rules! text_or_table {
    ($either:ident, $table:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $either {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;
                impl<'de> Visitor<'de> for Either {
                    type Value = $either;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$either, E> {
                        Ok($either::Text(text.to_owned()))
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$either, A::Error> {
                        let table = de::value::MapAccessDeserializer::new(map);
                        $table::deserialize(table).map($either::Table)
                    }
                }
                deserializer.deserialize_any(Either)
            }
        }
    };
}

text_or_table!(
    RawPrice,
    RawPriceTable,
    "a string as in \"10 sat\", or a table as in { by = \"query:size\", values = { … } }"
);
text_or_table!(
    RawClass,
    RawClassTable,
    "a string as in \"10 sat\", or a table as in { price = \"10 sat\", tier = 1 }"
);
