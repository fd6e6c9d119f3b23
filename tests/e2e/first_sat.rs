//! From nothing to the first satoshi: no money, no channel, a provider, a customer.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use http::{Method, StatusCode};
use regtest::merchant::MerchantOptions;
use regtest::newcomer::{LSPS2ServiceConfig, Newcomer, NewcomerOptions, usual_terms};
use regtest::seller::{self, Seller};
use regtest::wait::eventually;
use serde_json::{Value, json};

use crate::operations::tollhouse_at;

/// How long an event of the node may take to reach the books on a busy machine.
pub(crate) const BOOKS_DEADLINE: Duration = Duration::from_secs(15);

/// What is sold.
const ROUTES: &str = r#"
[[route]]
path = "/chain/*"
service = "chain"
price = "10 sat"
upstream = "{esplora}"
strip_prefix = true
"#;

/// The path of something that is sold.
const HEIGHT: &str = "/chain/blocks/tip/height";

/// A merchant without anything, whose provider has the usual terms.
async fn newcomer(settings: &str, is_known: bool) -> Newcomer {
    newcomer_with(usual_terms(), settings, is_known).await
}

async fn newcomer_with(terms: LSPS2ServiceConfig, settings: &str, is_known: bool) -> Newcomer {
    let exe = env!("CARGO_BIN_EXE_tollhouse");
    Newcomer::start(NewcomerOptions {
        merchant: MerchantOptions {
            settings: settings.to_owned(),
            ..MerchantOptions::new(exe, "", ROUTES)
        },
        terms,
        is_known,
    })
    .await
    .unwrap()
}

pub(crate) async fn get(network: &Newcomer, path: &str) -> Value {
    let (status, answer) = network.call(Method::GET, path, None).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

async fn activate(network: &Newcomer, amount_sat: u64) -> (StatusCode, Value) {
    let asked = json!({ "amount_sat": amount_sat });
    let called = network.call(Method::POST, "/liquidity/activate", Some(&asked));
    called.await.unwrap()
}

/// Whether the node's money is what the books say, to the satoshi: what activations left, and what was sold.
async fn adds_up(network: &Newcomer) -> Result<Option<()>, String> {
    let status = get(network, "/status").await;
    let books_msat = status["activations"]["net_msat"].as_u64().unwrap()
        + status["sales"]["amount_msat"].as_u64().unwrap()
        + status["sales"]["surplus_msat"].as_u64().unwrap()
        - status["activations"]["sold_msat"].as_u64().unwrap();
    let node_sat = status["node"]["balances"]["lightning_sat"]
        .as_u64()
        .unwrap();
    if node_sat * 1_000 == books_msat {
        Ok(Some(()))
    } else {
        Err(format!(
            "{node_sat} sat in channels, {books_msat} msat in the books"
        ))
    }
}

pub(crate) async fn until_it_adds_up(network: &Newcomer) {
    let added_up = eventually("the books to add up", BOOKS_DEADLINE, || adds_up(network));
    added_up.await.unwrap();
}

/// A sale after which the books add up.
pub(crate) async fn sells(network: &Newcomer, url: &str) {
    let purchase = network.client.buy(&network.payer, url).await.unwrap();
    assert_eq!(purchase.answer.status, 200, "{}", purchase.answer.text());
    until_it_adds_up(network).await;
}

/// The books, once the newest activation in them is paid.
async fn settled_activation(network: &Newcomer) -> Value {
    let settled = eventually("the activation in the books", BOOKS_DEADLINE, || async {
        let books = get(network, "/activations").await;
        match books["activations"][0]["settled_ms"].is_u64() {
            true => Ok(Some(books)),
            false => Err(books.to_string()),
        }
    });
    settled.await.unwrap()
}

/// The menu, as far as it is known before anybody is asked, and an invoice over 50,000 sat with its price.
async fn activation_invoice(network: &Newcomer) -> String {
    let terms = get(network, "/liquidity").await;
    let provider = network.provider_peer;
    assert_eq!(terms["provider"]["node_id"], provider.node_id.to_string());
    assert_eq!(terms["amount_min_sat"], 29_000);
    assert!(!terms["hidden"].as_array().unwrap().is_empty());

    let (status, made) = activate(network, 50_000).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!(made["gross_msat"], 50_000_000);
    assert_eq!(made["fee_msat"], 2_000_000);
    assert_eq!(made["net_msat"], 48_000_000);
    assert!(made["expires_ms"].as_u64() > made["made_ms"].as_u64());
    let bolt11 = made["bolt11"].as_str().unwrap().to_owned();
    let invoice = regtest::client::read_invoice(&bolt11).unwrap();
    assert_eq!(invoice.amount_milli_satoshis(), Some(50_000_000));
    assert_eq!(made["payment_hash"], invoice.payment_hash().to_string());
    let books = get(network, "/activations").await;
    assert_eq!(books["totals"]["count"], 0);
    assert_eq!(books["activations"][0]["bolt11"], *bolt11);
    bolt11
}

#[tokio::test]
async fn who_has_nothing_is_activated_by_a_customer_and_sells_over_the_new_channel() {
    // More sales than there will be room for: the log says so once.
    let low = "node.liquidity.low_sales = 100000\n";
    let mut network = newcomer(low, true).await;
    let status = get(&network, "/status").await;
    assert_eq!(status["node"]["channels"], json!([]));
    assert_eq!(status["node"]["balances"]["onchain_total_sat"], 0);
    let url = format!("{}{HEIGHT}", network.merchant.url());
    let asked = network.client.get(&url, None).await.unwrap();
    assert_eq!(
        asked.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        asked.text()
    );

    let bolt11 = activation_invoice(&network).await;

    // A customer pays it, and the channel is there.
    let paid = network.payer.pay(&bolt11).await;
    if let Err(error) = &paid {
        panic!("{error}; {}", network.merchant.log_tail());
    }
    network.merchant.wait_ready().await.unwrap();
    let settled = settled_activation(&network).await;
    let paid_once = json!({
        "count": 1, "gross_msat": 50_000_000, "fee_msat": 2_000_000, "net_msat": 48_000_000,
        "sold_msat": 0,
    });
    assert_eq!(settled["totals"], paid_once);
    let settings = network.merchant.settings_file();
    let shown = tollhouse_at(settings, &["liquidity", "activations"]).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown, settled);
    let status = get(&network, "/status").await;
    assert_eq!(status["sales"]["count"], 0, "an activation is no sale");
    assert_eq!(status["node"]["channels"].as_array().unwrap().len(), 1);
    let channel = &status["node"]["channels"][0];
    let provider = network.provider_peer.node_id;
    assert_eq!(channel["counterparty"], provider.to_string());
    assert_eq!(channel["capacity_sat"], 96_000);
    let sales_left = status["outlook"]["sales_at_dearest"].as_u64().unwrap();
    assert!(sales_left > 1_000, "{}", status["outlook"]);
    assert_eq!(status["outlook"]["is_low"], true);
    until_it_adds_up(&network).await;

    // The first sale over it.
    sells(&network, &url).await;
    let status = get(&network, "/status").await;
    assert_eq!(
        status["sales"],
        json!({ "count": 1, "amount_msat": 10_000, "surplus_msat": 0, "lost_msat": 0 })
    );

    let log = std::fs::read_to_string(network.merchant.log()).unwrap();
    let low = log.matches("Inbound liquidity is low").count();
    assert_eq!(low, 1, "once, and not with every sale");
    assert!(!log.contains(&bolt11[..40]), "invoices are not logged");

    // The channel confirms, and the books are the same after a restart.
    network.mine(6).await.unwrap();
    assert!(network.merchant.terminate().await.unwrap().success());
    network.merchant.restart().await.unwrap();
    network.merchant.wait_ready().await.unwrap();
    assert_eq!(get(&network, "/activations").await["totals"], paid_once);
    until_it_adds_up(&network).await;
    sells(&network, &url).await;

    // The node starts again by itself for a map of the network, and goes on selling.
    let fetched = network.call(Method::POST, "/gossip/fetch", None);
    assert_eq!(fetched.await.unwrap().0, StatusCode::OK);
    network.merchant.wait_ready().await.unwrap();
    sells(&network, &url).await;
    let status = get(&network, "/status").await;
    assert_eq!(status["sales"]["count"], 3);
    assert_eq!(status["node"]["channels_closed"], json!([]));
}

