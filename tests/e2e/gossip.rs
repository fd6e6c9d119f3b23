//! The map of the network: who only is paid fetches none of it, and who wants one fetches it then.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use bitcoin::Network;
use bitcoin::constants::ChainHash;
use bitcoin::secp256k1::{Secp256k1, SecretKey};
use regtest::bitcoind::Bitcoind;
use regtest::esplora::Esplora;
use regtest::merchant::{Merchant, MerchantOptions};
use regtest::server::Server;
use regtest::wait::eventually;
use regtest::{folder, port};
use serde_json::{Value, json};

/// How long a node may take to ask for what it wants.
const ASKED_DEADLINE: Duration = Duration::from_secs(15);

/// What ldk-node says of a snapshot that it does not get.
const FAILED: &str = "gossip data failed";

/// Paths that were asked for.
type Asked = Arc<Mutex<Vec<String>>>;

/// A snapshot with two nodes and a channel between them, which nobody has updated yet (LDK's format, version 1).
fn snapshot() -> Vec<u8> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let key = |number: u8| {
        let key = SecretKey::from_slice(&[number; 32]).unwrap();
        key.public_key(&Secp256k1::new()).serialize()
    };
    [
        b"LDK\x01",
        &ChainHash::using_genesis_block_const(Network::Regtest).to_bytes()[..],
        &u32::try_from(now).unwrap().to_be_bytes(),
        &2_u32.to_be_bytes(),
        &key(1),
        &key(2),
        &1_u32.to_be_bytes(),
        // No features; the channel's id; from the first node to the second.
        &[0, 0, 42, 0, 1],
        // No updates.
        &0_u32.to_be_bytes(),
    ]
    .concat()
}

/// A server of snapshots.
fn snapshots(asked: &Asked) -> Server {
    let asked = Arc::clone(asked);
    let answer = move |uri: Uri| {
        asked.lock().unwrap().push(uri.path().to_owned());
        std::future::ready(snapshot())
    };
    let app = Router::new().fallback(answer);
    Server::start("snapshots", port::free().unwrap(), app).unwrap()
}

/// Asks the operator's listener for a map.
async fn fetch(merchant: &Merchant) -> (StatusCode, Value) {
    let called = merchant.admin().call(Method::POST, "/gossip/fetch");
    let (status, body) = called.await.unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn a_snapshot_is_fetched_by_who_wants_one_and_by_nobody_else() {
    let dir = folder::temporary().unwrap();
    let bitcoind = Bitcoind::start(dir.path()).await.unwrap();
    let esplora = Esplora::start(&bitcoind).unwrap();
    let asked = Asked::default();
    let server = snapshots(&asked);
    // A network of one's own, which `node.network` names: its chain source is the preset's.
    let presets = dir.path().join("networks.toml");
    let text = format!(
        "[home]\ntype = \"regtest\"\nesplora = [\"{}\"]\nrapid_gossip = \"http://{}/snapshot\"\n",
        esplora.url(),
        server.address()
    );
    fs::write(&presets, text).unwrap();
    let settings = |gossip: &str| {
        format!(
            "[node]\nnetwork = \"home\"\npresets = \"{}\"\ngossip = \"{gossip}\"\nchain.esplora = \"\"\n",
            presets.display()
        )
    };
    let mut merchant = Merchant::start(MerchantOptions {
        settings: settings("none"),
        ..MerchantOptions::new(
            env!("CARGO_BIN_EXE_tollhouse"),
            esplora.url(),
            "[[route]]\npath = \"/*\"\naccess = \"free\"\nupstream = \"http://127.0.0.1:1\"\n",
        )
    })
    .await
    .unwrap();
    merchant.wait_running().await.unwrap();
    let status = merchant.admin().status().await.unwrap();
    assert_eq!(status["node"]["network"], "home");
    let (status, refusal) = fetch(&merchant).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refusal}");

    merchant.settings_mut().extra = settings("auto");
    merchant.restart().await.unwrap();
    merchant.wait_running().await.unwrap();
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new(), "put off");
    let log = fs::read_to_string(merchant.log()).unwrap();
    assert!(
        !log.contains(FAILED),
        "what is not wanted cannot fail: {log}"
    );
    for _ in 0..2 {
        let (status, map) = fetch(&merchant).await;
        assert_eq!(status, StatusCode::OK, "{map}");
        assert_eq!(map, json!({ "nodes": 2, "channels": 1 }));
    }
    assert_eq!(*asked.lock().unwrap(), ["/snapshot/0"], "once");

    // Who wanted one once hears of what is new at every start.
    merchant.restart().await.unwrap();
    merchant.wait_running().await.unwrap();
    let again = eventually("what is new to be asked for", ASKED_DEADLINE, || async {
        let asked = asked.lock().unwrap().clone();
        if asked.len() == 2 {
            Ok(Some(asked))
        } else {
            Err(format!("{asked:?}"))
        }
    });
    assert_ne!(again.await.unwrap()[1], "/snapshot/0", "only what is new");
}
