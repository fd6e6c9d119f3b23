//! Ways of selling a request, each paid for with real money: price classes, bundles, currencies, a price hook, and tokens that
//! are taken back.

use axum::Router;
use axum::routing::post;
use http::{Method, StatusCode};
use regtest::client::Credential;
use regtest::server::Server;
use serde_json::{Value, json};

use crate::shop::{ARTICLE, ARTICLE_TEXT, Shop};

const ROUTES: &str = r#"
[[route]]
path = "/sized/*"
service = "sized"
files = "articles"
price = { by = "query:size", values = { small = "1 sat", large = "10 sat" } }
grant = { requests = 2 }
grants = [{ name = "ten", price = "30 sat", requests = 10, services = ["articles"] }]

[[route]]
path = "/fiat/*"
service = "fiat"
files = "articles"
price = "0.01 USD"
"#;

const RATE: &str = "[[rate]]\ncurrency = \"USD\"\nfixed = \"50000\"\n";

const HOOKED: &str = r#"
[[route]]
path = "/hooked/*"
service = "hooked"
files = "articles"
price = { by = "hook:pricer" }
"#;

const SMALL: &str = "/sized/one.html?size=small";
const LARGE: &str = "/sized/one.html?size=large";

fn left(answer: &regtest::client::Answer) -> Option<&str> {
    answer.header("l402-remaining-requests")
}

#[tokio::test]
async fn what_a_payment_bought_is_what_it_opens_and_the_books_say_which_it_was() {
    let shop = Shop::open_with(ROUTES, RATE).await;
    let small = shop.buy(SMALL).await;
    shop.refused(LARGE, &small).await;
    let again = shop.get(SMALL, Some(&small)).await;
    assert_eq!(
        (again.text().as_str(), left(&again)),
        (ARTICLE_TEXT, Some("0"))
    );
    shop.refused(SMALL, &small).await;
    let large = shop.buy(LARGE).await;
    assert_eq!(shop.get(SMALL, Some(&large)).await.status, StatusCode::OK);

    let ten = shop.buy("/sized/one.html?size=small&l402-grant=ten").await;
    assert_eq!(left(&shop.get(ARTICLE, Some(&ten)).await), Some("8"));
    shop.refused(LARGE, &ten).await;
    for expected in (0..8).rev() {
        let answer = shop.get(SMALL, Some(&ten)).await;
        assert_eq!(left(&answer), Some(&*expected.to_string()));
    }
    shop.refused(ARTICLE, &ten).await;

    shop.buy("/fiat/one.html").await;
    let sales = shop.redeemed_sales(4).await;
    let sale = |amount_msat: u64| -> &Value {
        let mut sales = sales.iter();
        sales
            .find(|sale| sale["amount_msat"] == amount_msat)
            .unwrap()
    };
    assert_eq!(sale(30_000)["grant"], "ten");
    assert_eq!(sale(1_000)["grant"], Value::Null);
    // A cent at 50,000 USD for a bitcoin is 20 sat.
    let rate = json!({ "currency": "USD", "micros_per_btc": 50_000_000_000_u64 });
    assert_eq!(sale(20_000)["rate"], rate);
}

#[tokio::test]
async fn a_price_that_a_hook_has_set_is_what_is_paid() {
    let price = Router::new().route(
        "/price",
        post(async |body: axum::Json<Value>| {
            let is_dear = body["query"] == "dear";
            axum::Json(json!({ "price_msat": if is_dear { 9_000 } else { 2_000 } }))
        }),
    );
    let hook = Server::start("hook", "127.0.0.1:0".parse().unwrap(), price).unwrap();
    let url = format!("http://{}/price", hook.address());
    let settings =
        format!("[[hook]]\nname = \"pricer\"\nurl = \"{url}\"\nprice_max = \"1000 sat\"\n");
    let shop = Shop::open_with(HOOKED, &settings).await;
    let (cheap_path, dear_path) = ("/hooked/one.html", "/hooked/one.html?dear");
    let cheap = shop.buy(cheap_path).await;
    shop.refused(dear_path, &cheap).await;
    let dear = shop.buy(dear_path).await;
    assert_eq!(
        shop.get(cheap_path, Some(&dear)).await.status,
        StatusCode::OK
    );
    let sales = shop.redeemed_sales(2).await;
    let mut paid: Vec<_> = sales
        .iter()
        .map(|sale| sale["amount_msat"].as_u64())
        .collect();
    paid.sort_unstable();
    assert_eq!(paid, [Some(2_000), Some(9_000)]);
}

#[tokio::test]
async fn the_operator_takes_tokens_back_without_a_restart_and_they_stay_so_behind_one() {
    let mut shop = Shop::open().await;
    let (bad, good) = (shop.buy(ARTICLE).await, shop.buy(ARTICLE).await);
    let token_id = |credential: &Credential| {
        let token = regtest::token::Token::from_base64(&credential.macaroon_base64).unwrap();
        hex::encode(&token.identifier[34..])
    };
    let sales = shop.redeemed_sales(2).await;
    let (status, listed) =
        operate(&shop, Method::GET, &format!("/tokens?q={}", token_id(&bad))).await;
    assert_eq!(status, StatusCode::OK, "{listed}");
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(
        (
            &listed["tokens"][0]["requests"],
            &listed["tokens"][0]["revoked"]
        ),
        (&1.into(), &false.into())
    );
    let revoke = format!("/tokens/{}/revoke", token_id(&bad));
    assert_eq!(
        operate(&shop, Method::POST, &revoke).await.0,
        StatusCode::OK
    );
    shop.refused(ARTICLE, &bad).await;
    assert_eq!(shop.get(ARTICLE, Some(&good)).await.status, StatusCode::OK);
    let (_, keys) = operate(&shop, Method::POST, "/keys/rotate").await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2, "{keys}");
    assert!(!keys.to_string().contains("secret"), "{keys}");
    assert_eq!(shop.get(ARTICLE, Some(&good)).await.status, StatusCode::OK);
    let newer = shop.buy(ARTICLE).await;

    shop.kill().await;
    shop.come_back().await;
    shop.refused(ARTICLE, &bad).await;
    for credential in [&good, &newer] {
        assert_eq!(
            shop.get(ARTICLE, Some(credential)).await.status,
            StatusCode::OK
        );
    }
    let (status, said) = operate(&shop, Method::POST, "/services/artikles/revoke").await;
    assert_eq!(status, 404, "{said}");
    let (status, _) = operate(&shop, Method::POST, "/services/articles/revoke").await;
    assert_eq!(status, StatusCode::OK);
    for credential in [&good, &newer] {
        shop.refused(ARTICLE, credential).await;
    }
    // What was sold stays in the books.
    let books = shop.redeemed_sales(3).await;
    assert!(sales.iter().all(|sale| books.contains(sale)));
}

async fn operate(shop: &Shop, method: Method, path: &str) -> (StatusCode, Value) {
    let (status, text) = shop
        .network
        .merchant
        .admin()
        .call(method, path)
        .await
        .unwrap();
    (status, serde_json::from_str(&text).unwrap_or_default())
}
