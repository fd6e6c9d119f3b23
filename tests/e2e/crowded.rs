//! The Lightning port full of silent sockets, and payments without an invoice.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use regtest::folder;
use regtest::hostile::{Crowd, Ground, Idle};
use regtest::merchant::MerchantOptions;
use regtest::wait::eventually;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::hostile::{CHEAP, ground, status};
use crate::operations::tollhouse_at;

/// The number of sockets from one address.
const SOCKETS: usize = 200;
/// The merchant's limit on descriptors: lower than the number of sockets.
const DESCRIPTORS: usize = 160;
/// The number of peers from one address: more than LDK keeps without a channel (250).
const PEERS: u16 = 260;
/// The time until a socket that does not finish the handshake is closed.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(50);
/// A stranger's coins.
const FUNDS_SAT: u64 = 1_000_000;
/// The number of payments without an invoice.
const KEYSENDS: usize = 300;
/// How many of them are sent at once: a channel carries no more than 50.
const KEYSENDS_AT_ONCE: usize = 20;
/// The most payments without an invoice that the merchant may keep.
const KEPT_MAX: usize = 100;

#[tokio::test]
async fn idle_sockets_leave_the_lightning_port_to_others_and_end() {
    let dir = folder::temporary().unwrap();
    let exe = dir.path().join("few-descriptors");
    let program = env!("CARGO_BIN_EXE_tollhouse");
    let script = format!("#!/bin/sh\nulimit -n {DESCRIPTORS}\nexec '{program}' \"$@\"\n");
    fs::write(&exe, script).unwrap();
    fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).unwrap();
    let options = MerchantOptions::new(exe, "", CHEAP);
    let ground = Ground::start(options).await.unwrap();
    let peer = ground.stranger("stranger", FUNDS_SAT).await.unwrap();

    let idle = Idle::open(ground.merchant.p2p(), SOCKETS).await.unwrap();
    let connected = peer.node.connect(ground.peer).await;
    connected.expect("a peer from another address connects while they are open");
    let doctor = doctor(&ground).await;
    assert!(doctor.contains("Lightning port"), "{doctor}");
    eventually("the sockets to be closed", HANDSHAKE_DEADLINE, || async {
        match idle.left() {
            0 => Ok(Some(())),
            left => Err(format!("{left} left")),
        }
    })
    .await
    .unwrap();
    let next = ground.stranger("next", FUNDS_SAT).await.unwrap();
    let connected = next.node.connect(ground.peer).await;
    connected.expect("a peer connects after they are closed");
    let answer = ground.client.get(&ground.merchant.url(), None).await;
    assert!(answer.is_ok(), "the public listener answers as well");
}

#[tokio::test]
async fn idle_peers_leave_the_lightning_port_to_customers() {
    let ground = ground(CHEAP, "").await;
    let customer = ground.stranger("customer", FUNDS_SAT).await.unwrap();
    let crowd = Crowd::connect(ground.peer, PEERS).await.unwrap();
    let left = crowd.left();
    let opened = ground.open_channel(&customer, ground.peer, 500_000).await;
    opened.unwrap_or_else(|error| panic!("beside {left} peers without a channel: {error:#}"));
}

/// The output of `tollhouse doctor`.
async fn doctor(ground: &Ground) -> String {
    let output = tollhouse_at(ground.merchant.settings_file(), &["doctor"]).await;
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn payments_without_an_invoice_are_not_kept_forever() {
    let mut ground = ground(CHEAP, "").await;
    let stranger = ground.stranger("stranger", FUNDS_SAT).await.unwrap();
    let opened = ground.open_channel(&stranger, ground.peer, 500_000).await;
    opened.unwrap();
    let stranger = Arc::new(stranger);
    for _ in 0..KEYSENDS.div_ceil(KEYSENDS_AT_ONCE) {
        let mut sending = JoinSet::new();
        for _ in 0..KEYSENDS_AT_ONCE {
            let (stranger, to) = (Arc::clone(&stranger), ground.peer);
            // This test does not depend on whether they arrive.
            sending.spawn(async move { stranger.node.keysend(to, 1).await.is_ok() });
        }
        sending.join_all().await;
    }
    until_few(&ground).await;
    let status = status(&ground).await;
    assert_eq!(
        status["sales"]["count"], 0,
        "a payment without an invoice is not a sale"
    );
    assert_eq!(status["sales"]["amount_msat"], 0);
    let channels = stranger.node.channels();
    assert_eq!(channels.len(), 1, "{:?}", stranger.node.channels_closed());

    ground.merchant.restart().await.unwrap();
    ground.merchant.wait_running().await.unwrap();
    until_few(&ground).await;
    stranger.node.connect(ground.peer).await.unwrap();
}

/// Waits until the merchant keeps no more payments than allowed.
async fn until_few(ground: &Ground) {
    eventually(
        "few payments to be kept",
        Duration::from_secs(20),
        || async {
            let listed = ground.merchant.admin();
            let listed = listed.call(Method::GET, "/payments?limit=1000").await;
            let (status, body) = listed.map_err(|error| format!("{error:#}"))?;
            if status != StatusCode::OK {
                return Err(format!("{status}: {body}"));
            }
            let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            let kept = body["payments"].as_array().map_or(0, Vec::len);
            if kept <= KEPT_MAX {
                Ok(Some(()))
            } else {
                Err(format!("{kept} payments are kept"))
            }
        },
    )
    .await
    .unwrap();
}
