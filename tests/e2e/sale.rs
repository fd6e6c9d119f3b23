//! A purchase from the first request to the last one that it pays for.

use std::time::Duration;

use crate::shop::{ARTICLE, ARTICLE_TEXT, HEIGHT, Shop};
use bitcoin::hashes::{Hash as _, sha256};
use http::Method;
use http::header::{ETAG, IF_NONE_MATCH, LAST_MODIFIED, RANGE};
use regtest::client::Credential;
use tokio::task::JoinSet;

#[tokio::test]
async fn a_payment_buys_its_requests_from_an_upstream_and_not_one_more() {
    let shop = Shop::open().await;
    let purchase = shop.network.buy(HEIGHT).await.unwrap();

    let invoice = purchase.challenge.invoice().unwrap();
    assert_eq!(invoice.amount_milli_satoshis(), Some(10_000));
    assert!(invoice.description().to_string().contains("chain"));
    let token = purchase.challenge.token().unwrap();
    assert_eq!(
        token.payment_hash_hex(),
        Some(invoice.payment_hash().to_string())
    );
    assert_eq!(token.caveat("chain_requests"), Some("2"));
    assert_eq!(
        sha256::Hash::hash(&purchase.paid.preimage.0),
        *invoice.payment_hash()
    );

    assert_eq!(purchase.answer.status, 200);
    assert!(purchase.answer.text().parse::<u32>().unwrap() > 100);
    assert_eq!(purchase.answer.header("cache-control"), Some("private"));
    let again = shop.get(HEIGHT, Some(&purchase.credential)).await;
    assert_eq!(again.status, 200);
    let refusal = shop.refused(HEIGHT, &purchase.credential).await;
    assert!(refusal.text().contains("used up"), "{}", refusal.text());

    let sales = shop.redeemed_sales(1).await;
    let sale = &sales[0];
    assert_eq!(sale["service"], "chain");
    assert_eq!(sale["route"], "/chain/*");
    assert_eq!(sale["amount_msat"], 10_000);
    assert_eq!(sale["price_msat"], 10_000);
    assert_eq!(sale["payment_hash"], invoice.payment_hash().to_string());
    assert!(shop.network.stop().await.unwrap().success());
}

#[tokio::test]
async fn a_payment_buys_files_with_ranges_and_validators() {
    let shop = Shop::open().await;
    let credential = shop.buy(ARTICLE).await;
    let whole = shop.get(ARTICLE, Some(&credential)).await;
    assert_eq!(whole.text(), ARTICLE_TEXT);
    assert_eq!(
        whole.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(whole.header("cache-control"), Some("private"));

    let client = shop.network.client();
    let url = format!("{}{ARTICLE}", shop.network.gate_url());
    let request = |name, value: &str| {
        client
            .request(Method::GET, &url)
            .header(http::header::AUTHORIZATION, credential.header())
            .header(name, value)
    };
    let part = client.send(request(RANGE, "bytes=0-8")).await.unwrap();
    assert_eq!((part.status.as_u16(), &*part.text()), (206, "<!doctype"));
    let validator = whole.header(ETAG.as_str());
    let unchanged = match validator {
        Some(etag) => request(IF_NONE_MATCH, etag),
        None => request(
            http::header::IF_MODIFIED_SINCE,
            whole.header(LAST_MODIFIED.as_str()).unwrap(),
        ),
    };
    assert_eq!(client.send(unchanged).await.unwrap().status, 304);

    for absent in [
        "/articles/.draft",
        "/articles/none.html",
        "/articles/",
        "/nowhere",
    ] {
        assert_eq!(
            shop.get(absent, None).await.status,
            404,
            "{absent} is not there, so it is not sold"
        );
    }
    assert_eq!(shop.get("/free/one.html", None).await.text(), ARTICLE_TEXT);
}

#[tokio::test]
async fn of_fifty_requests_at_once_on_a_token_with_ten_left_ten_are_served() {
    let route = r#"
[[route]]
path = "/dozen/*"
service = "dozen"
price = "12 sat"
grant = { requests = 12, valid = "1h" }
upstream = "{esplora}"
strip_prefix = true
"#;
    let shop = Shop::open_with(route, "").await;
    let path = "/dozen/blocks/tip/height";
    let credential = shop.buy(path).await;
    assert_eq!(shop.get(path, Some(&credential)).await.status, 200);

    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let client = shop.network.client().clone();
        let url = format!("{}{path}", shop.network.gate_url());
        let credential: Credential = credential.clone();
        requests.spawn(async move { client.get(&url, Some(&credential)).await.unwrap().status });
    }
    let answers = requests.join_all().await;
    let served = answers.iter().filter(|status| **status == 200).count();
    let refused = answers.iter().filter(|status| **status == 402).count();
    assert_eq!((served, refused), (10, 40));
    shop.refused(path, &credential).await;
}

#[tokio::test]
async fn a_token_is_refused_after_its_time() {
    let route = r#"
[[route]]
path = "/brief/*"
service = "brief"
price = "1 sat"
grant = { valid = "1s" }
upstream = "{esplora}"
strip_prefix = true
"#;
    // The time of validity begins where the invoice's ends: five seconds and one.
    let shop = Shop::open_with(route, "l402.invoice_expiry = \"5s\"").await;
    let path = "/brief/blocks/tip/height";
    // The first payment after a start may take two seconds, so another one comes before it.
    shop.buy(HEIGHT).await;
    let credential = shop.buy(path).await;
    let expired = regtest::wait::eventually("the token to expire", Duration::from_secs(20), || {
        let answer = shop.get(path, Some(&credential));
        async move {
            let answer = answer.await;
            match answer.status.as_u16() {
                402 => Ok(Some(answer)),
                status => Err(status),
            }
        }
    });
    let expired = expired.await.unwrap();
    assert!(
        expired.text().contains("time is over"),
        "{}",
        expired.text()
    );
    let until: u64 = regtest::token::Token::from_base64(&credential.macaroon_base64)
        .unwrap()
        .caveat("brief_valid_until")
        .unwrap()
        .parse()
        .unwrap();
    let next: u64 = expired
        .challenge()
        .unwrap()
        .token()
        .unwrap()
        .caveat("brief_valid_until")
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        next >= until + 6,
        "refused before its time: {until}, {next}"
    );
}
