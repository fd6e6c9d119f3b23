//! Tokens that the operator has taken back, and keys that have retired: over the real router, and after a restart.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tollhouse::account::ledger::record::Revoked;

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::{Shop, new_folder};

const PAGE: &str = "/articles/page.txt";

#[tokio::test]
async fn a_revoked_token_opens_nothing_nor_do_its_copies_and_others_do() {
    let shop = Shop::open().await;
    let (bad, good) = (shop.sell("articles", None), shop.sell("articles", None));
    assert_served(&shop.get_with(PAGE, &bad).await);
    let token_id = bad.identifier().token_id.0;
    shop.ledger
        .revoke(Revoked::Token(token_id), "shared in public")
        .unwrap();
    for copy in [
        bad.clone(),
        bad.with_caveat("articles_requests=5"),
        bad.with_caveat("a=b"),
    ] {
        let challenge = assert_challenged(&shop.get_with(PAGE, &copy).await);
        let detail = challenge.problem["detail"].as_str().unwrap();
        assert!(detail.contains("revoked"), "{detail}");
    }
    assert_served(&shop.get_with(PAGE, &good).await);
    let kept = shop.ledger.revocations().unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].reason, "shared in public");
}

#[tokio::test]
async fn all_tokens_of_a_service_are_revoked_and_the_next_one_sold_is_good() {
    let shop = Shop::open().await;
    let before = shop.buy(PAGE).await;
    let other = shop.sell("counted", None);
    shop.ledger
        .revoke(Revoked::Service("articles".to_owned()), "")
        .unwrap();
    assert_challenged(&shop.get_with(PAGE, &before).await);
    assert_served(&shop.get_with("/counted/page.txt", &other).await);
    // In the very second of the revocation.
    let after = shop.buy(PAGE).await;
    assert_served(&shop.get_with(PAGE, &after).await);
    shop.clock.advance(Duration::from_secs(5));
    assert_challenged(&shop.get_with(PAGE, &before).await);
    assert_served(&shop.get_with(PAGE, &after).await);
}

#[tokio::test]
async fn a_revocation_is_there_after_a_restart_and_after_the_store_is_lost() {
    let shop = Shop::open().await;
    let bad = shop.sell("articles", None);
    assert_served(&shop.get_with(PAGE, &bad).await);
    let token_id = bad.identifier().token_id.0;
    shop.ledger.revoke(Revoked::Token(token_id), "").unwrap();
    let route = "[[route]]\npath = \"/articles/*\"\nservice = \"articles\"\nfiles = \"shop\"\nprice = \"10 sat\"\n";
    for is_store_lost in [false, true] {
        let copy = new_folder();
        let ledger = copy.path().join("ledger");
        crate::support::books::copy_folder(&shop.ledger_folder(), &ledger);
        if is_store_lost {
            std::fs::remove_dir_all(ledger.join("store")).unwrap();
        }
        let again = Shop::selling_in(copy, route).await;
        assert_challenged(&again.get_with(PAGE, &bad).await);
        assert_served(&again.get_with(PAGE, &again.sell("articles", None)).await);
    }
}

#[tokio::test]
async fn tokens_of_an_older_key_are_good_until_it_retires() {
    let shop = Shop::open().await;
    let old = shop.buy(PAGE).await;
    assert_served(&shop.get_with(PAGE, &old).await);
    let day = Duration::from_secs(86_400);
    shop.keyring.rotate(shop.clock.unix_secs() + 3_600).unwrap();
    let challenge = assert_challenged(&shop.get(PAGE).await);
    let token = STANDARD.decode(&challenge.macaroon).unwrap();
    let identifier = tollhouse::protocol::l402::macaroon::Parsed::read(&token)
        .unwrap()
        .identifier;
    let identifier = tollhouse::protocol::l402::Identifier::from_bytes(identifier).unwrap();
    assert_eq!(identifier.token_id.epoch(), 1);
    assert_served(&shop.get_with(PAGE, &old).await);
    shop.clock.advance(Duration::from_secs(3_599));
    assert_served(&shop.get_with(PAGE, &old).await);
    shop.clock.advance(Duration::from_secs(1));
    let refused = assert_challenged(&shop.get_with(PAGE, &old).await);
    let detail = refused.problem["detail"].as_str().unwrap();
    assert!(detail.contains("not in force"), "{detail}");
    shop.clock.advance(day);
    assert_challenged(&shop.get_with(PAGE, &old).await);
}
