//! What access tokens may not do, whatever is asked for at the same time, and however slowly.

use std::convert::Infallible;
use std::time::Duration;

use http::Method;
use lightning::types::payment::{PaymentHash, PaymentPreimage};
use lightning_invoice::{Bolt11InvoiceDescription, Description};
use regtest::client::{Client, read_invoice};
use regtest::network::Network;
use regtest::wait::eventually;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::operations::{DEADLINE, access, done, invoice_of_nobody, lent};
use crate::shop::Shop;

/// Enough to meet the moment between LDK's sending and ldk-node's record of it.
const ROUNDS: u64 = 20;

/// The API waits a minute for a payment to end.
const PAID_WITHIN: Duration = Duration::from_secs(90);

/// Has the merchant pay with this token.
async fn paid(network: &Network, client: &Client, token: &str, to: &str) -> Value {
    let url = format!("{}/payments", network.merchant.admin().url());
    let request = client
        .request(Method::POST, &url)
        .bearer_auth(token)
        .timeout(PAID_WITHIN)
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

#[tokio::test]
async fn a_payment_that_fails_after_minutes_and_a_kill_frees_its_reservation_and_one_that_arrives_does_not()
 {
    let mut shop = Shop::open().await;
    lent(&shop.network).await;
    let dir = regtest::folder::temporary().unwrap();
    let spend = ["spend", "--spend-max", "50000 sat"];
    let file = access(&shop.network, dir.path(), &spend).await;
    let token = std::fs::read_to_string(file).unwrap();
    let client = Client::new().unwrap();
    let payer = shop.network.payer.clone();
    let mut preimages = Vec::new();
    for number in [1_u8, 2] {
        let preimage = PaymentPreimage([number; 32]);
        let hash = PaymentHash(Sha256::digest(preimage.0).into());
        let held = payer.blocking(move |node| {
            let description = Description::new("held".to_owned()).unwrap();
            let description = Bolt11InvoiceDescription::Direct(description);
            node.bolt11_payment()
                .receive_for_hash(10_000_000, &description, 3_600, hash)
        });
        preimages.push((held.await.unwrap().unwrap().to_string(), preimage, hash));
    }
    let (first, second) = (&preimages[0], &preimages[1]);
    // Neither payment ends within the minute that the API waits.
    let (one, two) = tokio::join!(
        paid(&shop.network, &client, token.trim(), &first.0),
        paid(&shop.network, &client, token.trim(), &second.0),
    );
    assert_eq!(
        (&one["status"], &two["status"]),
        (&json!("pending"), &json!("pending")),
        "{one} {two}"
    );
    let again = paid(&shop.network, &client, token.trim(), &first.0).await;
    assert!(again["error"].is_string(), "{again}");
    let figures = shop.figures().await;
    assert_eq!(figures.0, 0);
    assert!(figures.1 >= 20_000_000, "{figures:?}");
    shop.kill().await;
    shop.come_back().await;
    assert_eq!(shop.figures().await, figures, "no payment has ended");
    let (fails, arrives) = (first.2, (second.1, second.2));
    let ended = payer.blocking(move |node| {
        let held = node.bolt11_payment();
        held.fail_for_hash(fails)?;
        held.claim_for_hash(arrives.1, 10_000_000, arrives.0)
    });
    ended.await.unwrap().unwrap();
    eventually("both to have ended", DEADLINE, || async {
        let figures = shop.figures().await;
        if figures == (10_000_000, 0) {
            Ok(Some(()))
        } else {
            Err(format!("{figures:?}"))
        }
    })
    .await
    .unwrap();
    shop.kill().await;
    shop.come_back().await;
    assert_eq!(shop.figures().await, (10_000_000, 0));
}

impl Shop {
    /// The amounts that the only access token has spent and reserved.
    async fn figures(&self) -> (u64, u64) {
        let listed = done(&self.network, &["access", "list"]).await;
        let token = &listed["tokens"][0];
        let figure = |name: &str| token[name].as_u64().unwrap();
        (figure("spent_msat"), figure("pending_msat"))
    }
}
