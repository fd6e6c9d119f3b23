//! A bundle that was laid ready for a shop without a channel: one client gets its invoice, nobody else does, and never twice.

mod networks;

use std::collections::BTreeSet;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use regtest::client::{Answer, Challenge};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tollhouse::account::ledger::record::{ActivationRecord, BundleRecord, Revoked};
use tollhouse::account::ledger::{Arrived, Payment};
use tollhouse::base::amount::Msat;
use tollhouse::protocol::invoice::{Inbound, Invoice, Reach, Unready};
use tollhouse::sell::gate::{ACCEPT_GRANT, Bundle};
use tollhouse::sell::route::Grant;

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::{NOW_SECS, Shop, new_folder};

const SETTINGS: &str = r#"
    [[route]]
    path = "/chain/*"
    service = "chain"
    price = "10 sat"
    grant = { requests = 1, valid = "1h" }
    grants = [{ name = "month", price = "50000 sat", requests = 3, valid = "30d" }]
    files = "shop"

    [[route]]
    path = "/other/*"
    service = "other"
    price = "50000 sat"
    grant = { requests = 3, valid = "30d" }
    files = "shop"
"#;

const PATH: &str = "/chain/page.txt";

/// What paying reveals.
const PREIMAGE: [u8; 32] = [42; 32];

/// How long the invoice can be paid.
const EXPIRY_SECS: u64 = 3_600;

const MONTH_MSAT: u64 = 50_000_000;

fn payment_hash() -> [u8; 32] {
    Sha256::digest(PREIMAGE).into()
}

/// The bundle, and what says whether the provider is there.
fn month() -> (Bundle, watch::Sender<bool>) {
    let (provider, is_provider_here) = watch::channel(true);
    let bundle = Bundle {
        name: "/chain/*".into(),
        plan: "month".into(),
        grant: Grant {
            requests: Some(3),
            valid: Duration::from_secs(30 * 86_400),
            ..Grant::default()
        },
        price: Msat::new(MONTH_MSAT).unwrap(),
        invoice: Invoice {
            bolt11: "lnbcrt500u1the-one-of-the-bundle".to_owned(),
            payment_hash: payment_hash(),
            expires_at_secs: NOW_SECS + EXPIRY_SECS,
        },
        is_provider_here,
    };
    (bundle, provider)
}

/// A shop without a channel.
async fn shop_without_channel() -> Shop {
    let shop = Shop::selling(SETTINGS).await;
    shop.reach.send_replace(Reach::Unready(Unready::NoChannel));
    shop
}

/// The same with the bundle laid ready; it is in the books, as it is before anybody can ask for it.
async fn shop_with_bundle() -> (Shop, watch::Sender<bool>) {
    let shop = shop_without_channel().await;
    let (bundle, provider) = month();
    let now_ms = NOW_SECS * 1_000;
    let activation = ActivationRecord {
        payment_hash: payment_hash(),
        gross_msat: MONTH_MSAT,
        fee_msat: 2_000_000,
        net_msat: MONTH_MSAT - 2_000_000,
        provider: "the provider".to_owned(),
        bolt11: bundle.invoice.bolt11.clone(),
        made_ms: now_ms,
        expires_ms: now_ms + EXPIRY_SECS * 1_000,
        settled_ms: None,
        bundle: Some(BundleRecord {
            service: "chain".to_owned(),
            route: "/chain/*".to_owned(),
            grant: Some("month".to_owned()),
        }),
    };
    shop.ledger.open_activation(&activation).unwrap();
    shop.gate.lay_ready(bundle);
    (shop, provider)
}

async fn ask(shop: &Shop, grant: &str) -> Answer {
    let request = shop.request(Method::GET, PATH);
    shop.send(request.header(ACCEPT_GRANT, grant)).await
}

async fn assert_nothing_for_sale(shop: &Shop, grant: &str) -> String {
    let answer = ask(shop, grant).await;
    assert_eq!(
        answer.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("www-authenticate"), None);
    answer.text()
}

fn credential(challenge: &Challenge, preimage: [u8; 32]) -> String {
    format!("L402 {}:{}", challenge.macaroon, hex::encode(preimage))
}

async fn show(shop: &Shop, credential: &str) -> Answer {
    let request = shop.request(Method::GET, PATH);
    shop.send(request.header(AUTHORIZATION, credential)).await
}

fn is_the_bundles(challenge: &Challenge) -> bool {
    let token = challenge.token().unwrap();
    token.payment_hash_hex().unwrap() == hex::encode(payment_hash())
}

fn token_id(challenge: &Challenge) -> String {
    // Behind the version and the payment hash.
    hex::encode(&challenge.token().unwrap().identifier[34..])
}

