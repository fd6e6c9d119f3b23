//! What access tokens may not do, whatever is asked for at the same time, and however slowly.

use std::convert::Infallible;

use http::Method;
use regtest::client::{Client, read_invoice};
use regtest::network::Network;
use serde_json::{Value, json};

use crate::operations::{access, done, invoice_of_nobody, lent};
use crate::shop::Shop;

/// Enough to meet the moment between LDK's sending and ldk-node's record of it.
const ROUNDS: u64 = 20;

/// Has the merchant pay with this token.
async fn paid(network: &Network, client: &Client, token: &str, to: &str) -> Value {
    let url = format!("{}/payments", network.merchant.admin().url());
    let request = client
        .request(Method::POST, &url)
        .bearer_auth(token)
        .header("content-type", "application/json")
        .body(json!({ "to": to }).to_string());
    let answer = client.send(request).await.unwrap();
    serde_json::from_slice(&answer.body).unwrap()
}

/// Has it pay again and again.
async fn keeps_on(network: &Network, client: &Client, token: &str, to: &str) -> Infallible {
    loop {
        let lost = paid(network, client, token, to).await;
        assert!(lost["error"].is_string(), "{lost}");
    }
}

#[tokio::test]
async fn a_payment_that_arrives_is_counted_though_another_of_its_hash_finds_no_path_meanwhile() {
    // Without a map of the network it looks for a path at once.
    let shop = Shop::open_with("", "node.gossip = \"none\"").await;
    let network = &shop.network;
    lent(network).await;
    let dir = regtest::folder::temporary().unwrap();
    let file = access(network, dir.path(), &["spend", "--spend-max", "50000 sat"]).await;
    let token = std::fs::read_to_string(file).unwrap();
    let operator = network.merchant.admin().token().unwrap();
    let client = Client::new().unwrap();
    for round in 0..ROUNDS {
        let theirs = network.payer.invoice(1_000_000, "wood").await.unwrap();
        let invoice = read_invoice(&theirs).unwrap();
        let made_secs = invoice.duration_since_epoch().as_secs();
        let nowhere = invoice_of_nobody(made_secs, *invoice.payment_hash());
        let lost = || keeps_on(network, &client, &operator, &nowhere);
        let all_lost = async { tokio::join!(lost(), lost(), lost(), lost()) };
        let arrived = tokio::select! {
            arrived = paid(network, &client, token.trim(), &theirs) => arrived,
            ended = all_lost => match ended.0 {},
        };
        assert_eq!(arrived["status"], "succeeded", "{round}: {arrived}");
    }
    let listed = done(network, &["access", "list"]).await;
    assert_eq!(listed["tokens"][0]["spent_msat"], ROUNDS * 1_000_000);
}
