//! A customer buys a month of a shop that has no channel, and the payment opens it.

use std::time::Duration;

use http::{Method, StatusCode};
use regtest::client::{Answer, Challenge, Credential};
use regtest::merchant::MerchantOptions;
use regtest::newcomer::{Newcomer, NewcomerOptions, usual_terms};
use regtest::wait::eventually;
use serde_json::{Value, json};

use crate::first_sat::{BOOKS_DEADLINE, get, sells, until_it_adds_up};
use crate::operations::tollhouse_at;

/// What is sold: by the request, or a month of it.
const ROUTES: &str = r#"
[[route]]
path = "/chain/*"
service = "chain"
price = "10 sat"
upstream = "{esplora}"
strip_prefix = true
grants = [{ name = "month", price = "50000 sat", requests = 4, valid = "30d" }]

[[route]]
path = "/by-method/*"
service = "by-method"
price = { by = "method", values = { GET = "50000 sat" }, missing = "60000 sat" }
upstream = "{esplora}"
strip_prefix = true
"#;

const HEIGHT: &str = "/chain/blocks/tip/height";

/// How long a bundle takes to be laid ready: two looks, and the provider's answers.
const READY_DEADLINE: Duration = Duration::from_secs(40);

async fn newcomer(settings: &str) -> Newcomer {
    let exe = env!("CARGO_BIN_EXE_tollhouse");
    Newcomer::start(NewcomerOptions {
        merchant: MerchantOptions {
            settings: settings.to_owned(),
            ..MerchantOptions::new(exe, "", ROUTES)
        },
        terms: usual_terms(),
        is_known: true,
    })
    .await
    .unwrap()
}

fn price_url(network: &Newcomer) -> String {
    format!("{}{HEIGHT}", network.merchant.url())
}

fn month_url(network: &Newcomer) -> String {
    format!("{}?l402-grant=month", price_url(network))
}

async fn asked(network: &Newcomer) -> Answer {
    network.client.get(&month_url(network), None).await.unwrap()
}

/// What the client that asks first gets.
async fn challenged(network: &Newcomer) -> Challenge {
    let handed = eventually("the bundle", BOOKS_DEADLINE, || async {
        let answer = asked(network).await;
        match answer.status {
            StatusCode::PAYMENT_REQUIRED => Ok(Some(answer.challenge().unwrap())),
            _ => Err(answer.text()),
        }
    });
    let challenge = handed.await.unwrap();
    assert_eq!(challenge.problem["price_msat"], 50_000_000);
    challenge
}

/// The month opens its door, and so much is left of it each time.
async fn opens(network: &Newcomer, credential: &Credential, lefts: &[u32]) {
    for left in lefts {
        let url = price_url(network);
        let shown = network.client.get(&url, Some(credential));
        let answer = shown.await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let said = answer.header("l402-remaining-requests").unwrap().to_owned();
        assert_eq!(said, left.to_string());
    }
}

/// The books once the bundle is paid: one sale of all that the customer paid, and what the provider kept of it.
async fn is_sold_once(network: &Newcomer) -> Value {
    let sold = eventually("the bundle in the books", BOOKS_DEADLINE, || async {
        let status = get(network, "/status").await;
        match status["sales"]["count"].as_u64() {
            Some(0) => Err(status["activations"].to_string()),
            _ => Ok(Some(status)),
        }
    });
    let status = sold.await.unwrap();
    let paid = json!({ "count": 1, "amount_msat": 50_000_000, "surplus_msat": 0, "lost_msat": 0 });
    assert_eq!(status["sales"], paid);
    let activations = json!({
        "count": 1, "gross_msat": 50_000_000, "fee_msat": 2_000_000, "net_msat": 48_000_000,
        "sold_msat": 50_000_000,
    });
    assert_eq!(status["activations"], activations);
    until_it_adds_up(network).await;
    let sales = get(network, "/sales").await;
    let sale = &sales["sales"][0];
    assert_eq!(sale["amount_msat"], 50_000_000);
    assert_eq!(sale["price_msat"], 50_000_000);
    assert_eq!(sale["route"], "/chain/*");
    assert_eq!(sale["grant"], "month");
    sale.clone()
}

async fn activate(network: &Newcomer, body: Value) -> (StatusCode, Value) {
    let called = network.call(Method::POST, "/liquidity/activate", Some(&body));
    called.await.unwrap()
}