#[tokio::test]
async fn a_fee_above_the_ceiling_and_an_amount_that_makes_no_channel_are_refused_without_an_invoice()
 {
    let limits = "[node.liquidity]\nfee_max = \"1000 sat\"\nfee_max_percent = 1\n";
    let mut network = newcomer("", false).await;
    let (status, refusal) = activate(&network, 50_000).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refusal}");
    assert!(
        refusal["error"]
            .as_str()
            .unwrap()
            .contains("node.liquidity.provider")
    );

    let provider = network.provider_peer;
    let (id, at) = (provider.node_id, provider.address);
    let settings = format!("{limits}provider = {{ node_id = \"{id}\", address = \"{at}\" }}\n");
    network.merchant.settings_mut().extra = settings;
    network.merchant.restart().await.unwrap();
    network.merchant.wait_running().await.unwrap();
    for (amount_sat, expected, said) in [
        // The provider wants 2,000 sat.
        (50_000, StatusCode::CONFLICT, "asks more than 1000 sat"),
        (
            20_000,
            StatusCode::UNPROCESSABLE_ENTITY,
            "25000 sat or more",
        ),
        (0, StatusCode::UNPROCESSABLE_ENTITY, "25000 sat or more"),
        // And takes no payment above a million.
        (
            2_000_000,
            StatusCode::BAD_GATEWAY,
            "made no offer for 2000000 sat",
        ),
        (u64::MAX, StatusCode::BAD_REQUEST, "not that much bitcoin"),
    ] {
        let (status, refusal) = activate(&network, amount_sat).await;
        assert_eq!(status, expected, "{amount_sat}: {refusal}");
        let error = refusal["error"].as_str().unwrap();
        assert!(error.contains(said), "{amount_sat}: {error}");
    }
    // What sells no channels says so.
    let order = json!({ "lsp_balance_sat": 1_000_000 });
    let called = network.call(Method::POST, "/liquidity/order", Some(&order));
    let (status, refusal) = called.await.unwrap();
    assert_eq!(status, StatusCode::CONFLICT, "{refusal}");
    assert!(
        refusal["error"]
            .as_str()
            .unwrap()
            .contains("order_provider")
    );

    // A provider that is away is told from one that refuses.
    network.provider.stop();
    let (status, refusal) = activate(&network, 200_000).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{refusal}");
    let books = get(&network, "/activations").await;
    assert_eq!(books["activations"], json!([]), "no invoice was made");
}