#[tokio::test]
async fn who_asks_for_the_bundle_gets_its_invoice_and_buys_what_it_says() {
    let (shop, _provider) = shop_with_bundle().await;
    let challenge = assert_challenged(&ask(&shop, "month").await);
    assert!(is_the_bundles(&challenge));
    assert_eq!(challenge.bolt11, "lnbcrt500u1the-one-of-the-bundle");
    assert_eq!(challenge.problem["price_msat"], MONTH_MSAT);
    assert_eq!(challenge.problem["expires_at"], NOW_SECS + EXPIRY_SECS);
    assert_eq!(challenge.problem["grant"]["requests"], 3);
    assert_eq!(
        challenge.token().unwrap().caveats,
        [
            "services=chain:0".to_owned(),
            format!("chain_valid_until={}", NOW_SECS + EXPIRY_SECS + 30 * 86_400),
            "chain_requests=3".to_owned(),
        ]
    );

    // Not paid: nothing is opened, whatever is shown.
    for wrong in [[0; 32], [43; 32]] {
        let answer = show(&shop, &credential(&challenge, wrong)).await;
        assert_ne!(answer.status, StatusCode::OK);
    }
    // Paid: three requests, and no fourth.
    let paid = credential(&challenge, PREIMAGE);
    for _ in 0..3 {
        assert_served(&show(&shop, &paid).await);
    }
    assert_ne!(show(&shop, &paid).await.status, StatusCode::OK);

    let settled = shop.ledger.settle_activation(&Arrived {
        payment_hash: payment_hash(),
        net_msat: 48_000_000,
        fee_msat: 2_000_000,
        provider: "the provider".to_owned(),
    });
    assert!(settled.unwrap().is_some());
    let sale = shop.ledger.sales(None, 1).unwrap().sales.remove(0);
    assert_eq!(sale.amount_msat, MONTH_MSAT);
    assert_eq!(sale.price_msat, Some(MONTH_MSAT));
    assert_eq!(sale.service.as_deref(), Some("chain"));
    assert_eq!(sale.route.as_deref(), Some("/chain/*"));
    assert_eq!(sale.grant.as_deref(), Some("month"));
    assert_eq!(sale.token_id.map(hex::encode), Some(token_id(&challenge)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_handed_to_one_client_however_many_ask_at_once() {
    let (shop, _provider) = shop_with_bundle().await;
    let asked = (0..40).map(|_| ask(&shop, "month"));
    let answers = futures_util::future::join_all(asked).await;
    let handed = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::PAYMENT_REQUIRED);
    assert_eq!(handed.count(), 1);
    let rest = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(rest.count(), 39);
    // Nor later, nor in another way; it was missed, which has the next one made.
    assert!(shop.gate.laid_ready().unwrap().was_missed);
    shop.clock.advance(Duration::from_secs(1_800));
    assert_nothing_for_sale(&shop, "month").await;
    let page = shop
        .request(Method::GET, &format!("{PATH}?l402-grant=month"))
        .header("accept", "text/html");
    let answer = shop.send(page).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let handed_ms = shop.gate.laid_ready().unwrap().handed_ms;
    assert_eq!(handed_ms, Some(NOW_SECS * 1_000));
}

#[tokio::test]
async fn what_is_asked_for_instead_is_told_what_there_is_and_takes_nothing_away() {
    let (shop, _provider) = shop_with_bundle().await;
    let text = assert_nothing_for_sale(&shop, "default").await;
    assert!(text.contains("Accept-Grant: month"), "{text}");
    // The same price and grant on another route is another thing.
    let other = shop.get("/other/page.txt").await;
    assert_eq!(other.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!other.text().contains("Accept-Grant"), "{}", other.text());
    // Nor does a request without a sale, or to nothing.
    assert_eq!(ask(&shop, "year").await.status, StatusCode::BAD_REQUEST);
    let none = shop.request(Method::GET, "/chain/none.txt");
    let none = shop.send(none.header(ACCEPT_GRANT, "month")).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    let challenge = assert_challenged(&ask(&shop, "month").await);
    assert!(is_the_bundles(&challenge));
    // What is gone is not told of.
    let text = assert_nothing_for_sale(&shop, "default").await;
    assert!(!text.contains("Accept-Grant"), "{text}");
}

#[tokio::test]
async fn a_node_that_can_be_paid_makes_invoices_as_ever_and_keeps_the_bundle() {
    let (shop, _provider) = shop_with_bundle().await;
    shop.reach.send_replace(Reach::Ready(Inbound {
        capacity_msat: MONTH_MSAT,
        ..Inbound::default()
    }));
    for _ in 0..2 {
        let challenge = assert_challenged(&ask(&shop, "month").await);
        assert!(!is_the_bundles(&challenge));
    }
    // A channel that is too small for it is no better than none.
    shop.reach.send_replace(Reach::Ready(Inbound {
        capacity_msat: MONTH_MSAT - 1,
        ..Inbound::default()
    }));
    let challenge = assert_challenged(&ask(&shop, "month").await);
    assert!(is_the_bundles(&challenge));
}

#[tokio::test]
async fn it_is_not_handed_out_where_its_payment_would_not_arrive() {
    let (shop, provider) = shop_with_bundle().await;
    for why in [
        Unready::Starting,
        Unready::ChainSourceUnreachable,
        Unready::Behind,
        Unready::PeersOffline,
        Unready::KeyMismatch,
        Unready::Recovering,
        Unready::DiskFull,
        Unready::ClockBehind,
        Unready::Stopping,
    ] {
        shop.reach.send_replace(Reach::Unready(why));
        assert_nothing_for_sale(&shop, "month").await;
    }
    shop.reach.send_replace(Reach::Unready(Unready::NoChannel));
    provider.send_replace(false);
    assert_nothing_for_sale(&shop, "month").await;
    provider.send_replace(true);
    // Ten minutes are left to whoever gets it.
    shop.clock.advance(Duration::from_secs(EXPIRY_SECS - 600));
    assert_nothing_for_sale(&shop, "month").await;
    let laid = shop.gate.laid_ready().unwrap();
    assert_eq!((laid.handed_ms, laid.was_missed), (None, true));
}

#[tokio::test]
async fn one_that_is_sold_otherwise_by_now_is_not_handed_out() {
    let shop = shop_without_channel().await;
    let (bundle, _provider) = month();
    let dearer = Bundle {
        price: Msat::new(MONTH_MSAT + 1_000).unwrap(),
        ..bundle.clone()
    };
    let longer = Bundle {
        grant: Grant {
            requests: Some(4),
            ..bundle.grant
        },
        ..bundle.clone()
    };
    let unknown = Bundle {
        plan: "year".into(),
        ..bundle.clone()
    };
    for other in [dearer, longer, unknown] {
        shop.gate.lay_ready(other);
        assert_nothing_for_sale(&shop, "month").await;
    }
    shop.gate.lay_ready(bundle);
    assert_challenged(&ask(&shop, "month").await);
}

#[tokio::test]
async fn a_second_one_is_handed_out_once_too_and_both_are_good() {
    let (shop, _provider) = shop_with_bundle().await;
    let first = assert_challenged(&ask(&shop, "month").await);
    let preimage = [43; 32];
    let (bundle, _provider) = month();
    shop.gate.lay_ready(Bundle {
        invoice: Invoice {
            payment_hash: Sha256::digest(preimage).into(),
            ..bundle.invoice.clone()
        },
        ..bundle
    });
    let second = assert_challenged(&ask(&shop, "month").await);
    assert_nothing_for_sale(&shop, "month").await;
    let ids: BTreeSet<_> = [&first, &second].map(token_id).into();
    assert_eq!(ids.len(), 2);
    assert_served(&show(&shop, &credential(&first, PREIMAGE)).await);
    assert_served(&show(&shop, &credential(&second, preimage)).await);
    // Neither is opened by what the other has paid.
    let mixed = show(&shop, &credential(&first, preimage)).await;
    assert_ne!(mixed.status, StatusCode::OK);
}

#[tokio::test]
async fn a_revocation_before_it_is_handed_out_does_not_end_what_is_sold_after() {
    let (shop, _provider) = shop_with_bundle().await;
    let service = Revoked::Service("chain".to_owned());
    shop.ledger.revoke(service, "").unwrap();
    let challenge = assert_challenged(&ask(&shop, "month").await);
    assert_served(&show(&shop, &credential(&challenge, PREIMAGE)).await);
}

#[tokio::test]
async fn an_ordinary_payment_of_the_same_shop_is_not_taken_for_it() {
    let (shop, _provider) = shop_with_bundle().await;
    shop.ledger
        .settle(Payment {
            payment_hash: [9; 32],
            amount_msat: 10_000,
        })
        .unwrap();
    let (activations, totals) = shop.ledger.activations(10).unwrap();
    assert_eq!((activations.len(), totals.count), (1, 0));
    assert_eq!(activations[0].settled_ms, None);
}

#[test]
fn settings_for_a_bundle_that_cannot_be_say_why() {
    let provider = format!(
        "provider = {{ node_id = \"02{}\", address = \"127.0.0.1:9735\" }}\n",
        "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    );
    let read = |liquidity: &str| {
        let dir = new_folder();
        let file = dir.path().join("tollhouse.toml");
        let chain = "node.chain.esplora = \"http://127.0.0.1:1\"\n";
        let text = format!("{chain}[node.liquidity]\n{liquidity}\n{SETTINGS}");
        std::fs::write(&file, text).unwrap();
        tollhouse::config::load_with(&file, []).map_err(|complaints| complaints.to_string())
    };
    let month = "bundle_route = \"/chain/*\"\nbundle_grant = \"month\"\n";
    assert!(read(&format!("{provider}{month}")).is_ok());
    assert!(read(&format!("{provider}bundle_route = \"/other/*\"")).is_ok());
    for (wrong, said) in [
        (month.to_owned(), "there is nobody who would open a channel"),
        (
            format!("{provider}bundle_route = \"/none/*\""),
            "no route that is sold has the path `/none/*`",
        ),
        (
            format!("{provider}bundle_route = \"/chain/*\"\nbundle_grant = \"year\""),
            "there are: default, month",
        ),
        (
            format!("{provider}bundle_route = \"/chain/*\""),
            "at 10 sat it costs too little to open a channel: 29000 sat or more",
        ),
        (
            format!("{provider}{month}fee_max = \"30000 sat\""),
            "54000 sat or more",
        ),
    ] {
        let complaints = read(&wrong).unwrap_err();
        assert!(complaints.contains(said), "{complaints}");
    }
}
