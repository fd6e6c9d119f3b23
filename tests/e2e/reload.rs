//! Settings that change while the program runs: by a signal, by a call, and not at all where they are wrong.

use std::fs;

use http::{Method, StatusCode};
use regtest::wait::eventually;
use serde_json::Value;

use crate::operations::{done, not_done};
use crate::shop::{ARTICLE, HEIGHT, Shop};

/// Replaces something in the settings file.
fn edit(shop: &Shop, from: &str, to: &str) {
    let file = shop.network.merchant.settings_file();
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

async fn reload(shop: &Shop) -> (StatusCode, Value) {
    let admin = shop.network.merchant.admin();
    let (status, text) = admin.call(Method::POST, "/reload").await.unwrap();
    (status, serde_json::from_str(&text).unwrap())
}

async fn price_msat(shop: &Shop, path: &str) -> u64 {
    let answer = shop.get(path, None).await;
    answer.challenge().unwrap().problem["price_msat"]
        .as_u64()
        .unwrap()
}

#[tokio::test]
async fn prices_change_while_it_runs_and_what_was_sold_before_is_good() {
    let mut shop = Shop::open().await;
    let sold = shop.buy(ARTICLE).await;
    assert_eq!(price_msat(&shop, ARTICLE).await, 21_000);
    edit(&shop, "21 sat", "22 sat");
    let (status, body) = reload(&shop).await;
    assert_eq!(
        (status, &body["reloaded"]),
        (StatusCode::OK, &true.into()),
        "{body}"
    );
    assert_eq!(
        body["restart_needed_for"].as_array().unwrap().len(),
        0,
        "{body}"
    );
    assert_eq!(price_msat(&shop, ARTICLE).await, 22_000);
    assert_eq!(shop.get(ARTICLE, Some(&sold)).await.status, StatusCode::OK);

    // By a signal, as other servers have it.
    edit(&shop, "22 sat", "23 sat");
    shop.network.merchant.signal("HUP").unwrap();
    eventually(
        "the new price",
        std::time::Duration::from_secs(20),
        || async {
            match price_msat(&shop, ARTICLE).await {
                23_000 => Ok(Some(())),
                other => Err(other),
            }
        },
    )
    .await
    .unwrap();
    shop.buy(ARTICLE).await;

    // What cannot be changed is said to be so, and the rest is.
    edit(&shop, "23 sat", "24 sat\"\n# \"");
    edit(&shop, "[http]", "[ledger]\nchallenges_max = 5000\n[http]");
    let (status, body) = reload(&shop).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["restart_needed_for"], serde_json::json!(["ledger"]));
    assert_eq!(price_msat(&shop, ARTICLE).await, 24_000);
}

#[tokio::test]
async fn settings_with_a_mistake_change_nothing_and_say_why() {
    let shop = Shop::open().await;
    let sold = shop.buy(ARTICLE).await;
    edit(&shop, "21 sat", "22 satt");
    edit(&shop, "10 sat", "11 sat");
    let (status, body) = reload(&shop).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let error = body["error"].as_str().unwrap();
    assert!(
        error.contains("22 satt") && error.contains(".price"),
        "{error}"
    );
    assert_eq!(price_msat(&shop, ARTICLE).await, 21_000);
    assert_eq!(price_msat(&shop, HEIGHT).await, 10_000);
    assert_eq!(shop.get(ARTICLE, Some(&sold)).await.status, StatusCode::OK);
    assert!(shop.network.merchant.log_tail().contains("22 satt"));

    // Seed and keys are where they were, whatever a file says of it now.
    edit(&shop, "22 satt", "22 sat");
    edit(&shop, "data_dir = \"", "data_dir = \"/tmp/other");
    let (status, body) = reload(&shop).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert_eq!(price_msat(&shop, ARTICLE).await, 21_000);
}

#[tokio::test]
async fn no_request_fails_while_settings_are_read_again_and_again() {
    let shop = Shop::open().await;
    let sold = shop.buy(ARTICLE).await;
    let reloads = async {
        for number in 0..20 {
            let (from, to) = (21 + number % 2, 22 - number % 2);
            edit(&shop, &format!("{from} sat"), &format!("{to} sat"));
            assert_eq!(reload(&shop).await.0, StatusCode::OK);
        }
    };
    let requests = async {
        let mut served = 0_u32;
        loop {
            assert_eq!(shop.get(ARTICLE, Some(&sold)).await.status, StatusCode::OK);
            assert_eq!(
                shop.get("/free/one.html", None).await.status,
                StatusCode::OK
            );
            assert_eq!(
                shop.get(ARTICLE, None).await.status,
                StatusCode::PAYMENT_REQUIRED
            );
            served += 1;
            tokio::task::yield_now().await;
            if served == u32::MAX {
                return served;
            }
        }
    };
    tokio::select! {
        () = reloads => {}
        served = requests => panic!("{served} requests, and the reloads had not ended"),
    }
}

#[tokio::test]
async fn a_reload_reports_the_tokens_that_it_would_end() {
    let shop = Shop::open().await;
    let sold = shop.buy(ARTICLE).await;
    let look = || async {
        let admin = shop.network.merchant.admin();
        let (status, text) = admin.call(Method::GET, "/reload").await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["broken"].clone()
    };
    edit(&shop, "21 sat", "22 sat");
    assert_eq!(look().await, serde_json::json!([]));
    let flat = "price = \"22 sat\"";
    let classes =
        "price = { by = \"query:size\", values = { small = \"5 sat\" }, missing = \"21 sat\" }";
    edit(&shop, flat, classes);
    let broken = look().await;
    assert_eq!(broken[0]["tokens"], 1, "{broken}");
    let what = broken[0]["what"].as_str().unwrap();
    assert!(what.contains("was price class 0 and is 1"), "{what}");
    // Without a terminal, nothing happens.
    not_done(&shop.network, &["reload"], 4, "1 valid tokens").await;
    assert_eq!(shop.get(ARTICLE, Some(&sold)).await.status, StatusCode::OK);
    assert_eq!(price_msat(&shop, ARTICLE).await, 21_000);

    edit(&shop, classes, flat);
    edit(&shop, "service = \"articles\"", "service = \"papers\"");
    let broken = look().await;
    assert_eq!(broken[0]["service"], "articles", "{broken}");
    assert_eq!(broken[0]["tokens"], 1, "{broken}");
    let done = done(&shop.network, &["reload", "--yes"]).await;
    assert_eq!(done["broken"][0]["tokens"], 1, "{done}");
    let refused = shop.refused(ARTICLE, &sold).await;
    assert!(refused.text().contains("another service"));
    assert!(
        shop.network
            .merchant
            .log_tail()
            .contains("currently valid tokens: 1")
    );
}

#[tokio::test]
async fn a_token_of_a_lower_class_is_refused_with_that_reason() {
    let shop = Shop::open().await;
    let sold = shop.buy(ARTICLE).await;
    let classes =
        "price = { by = \"query:size\", values = { small = \"5 sat\" }, missing = \"21 sat\" }";
    edit(&shop, "price = \"21 sat\"", classes);
    assert_eq!(reload(&shop).await.0, StatusCode::OK);
    let refused = shop.refused(ARTICLE, &sold).await;
    assert!(refused.text().contains("lower price class of this service"));
}
