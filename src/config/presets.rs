//! What is known of networks: chain sources, gossip, liquidity providers. Data, built in and overridable by a file.

use std::collections::BTreeMap;
use std::path::Path;

use bitcoin::Network;
use serde::Deserialize;

use crate::node::liquidity::Provider;

use super::strict::Strict;
use super::web_address::is_web_address;
use super::{Complaint, toml_value};

/// The presets, as their readers see them.
const PRESETS: &str = include_str!("../../config/networks.toml");

/// Where a built-in preset comes from.
const BUILT_IN: &str = "the built-in networks";

/// What is known of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What `node.network` calls it.
    pub name: String,
    /// Which network it is.
    pub network: Network,
    /// Chain sources, the first choice first.
    esplora: Vec<String>,
    /// Where the map of the network is fetched from.
    pub rapid_gossip: Option<String>,
    /// Who opens a channel out of a first payment.
    pub lsps2: Vec<Provider>,
    /// Who sells channels.
    pub lsps1: Vec<Provider>,
}

impl Preset {
    /// Base URLs of Esplora APIs, the first choice first, without a slash at the end; none where none is known.
    pub fn esplora(&self) -> &[String] {
        &self.esplora
    }
}

/// All that are known, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presets(BTreeMap<String, Preset>);

impl Presets {
    /// Those that are built in.
    pub fn built_in() -> Self {
        Self::read(PRESETS, BUILT_IN).expect("the built-in networks are good, a test reads them")
    }

    /// Those that are built in, with those of this file beside them or in their place.
    pub(super) fn with_file(file: &Path) -> Result<Self, Complaint> {
        let origin = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| Complaint {
            origin: origin.clone(),
            key: String::new(),
            what: format!("failed to read the networks: {error}"),
        })?;
        let mut all = Self::built_in();
        all.0.extend(Self::read(&text, &origin)?.0);
        Ok(all)
    }

    /// The one of this name.
    pub fn find(&self, name: &str) -> Option<&Preset> {
        self.0.get(name)
    }

    /// What they are called.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn read(text: &str, origin: &str) -> Result<Self, Complaint> {
        let complaint = |key: String, what: String| Complaint {
            origin: origin.to_owned(),
            key,
            what,
        };
        let value = toml_value(text, origin).map_err(|what| complaint(String::new(), what))?;
        let raw = BTreeMap::<String, RawNetwork>::deserialize(Strict::root(&value.value));
        let raw = raw.map_err(|mismatch| {
            complaint(mismatch.key.clone().unwrap_or_default(), mismatch.what)
        })?;
        let mut presets = BTreeMap::new();
        for (name, raw) in raw {
            let preset = preset(&name, &raw).map_err(|(key, what)| complaint(key, what))?;
            presets.insert(name, preset);
        }
        Ok(Self(presets))
    }
}

/// One network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    esplora: Vec<String>,
    rapid_gossip: Option<String>,
    #[serde(default)]
    lsps2: Vec<RawKnown>,
    #[serde(default)]
    lsps1: Vec<RawKnown>,
}

/// One provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKnown {
    name: String,
    node_id: String,
    address: String,
    terms: Option<String>,
}

/// A key, and what is wrong with it.
type Wrong = (String, String);

fn preset(name: &str, raw: &RawNetwork) -> Result<Preset, Wrong> {
    let network = match raw.kind.as_str() {
        "bitcoin" => Network::Bitcoin,
        "testnet" => Network::Testnet,
        "signet" => Network::Signet,
        "regtest" => Network::Regtest,
        other => {
            let what =
                format!("`{other}` is no type; there are bitcoin, testnet, signet and regtest");
            return Err((format!("{name}.type"), what));
        }
    };
    let url = |key: &str, text: &String| {
        let url = text.trim_end_matches('/').to_owned();
        if is_web_address(&url) {
            Ok(url)
        } else {
            let what = format!("`{text}` is no http or https URL");
            Err((format!("{name}.{key}"), what))
        }
    };
    let esplora = raw.esplora.iter().map(|text| url("esplora", text));
    let gossip = raw.rapid_gossip.as_ref();
    Ok(Preset {
        name: name.to_owned(),
        network,
        esplora: esplora.collect::<Result<_, _>>()?,
        rapid_gossip: gossip.map(|text| url("rapid_gossip", text)).transpose()?,
        lsps2: providers(&format!("{name}.lsps2"), &raw.lsps2)?,
        lsps1: providers(&format!("{name}.lsps1"), &raw.lsps1)?,
    })
}

fn providers(key: &str, raw: &[RawKnown]) -> Result<Vec<Provider>, Wrong> {
    let known = (1..).zip(raw).map(|(number, raw)| {
        let wrong = |what: String| (format!("{key}[{number}]"), what);
        if raw.name.is_empty() {
            return Err(wrong("a provider needs a name".to_owned()));
        }
        let known = Provider::new(&raw.name, &raw.node_id, &raw.address);
        let known = known.map_err(|error| wrong(error.to_string()))?;
        Ok(Provider {
            published: raw.terms.clone(),
            ..known
        })
    });
    known.collect()
}
