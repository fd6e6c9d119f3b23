//! What must never be read by anybody else: nothing of it in the log, nothing of it in what types print.

use bitcoin::Network;
use http::Method;
use tollhouse::keys::NodeKeys;
use tollhouse::protocol::invoice::{PaymentKeys, Reach, Unready};
use tollhouse::protocol::l402::credential::{Presented, presented};
use tollhouse::protocol::l402::{MasterKey, RootKeys};

use crate::support::answers::assert_served;
use crate::support::log::Log;
use crate::support::raw;
use crate::support::{Shop, Sold, master_key};

fn assert_silent(text: &str, sold: &Sold) {
    for secret in [
        sold.base64(),
        hex::encode(&sold.macaroon),
        hex::encode(sold.preimage),
        format!("{:?}", sold.preimage),
        format!("{:?}", sold.macaroon),
        hex::encode(master_key().secret),
        format!("{:?}", master_key().secret),
    ] {
        assert!(!text.contains(&secret), "{text}");
    }
}

/// On one thread, so that everything the server says goes to this test's log.
#[tokio::test]
async fn no_token_and_no_preimage_is_ever_in_the_log() {
    let (log, _listening) = Log::listen();
    let closed = crate::support::Closed::new();
    let shop = Shop::before(closed.address).await;
    let sold = shop.sell("counted", Some(1));
    let edited = sold.edited(|token| drop(token.caveats.pop()));
    let inside = sold.with_caveat(&format!("preimage={}", hex::encode(sold.preimage)));
    assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    for (path, sold) in [
        ("/counted/page.txt", &sold),
        ("/counted/page.txt", &edited),
        ("/articles/page.txt", &inside),
        ("/counted/none.txt", &sold),
        ("/nothing", &sold),
        ("/free/page.txt", &sold),
        ("/up/x", &shop.sell("up", None)),
    ] {
        shop.get_with(path, sold).await;
        assert_silent(&log.text(), sold);
    }
    let request = shop.request(Method::GET, "/counted/page.txt");
    let in_hex = hex::encode(&inside.macaroon);
    shop.send(request.header("macaroon", in_hex)).await;
    let broken = format!("GET / HTTP/1.1\r\nAuthorization: {}\r\n\0", sold.header());
    raw::exchange(shop.address, broken.as_bytes()).await;
    shop.reach.send_replace(Reach::Unready(Unready::NoChannel));
    shop.get_with("/counted/page.txt", &edited).await;
    shop.ledger.close().unwrap();
    let said = log.text();
    for sold in [&sold, &edited, &inside] {
        assert_silent(&said, sold);
    }
    // The log was listened to.
    assert!(
        said.contains("The upstream of /up/* does not answer"),
        "{said}"
    );
    assert!(said.contains("no channel"), "{said}");
}

#[tokio::test]
async fn what_is_answered_repeats_no_credential() {
    let shop = Shop::open().await;
    let sold = shop.sell("counted", Some(0));
    for path in [
        "/counted/page.txt",
        "/counted/none.txt",
        "/nothing",
        "/free/..",
        "/free/page.txt",
    ] {
        let answer = shop.get_with(path, &sold).await;
        let everything = format!("{:?} {}", answer.headers, answer.text());
        assert_silent(&everything, &sold);
    }
}

#[test]
fn a_file_that_is_named_for_the_settings_by_mistake_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed.words");
    NodeKeys::open(&path, Network::Regtest).unwrap();
    let words = std::fs::read_to_string(&path).unwrap();
    let headers = "Authorization: Bearer c2VjcmV0cw==\n";
    for (text, secret) in [
        (&*words, words.split_whitespace().next().unwrap()),
        (&*hex::encode([0xab; 32]), "abab"),
        (headers, "c2Vj"),
        ("[http]\nlisten = c2VjcmV0cw\n", "c2Vj"),
        ("c2VjcmV0 = 1\nc2VjcmV0 = 2\n", "c2Vj"),
    ] {
        std::fs::write(&path, text).unwrap();
        let complaints = tollhouse::config::load_with(&path, []).unwrap_err();
        let said = complaints.to_string();
        assert!(!said.contains(secret), "{said}");
        let place = if text.contains('=') {
            "line "
        } else {
            "is it the right one?"
        };
        assert!(said.contains(place), "{said}");
    }
    std::fs::write(&path, "[http]\nlisten = \"127.0.0.1:1\"\nlisten = 2\n").unwrap();
    let said = tollhouse::config::load_with(&path, [])
        .unwrap_err()
        .to_string();
    assert!(said.contains("line 3, column 1: duplicate key"), "{said}");
}

#[test]
fn types_that_hold_a_secret_do_not_print_it() {
    let key = MasterKey {
        epoch: 7,
        secret: [0xab; 32],
        until_secs: None,
    };
    let keys = RootKeys::new(&key, &[]);
    let sold = Sold::mint(&keys, &["services=a:0".to_owned()]);
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", sold.header().parse().unwrap());
    let presented: Presented = presented(&headers);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed.words");
    let node = NodeKeys::open(&path, Network::Regtest).unwrap();
    let words = std::fs::read_to_string(&path).unwrap();
    let payment = PaymentKeys::from_seed(&[0xab; 64], Network::Regtest).unwrap();
    let printed = format!("{key:?} {keys:?} {presented:?} {node:?} {payment:?}");
    assert_silent(&printed, &sold);
    assert!(
        !printed.contains("171, 171") && !printed.contains("abab"),
        "{printed}"
    );
    // Only these could know the words; among the names of the others' fields is one, `secret`, that a seed may have.
    let printed = format!("{node:?} {payment:?}");
    let printed: Vec<&str> = printed.split(|c: char| !c.is_alphanumeric()).collect();
    for word in words.split_whitespace() {
        assert!(!printed.contains(&word), "{word}");
    }
}