#[tokio::test]
async fn a_channel_is_ordered_with_its_price_and_followed_until_it_is_funded() {
    let seller = Seller::start().unwrap();
    let (id, at) = (seller.peer().node_id, seller.peer().address);
    let settings =
        format!("node.liquidity.order_provider = {{ node_id = \"{id}\", address = \"{at}\" }}\n");
    let network = newcomer(&settings, false).await;
    let order = async |asked: Value| {
        let called = network.call(Method::POST, "/liquidity/order", Some(&asked));
        called.await.unwrap()
    };
    let (status, made) =
        order(json!({ "lsp_balance_sat": 1_000_000, "client_balance_sat": 500 })).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let total_sat = seller::FEE_SAT + 500;
    for way in ["lightning", "onchain"] {
        assert_eq!(made[way]["state"], "expect_payment");
        assert_eq!(made[way]["fee_total_sat"], seller::FEE_SAT);
        assert_eq!(made[way]["order_total_sat"], total_sat);
    }
    let bolt11 = made["lightning"]["bolt11"].as_str().unwrap();
    let invoice = regtest::client::read_invoice(bolt11).unwrap();
    assert_eq!(invoice.amount_milli_satoshis(), Some(total_sat * 1_000));
    assert!(
        made["onchain"]["address"]
            .as_str()
            .unwrap()
            .starts_with("bcrt1")
    );
    assert_eq!(made["channel"], Value::Null);

    let order_id = made["order_id"].as_str().unwrap();
    let path = format!("/liquidity/orders/{order_id}");
    assert_eq!(get(&network, &path).await, made);
    let outpoint = format!("{}:1", "11".repeat(32));
    seller.fund(order_id, &outpoint).unwrap();
    let done = get(&network, &path).await;
    assert_eq!(done["lightning"]["state"], "paid");
    assert_eq!(done["channel"]["funding_outpoint"], *outpoint);

    for (asked, expected) in [
        (
            json!({ "lsp_balance_sat": 0 }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            json!({ "lsp_balance_sat": seller::CHANNEL_SAT_MAX + 1 }),
            StatusCode::BAD_GATEWAY,
        ),
        (json!({ "colour": "red" }), StatusCode::BAD_REQUEST),
    ] {
        let (status, refusal) = order(asked).await;
        assert_eq!(status, expected, "{refusal}");
    }
    let unknown = network.call(Method::GET, "/liquidity/orders/none", None);
    assert_eq!(unknown.await.unwrap().0, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn a_program_that_is_killed_when_its_activation_is_paid_has_it_in_the_books_once() {
    let mut network = newcomer("", true).await;
    let bolt11 = activation_invoice(&network).await;
    network.payer.pay(&bolt11).await.unwrap();
    network.merchant.kill().unwrap();
    network.merchant.restart().await.unwrap();
    network.merchant.wait_running().await.unwrap();
    let books = settled_activation(&network).await;
    assert_eq!(books["totals"]["count"], 1);
    assert_eq!(books["totals"]["net_msat"], 48_000_000);
    let status = get(&network, "/status").await;
    assert_eq!(status["sales"]["count"], 0, "an activation is no sale");
    assert!(network.merchant.terminate().await.unwrap().success());
    network.merchant.restart().await.unwrap();
    network.merchant.wait_running().await.unwrap();
    assert_eq!(get(&network, "/activations").await, books);
}

#[tokio::test]
async fn a_provider_that_wants_a_token_is_told_it_out_of_a_file() {
    let terms = LSPS2ServiceConfig {
        require_token: Some("hush".to_owned()),
        ..usual_terms()
    };
    let mut network = newcomer_with(terms, "", true).await;
    let (status, refusal) = activate(&network, 50_000).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{refusal}");
    assert!(refusal["error"].as_str().unwrap().contains("wants a token"));
    let file = network.merchant.settings_file().with_file_name("token");
    std::fs::write(&file, "hush\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let provider = network.provider_peer;
    let (id, at) = (provider.node_id, provider.address);
    network.merchant.settings_mut().extra = format!(
        "node.liquidity.provider = {{ node_id = \"{id}\", address = \"{at}\", token_file = \"token\" }}\n"
    );
    network.merchant.restart().await.unwrap();
    network.merchant.wait_running().await.unwrap();
    let (status, made) = activate(&network, 50_000).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!(
        get(&network, "/liquidity").await["provider"]["has_token"],
        true
    );
    let log = std::fs::read_to_string(network.merchant.log()).unwrap();
    assert!(!log.contains("hush"), "tokens are not logged");
}
