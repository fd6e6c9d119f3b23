//! The operator's listener, and what the log keeps to itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::shop::{ARTICLE, HEIGHT, Shop};
use http::{Method, StatusCode};

#[tokio::test]
async fn the_operator_sees_node_money_and_sales_and_nobody_else_does() {
    let shop = Shop::open().await;
    shop.buy(HEIGHT).await;
    let merchant = &shop.network.merchant;
    let admin = merchant.admin();

    assert_eq!(admin.health().await.unwrap()["status"], "ok");
    assert!(admin.ready().await.unwrap().ready);
    let status = admin.status().await.unwrap();
    let node = &status["node"];
    assert_eq!(node["running"], true);
    assert_eq!(
        node["node_id"].as_str(),
        Some(&*shop.network.peer().node_id.to_string())
    );
    assert_eq!(node["p2p"][0].as_str(), Some(&*merchant.p2p().to_string()));
    assert!(
        node["deposit_address"]
            .as_str()
            .unwrap()
            .starts_with("bcrt1")
    );
    assert_eq!(node["channels"].as_array().unwrap().len(), 1);
    assert_eq!(node["channels"][0]["usable"], true);
    assert_eq!(node["balances"]["onchain_total_sat"], 10_000_000);
    assert_eq!(status["sales"]["count"], 1);
    assert_eq!(status["sales"]["amount_msat"], 10_000);
    assert_eq!(shop.redeemed_sales(1).await[0]["service"], "chain");

    // Without its token, with a wrong one, and on the public listener there is nothing of it.
    let client = shop.network.client();
    for path in ["/health", "/ready", "/status", "/sales"] {
        let url = format!("{}{path}", admin.url());
        let stranger = client.get(&url, None).await.unwrap();
        assert_eq!(stranger.status, StatusCode::UNAUTHORIZED, "{path}");
        let request = client
            .request(Method::GET, &url)
            .bearer_auth("00".repeat(32));
        let guess = client.send(request).await.unwrap();
        assert_eq!(guess.status, StatusCode::UNAUTHORIZED, "{path}");
        let public = client
            .request(Method::GET, &format!("{}{path}", merchant.url()))
            .bearer_auth(admin.token().unwrap());
        let public = client.send(public).await.unwrap();
        assert_eq!(public.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn nothing_secret_is_in_the_log_at_its_most_talkative() {
    let mut shop = Shop::open_with("", "log.level = \"trace\"").await;
    let purchase = shop.network.buy(HEIGHT).await.unwrap();
    shop.buy(ARTICLE).await;
    shop.redeemed_sales(2).await;
    let merchant = &mut shop.network.merchant;
    assert!(merchant.terminate().await.unwrap().success());

    let log = fs::read_to_string(merchant.log()).unwrap();
    assert!(log.contains("Settled 10000 msat for chain"), "{log}");
    let data_dir = merchant.data_dir();
    let words = fs::read_to_string(data_dir.join("seed.words")).unwrap();
    let master = fs::read_to_string(data_dir.join("master.key")).unwrap();
    let token = purchase.challenge.token().unwrap();
    let signature = hex::encode(&token.signature);
    let first_words = words
        .split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ");
    for (what, secret) in [
        ("the preimage", &*purchase.credential.preimage_hex),
        ("the token", &*purchase.credential.macaroon_base64),
        ("the token's signature", &*signature),
        ("the seed", &*first_words),
        ("the master key", master.trim()),
        (
            "the operator's token",
            merchant.admin().token().unwrap().trim(),
        ),
        ("an Authorization header", "uthorization: L402"),
    ] {
        assert!(!log.contains(secret), "{what} is in the log");
    }
    assert!(!log.contains('\u{1b}'), "a file wants no colours");

    for secret in ["seed.words", "master.key", "admin.token"] {
        let mode = fs::metadata(data_dir.join(secret))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    assert_eq!(words.split_whitespace().count(), 24);
}

#[tokio::test]
async fn words_of_another_node_and_another_network_start_nothing_and_lose_nothing() {
    let mut shop = Shop::open().await;
    let credential = shop.buy(HEIGHT).await;
    shop.redeemed_sales(1).await;
    shop.network.merchant.terminate().await.unwrap();
    let file = shop.network.merchant.data_dir().join("seed.words");
    let words = fs::read_to_string(&file).unwrap();
    let mistyped = ["abandon"; 24].join(" ");
    let another = format!("{} art", ["abandon"; 23].join(" "));
    for (wrong, why) in [
        (&mistyped, "their checksum does not fit"),
        (&another, "are not those that this data was made with"),
    ] {
        fs::write(&file, wrong).unwrap();
        shop.network.merchant.restart().await.unwrap();
        let ended = shop.network.merchant.wait_ended().await.unwrap();
        let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
        assert_eq!(ended.code(), Some(1), "{log}");
        assert!(log.contains(why), "`{why}` in {log}");
        assert!(!log.contains("abandon"), "{log}");
    }
    fs::write(&file, &words).unwrap();
    let merchant = &mut shop.network.merchant;
    merchant.settings_mut().extra = "node.network = \"signet\"".to_owned();
    merchant.restart().await.unwrap();
    let ended = merchant.wait_ended().await.unwrap();
    let log = fs::read_to_string(merchant.log()).unwrap();
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("was made for another network"), "{log}");
    merchant.settings_mut().extra = String::new();
    shop.come_back().await;
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    shop.buy(HEIGHT).await;
    shop.redeemed_sales(2).await;
}
