//! Credentials that were tampered with, against the shipped program and a token that was really paid for.

use crate::shop::{ARTICLE, HEIGHT, Shop};
use regtest::client::Credential;
use regtest::token::Token;

/// The same proof with another token.
fn with_token(credential: &Credential, token: &Token) -> Credential {
    Credential {
        macaroon_base64: token.to_base64(),
        preimage_hex: credential.preimage_hex.clone(),
    }
}

#[tokio::test]
async fn a_credential_opens_what_was_paid_for_and_nothing_else() {
    let shop = Shop::open().await;
    let credential = shop.buy(ARTICLE).await;
    let other = shop.buy(ARTICLE).await;
    let token = Token::from_base64(&credential.macaroon_base64).unwrap();

    // The proof of another payment, no proof, the payment hash in place of the preimage.
    let payment_hash = token.payment_hash_hex().unwrap();
    for preimage in [&*other.preimage_hex, &*"00".repeat(32), &*payment_hash] {
        let forged = Credential {
            preimage_hex: preimage.to_owned(),
            ..credential.clone()
        };
        shop.refused(ARTICLE, &forged).await;
    }
    // Another service.
    let refusal = shop.refused(HEIGHT, &credential).await;
    assert!(refusal.text().contains("another service"));

    // A caveat taken out, changed, or put in without the signature that goes with it.
    for index in 0..token.caveats.len() {
        let mut removed = token.clone();
        removed.caveats.remove(index);
        shop.refused(ARTICLE, &with_token(&credential, &removed))
            .await;
    }
    let mut stretched = token.clone();
    let until = stretched
        .caveats
        .iter_mut()
        .find(|caveat| caveat.starts_with("articles_valid_until="))
        .unwrap();
    *until = "articles_valid_until=99999999999".to_owned();
    shop.refused(ARTICLE, &with_token(&credential, &stretched))
        .await;
    let mut unsigned = token.clone();
    unsigned.caveats.push("articles_requests=5".to_owned());
    shop.refused(ARTICLE, &with_token(&credential, &unsigned))
        .await;

    // Whatever was tried, the token itself is as good as before.
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);
}

#[tokio::test]
async fn a_holder_narrows_a_token_and_cannot_widen_it() {
    let shop = Shop::open().await;
    let credential = shop.buy(HEIGHT).await;
    let token = Token::from_base64(&credential.macaroon_base64).unwrap();
    let copy = |caveat: &str| with_token(&credential, &token.attenuated(caveat));

    for narrower in [
        "chain_method=GET,HEAD",
        "chain_path=/chain/*",
        "chain_ip=127.0.0.0/8",
        "note=for my crawler",
    ] {
        // Each copy is held against what is left, not against what it uses: the last request stays unspent.
        let twice = with_token(
            &credential,
            &token.attenuated(narrower).attenuated("chain_method=POST"),
        );
        shop.refused(HEIGHT, &twice).await;
    }
    for wider in [
        "chain_requests=3",
        "chain_valid_until=99999999999",
        "services=chain:1",
        "services=chain:0,articles:0",
    ] {
        shop.refused(HEIGHT, &copy(wider)).await;
    }
    for elsewhere in ["chain_path=/other/*", "chain_ip=192.0.2.0/24"] {
        shop.refused(HEIGHT, &copy(elsewhere)).await;
    }

    // A copy takes from the same grant: two requests in all, of which one is left.
    let narrowed = copy("chain_path=/chain/blocks/*");
    assert_eq!(shop.get(HEIGHT, Some(&narrowed)).await.status, 200);
    shop.refused(HEIGHT, &narrowed).await;
    shop.refused(HEIGHT, &credential).await;
}
