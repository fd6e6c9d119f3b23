//! The map of the network: who only is paid fetches none of it, and who wants it asks for it at the start.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, Uri};
use regtest::bitcoind::Bitcoind;
use regtest::esplora::Esplora;
use regtest::merchant::{Merchant, MerchantOptions};
use regtest::server::Server;
use regtest::wait::eventually;
use regtest::{folder, port};

/// How long a node may take to ask for what it wants.
const ASKED_DEADLINE: Duration = Duration::from_secs(15);

/// What ldk-node says of a snapshot that it does not get.
const FAILED: &str = "gossip data failed";

/// Paths that were asked for.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server of snapshots that has none.
fn snapshots(asked: &Asked) -> Server {
    let asked = Arc::clone(asked);
    let note = move |uri: Uri| {
        asked.lock().unwrap().push(uri.path().to_owned());
        std::future::ready(StatusCode::NOT_FOUND)
    };
    let app = Router::new().fallback(note);
    Server::start("snapshots", port::free().unwrap(), app).unwrap()
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
    assert!(merchant.terminate().await.unwrap().success());
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
    let log = fs::read_to_string(merchant.log()).unwrap();
    assert!(
        !log.contains(FAILED),
        "what is not wanted cannot fail: {log}"
    );

    merchant.settings_mut().extra = settings("rapid");
    merchant.restart().await.unwrap();
    merchant.wait_running().await.unwrap();
    let fetched = eventually("a snapshot to be asked for", ASKED_DEADLINE, || async {
        let asked = asked.lock().unwrap().clone();
        let log = fs::read_to_string(merchant.log()).unwrap();
        // That it is not there is told, and stops nothing.
        if asked.is_empty() || !log.contains(FAILED) {
            Err(format!("{asked:?}"))
        } else {
            Ok(Some(asked))
        }
    });
    assert_eq!(fetched.await.unwrap(), ["/snapshot/0"]);
    assert_eq!(merchant.admin().health().await.unwrap()["status"], "ok");
}
