//! What the program knows of networks, and what a file can change of it.

use bitcoin::Network;
use tollhouse::config::{Config, Presets};
use tollhouse::node::{Gossip, Reserve};

use crate::support::settings::Settings;

const NODE_ID: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

fn loaded(text: &str) -> Config {
    Settings::new().load(text, &[]).unwrap()
}

#[test]
fn a_network_is_all_that_has_to_be_named() {
    let config = loaded("node.network = \"mutinynet\"\n");
    assert_eq!(config.node.network, Network::Signet);
    assert_eq!(config.node.preset, "mutinynet");
    assert!(config.node.chain.source.to_string().starts_with("https://"));
    // What a merchant who owns nothing needs, and nobody who is trusted unasked.
    assert_eq!(config.node.reserve, Reserve::None);
    assert!(matches!(config.node.gossip, Gossip::Auto(Some(_))));
    assert_eq!(config.node.liquidity.provider, None);
    assert!(!config.node.liquidity.known.is_empty());
}

#[test]
fn every_built_in_network_is_good_and_real_money_has_two_chain_sources() {
    let presets = Presets::built_in();
    let names: Vec<_> = presets.names().collect();
    assert_eq!(
        names,
        ["bitcoin", "mutinynet", "regtest", "signet", "testnet"]
    );
    let bitcoin = presets.find("bitcoin").unwrap();
    assert_eq!(bitcoin.esplora().len(), 2);
    assert!(bitcoin.rapid_gossip.is_some());
    for name in names {
        let preset = presets.find(name).unwrap();
        for provider in preset.lsps2.iter().chain(&preset.lsps1) {
            let terms = provider.published.as_deref().unwrap();
            assert!(terms.contains("unverified"), "{name}: {terms}");
        }
    }
}

#[test]
fn a_provider_is_named_or_written_out_with_a_token_that_is_not_shown() {
    let named = loaded("node.network = \"mutinynet\"\nnode.liquidity.provider = \"megalith\"\n");
    assert_eq!(named.node.liquidity.provider.unwrap().name, "megalith");
    let settings = Settings::new();
    let token = settings.dir.path().join("provider.token");
    tollhouse::base::secret_file::write_new(&token, "hush").unwrap();
    let text = format!(
        "node.network = \"mutinynet\"\nnode.reserve = \"trusted\"\nnode.gossip = \"rapid\"\n[node.liquidity]\n\
         provider = {{ node_id = \"{NODE_ID}\", address = \"node.example:9735\", token_file = \"provider.token\" }}\n"
    );
    let config = settings.load(&text, &[]).unwrap();
    let provider = config.node.liquidity.provider.as_ref().unwrap();
    assert_eq!(provider.token.as_ref().unwrap().0, "hush");
    assert!(!format!("{config:?}").contains("hush"));
    assert!(matches!(config.node.gossip, Gossip::Rapid(url) if url.starts_with("https://")));
}

#[test]
fn a_file_adds_networks_and_takes_the_place_of_those_that_it_names() {
    let settings = Settings::new();
    let file = settings.dir.path().join("networks.toml");
    let own = format!(
        "[mutinynet]\ntype = \"signet\"\nesplora = [\"http://127.0.0.1:1/\"]\n\
         [home]\ntype = \"regtest\"\nesplora = [\"http://127.0.0.1:2\"]\n\
         [[home.lsps2]]\nname = \"mine\"\nnode_id = \"{NODE_ID}\"\naddress = \"127.0.0.1:9735\"\n"
    );
    std::fs::write(&file, own).unwrap();
    let load = |network: &str, more: &str| {
        let text =
            format!("node.network = \"{network}\"\nnode.presets = \"networks.toml\"\n{more}");
        settings.load(&text, &[])
    };
    let home = load("home", "node.liquidity.provider = \"mine\"\n").unwrap();
    assert_eq!(home.node.network, Network::Regtest);
    assert_eq!(home.node.chain.source.to_string(), "http://127.0.0.1:2");
    let mutinynet = load("mutinynet", "").unwrap();
    assert_eq!(
        mutinynet.node.chain.source.to_string(),
        "http://127.0.0.1:1"
    );
    assert!(mutinynet.node.liquidity.known.is_empty(), "as a whole");
    assert!(load("signet", "").is_ok(), "the others are there");
}

#[test]
fn a_mistake_in_the_file_names_it_and_its_key() {
    let settings = Settings::new();
    let file = settings.dir.path().join("networks.toml");
    for (text, key, right) in [
        ("[a]\ntype = \"testnet4\"", "a.type", "signet"),
        ("[a]\nesplora = []", "a.type", "must be given"),
        ("[a]\ntype = \"signet\"\ncolour = 1", "a.colour", "esplora"),
        (
            "[a]\ntype = \"signet\"\nesplora = [\"ftp://a\"]",
            "a.esplora",
            "http",
        ),
        (
            "[a]\ntype = \"signet\"\n[[a.lsps2]]\nname = \"x\"\nnode_id = \"1\"\naddress = \"a:1\"",
            "a.lsps2[1]",
            "66 hex digits",
        ),
        ("[a", "", "line 1"),
        ("", "", "failed to read"),
    ] {
        if text.is_empty() {
            std::fs::remove_file(&file).unwrap();
        } else {
            std::fs::write(&file, text).unwrap();
        }
        let complaints = settings
            .load("node.presets = \"networks.toml\"\n", &[])
            .unwrap_err();
        let is_named = complaints.iter().any(|complaint| {
            complaint.origin.ends_with("networks.toml")
                && complaint.key == key
                && complaint.what.contains(right)
        });
        assert!(is_named, "{text}: {complaints:?}");
    }
}