#[tokio::test]
async fn a_month_that_a_first_customer_buys_opens_the_channel_over_which_all_others_buy() {
    let mut network = newcomer("").await;
    assert_eq!(
        asked(&network).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    for (wrong, expected, said) in [
        (json!({}), StatusCode::BAD_REQUEST, "send JSON"),
        (
            json!({ "route": "/chain/*", "amount_sat": 50_000 }),
            StatusCode::BAD_REQUEST,
            "send JSON",
        ),
        (
            json!({ "route": "/other/*" }),
            StatusCode::NOT_FOUND,
            "nothing is sold on `/other/*`",
        ),
        (
            json!({ "route": "/chain/*", "grant": "year" }),
            StatusCode::NOT_FOUND,
            "there are: default, month",
        ),
        (
            json!({ "route": "/by-method/*" }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "depends on the request",
        ),
        (
            json!({ "route": "/chain/*" }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "29000 sat or more",
        ),
    ] {
        let (status, refusal) = activate(&network, wrong).await;
        let error = refusal["error"].as_str().unwrap();
        assert_eq!(status, expected, "{error}");
        assert!(error.contains(said), "{error}");
    }

    let settings = network.merchant.settings_file();
    let asked_for = ["--route", "/chain/*", "--grant", "month"];
    let made = tollhouse_at(
        settings,
        &[&["liquidity", "activate"], &asked_for[..]].concat(),
    )
    .await;
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["gross_msat"], 50_000_000);
    assert_eq!(made["fee_msat"], 2_000_000);
    let bundle = json!({ "service": "chain", "route": "/chain/*", "grant": "month" });
    assert_eq!(made["bundle"], bundle);

    // Whoever asks for something else is told of it; who asks for it first gets it, and nobody after that.
    let other = network
        .client
        .get(&price_url(&network), None)
        .await
        .unwrap();
    assert!(
        other.text().contains("Accept-Grant: month"),
        "{}",
        other.text()
    );
    let challenge = challenged(&network).await;
    assert_eq!(challenge.bolt11, made["bolt11"].as_str().unwrap());
    assert_eq!(
        asked(&network).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let laid = get(&network, "/activations").await["laid_ready"].clone();
    assert_eq!(laid["payment_hash"], made["payment_hash"]);
    assert!(laid["handed_ms"].is_u64());

    let paid = network.payer.pay(&challenge.bolt11).await.unwrap();
    let credential = challenge.credential(&paid);
    opens(&network, &credential, &[3, 2, 1, 0]).await;
    let sale = is_sold_once(&network).await;
    assert_eq!(sale["payment_hash"], made["payment_hash"]);
    let url = price_url(&network);
    let used_up = network.client.get(&url, Some(&credential)).await.unwrap();
    assert_ne!(used_up.status, StatusCode::OK);

    // All others buy over the channel.
    let payable = eventually("a channel that takes payments", BOOKS_DEADLINE, || async {
        let status = get(&network, "/status").await;
        let inbound_msat = status["node"]["inbound_msat"].as_u64().unwrap();
        Ok::<_, String>((inbound_msat > 10_000).then_some(()))
    });
    payable.await.unwrap();
    sells(&network, &price_url(&network)).await;
    network.mine(6).await.unwrap();
    assert!(network.merchant.terminate().await.unwrap().success());
    network.merchant.restart().await.unwrap();
    network.merchant.wait_running().await.unwrap();
    let status = get(&network, "/status").await;
    assert_eq!(status["sales"]["amount_msat"], 50_010_000);
    assert_eq!(status["activations"]["count"], 1);
    until_it_adds_up(&network).await;
}

#[tokio::test]
async fn a_program_that_is_killed_around_the_payment_of_a_month_has_sold_it_once() {
    let kept =
        "node.liquidity.bundle_route = \"/chain/*\"\nnode.liquidity.bundle_grant = \"month\"\n";
    let mut network = newcomer(kept).await;
    let laid = eventually("a bundle laid ready by itself", READY_DEADLINE, || async {
        let books = get(&network, "/activations").await;
        Ok::<_, String>(books["laid_ready"].is_object().then_some(books))
    });
    laid.await.unwrap();
    let challenge = challenged(&network).await;

    // Killed when it was handed out: nobody else gets it, nor another one so soon, and it can be paid all the same.
    network.merchant.kill().unwrap();
    network.merchant.restart().await.unwrap();
    network.merchant.wait_running().await.unwrap();
    let answer = asked(&network).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let connected = eventually("the provider", BOOKS_DEADLINE, || async {
        let peers = get(&network, "/peers").await;
        match peers["peers"][0]["is_connected"].as_bool() {
            Some(true) => Ok(Some(())),
            _ => Err(peers.to_string()),
        }
    });
    connected.await.unwrap();
    let paid = network.payer.pay(&challenge.bolt11).await.unwrap();

    // Killed when it was paid.
    network.merchant.kill().unwrap();
    network.merchant.restart().await.unwrap();
    network.merchant.wait_running().await.unwrap();
    let credential = challenge.credential(&paid);
    opens(&network, &credential, &[3, 2]).await;
    is_sold_once(&network).await;
    assert!(network.merchant.terminate().await.unwrap().success());
    network.merchant.restart().await.unwrap();
    network.merchant.wait_running().await.unwrap();
    opens(&network, &credential, &[1, 0]).await;
    is_sold_once(&network).await;
    let books = get(&network, "/activations").await;
    assert_eq!(books["activations"].as_array().unwrap().len(), 1);
    assert_eq!(books["laid_ready"], Value::Null);
}
