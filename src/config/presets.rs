//! The known networks: chain sources, gossip and liquidity providers. They are built in, and a file
//! can add or replace some.

use std::collections::BTreeMap;
use std::path::Path;

use bitcoin::Network;
use serde::Deserialize;

use crate::node::liquidity::Provider;

use super::complaint::Complaint;
use super::sources::toml_value;
use super::strict::Strict;
use super::web_address::is_web_address;

/// The presets, in a file with comments for operators.
const PRESETS: &str = include_str!("../../config/networks.toml");

/// The origin of a built-in preset.
const BUILT_IN: &str = "the built-in networks";

/// The preset of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The name in `node.network`.
    pub name: String,
    /// The type of the network.
    pub network: Network,
    /// Esplora APIs, the preferred one first.
    esplora: Vec<String>,
    /// The URL of the gossip snapshots.
    pub rapid_gossip: Option<String>,
    /// The providers that open a channel out of a first payment.
    pub lsps2: Vec<Provider>,
    /// The providers that sell channels.
    pub lsps1: Vec<Provider>,
}

impl Preset {
    /// Base URLs of Esplora APIs without a trailing slash, the preferred one first; may be empty.
    pub fn esplora(&self) -> &[String] {
        &self.esplora
    }
}

/// All presets by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presets(BTreeMap<String, Preset>);

impl Presets {
    /// The built-in presets.
    pub fn built_in() -> Self {
        Self::read(PRESETS, BUILT_IN).expect("the built-in networks are good, a test reads them")
    }

    /// The built-in presets, with the presets of this file added. A preset of the same name is
    /// replaced.
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

    /// The preset with this name.
    pub fn find(&self, name: &str) -> Option<&Preset> {
        self.0.get(name)
    }

    /// The names of the presets.
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

/// A network as the file writes it.
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

/// A provider as the file writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKnown {
    name: String,
    node_id: String,
    address: String,
    terms: Option<String>,
}

/// A key and the mistake in its value.
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
