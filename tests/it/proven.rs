//! A credential that was proven once is not proven again: what that must not change.

use http::{Method, header::AUTHORIZATION};

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::{Shop, Sold};

const PAGE: &str = "/articles/page.txt";

#[tokio::test]
async fn what_one_header_has_proven_is_not_another_ones() {
    let shop = Shop::open().await;
    let sold = shop.sell("articles", None);
    let inside = sold.with_caveat(&format!("preimage={}", hex::encode(sold.preimage)));
    for name in ["macaroon", "grpc-metadata-macaroon", "token"] {
        for other in ["Bearer shared", "Basic dTpw", "L402 AAAA:00", "L402"] {
            let both = shop
                .request(Method::GET, PAGE)
                .header(AUTHORIZATION, other)
                .header(name, hex::encode(&inside.macaroon));
            assert_served(&shop.send(both).await);
            let alone = shop.request(Method::GET, PAGE).header(AUTHORIZATION, other);
            assert_challenged(&shop.send(alone).await);
        }
    }
}

#[tokio::test]
async fn a_credential_that_differs_in_one_letter_is_another_one() {
    let shop = Shop::open().await;
    let sold = shop.sell("articles", None);
    assert_served(&shop.get_with(PAGE, &sold).await);
    let header = sold.header();
    let begin = "L402 ".len();
    // Behind the location, which is not signed.
    for at in (begin + 12..header.len()).step_by(7) {
        let mut bytes = header.clone().into_bytes();
        bytes[at] = match bytes[at] {
            b'0' => b'1',
            b':' => b';',
            _ => b'0',
        };
        let forged = String::from_utf8(bytes).unwrap();
        let request = shop
            .request(Method::GET, PAGE)
            .header(AUTHORIZATION, forged);
        assert_challenged(&shop.send(request).await);
    }
    assert_served(&shop.get_with(PAGE, &sold).await);
}

#[tokio::test]
async fn a_good_credential_beside_one_that_was_proven_and_is_used_up_opens_the_door() {
    let shop = Shop::open().await;
    let (spent, good) = (shop.sell("counted", Some(1)), shop.sell("counted", None));
    let path = "/counted/page.txt";
    assert_served(&shop.get_with(path, &spent).await);
    assert_challenged(&shop.get_with(path, &spent).await);
    let inside = good.with_caveat(&format!("preimage={}", hex::encode(good.preimage)));
    let both = shop
        .request(Method::GET, path)
        .header(AUTHORIZATION, spent.header())
        .header("macaroon", hex::encode(&inside.macaroon));
    assert_served(&shop.send(both).await);
}

#[tokio::test]
async fn however_many_are_presented_each_is_held_to_what_it_bought() {
    let shop = Shop::open().await;
    let path = "/counted/page.txt";
    let sold: Vec<Sold> = (0..600).map(|_| shop.sell("counted", Some(2))).collect();
    for _ in 0..2 {
        for sold in &sold {
            assert_served(&shop.get_with(path, sold).await);
        }
    }
    for sold in sold.iter().step_by(37) {
        assert_challenged(&shop.get_with(path, sold).await);
    }
}
