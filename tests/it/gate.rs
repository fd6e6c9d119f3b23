//! The gate over a real socket: what is challenged, what is refused, what is served.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, header::AUTHORIZATION};
use lightning_invoice::Bolt11Invoice;
use regtest::client::read_invoice;
use regtest::token::Token;
use tollhouse::protocol::invoice::{Inbound, Reach, Unready};
use tollhouse::protocol::l402::RootKeys;

use crate::support::answers::assert_challenged;
use crate::support::answers::assert_served;
use crate::support::raw;
use crate::support::{INVOICE_EXPIRY, NOW_SECS, PAGE, Shop, Sold, master_key};

#[tokio::test]
async fn a_challenge_has_the_lines_that_deployed_clients_read_in_their_order() {
    let shop = Shop::open().await;
    let reply = raw::get(shop.address, "/articles/page.txt").await;
    assert_eq!(reply.status, 402);
    let lines = reply.values("www-authenticate");
    let [l402, lsat] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    let (macaroon, rest) = l402
        .strip_prefix("L402 macaroon=\"")
        .and_then(|rest| rest.split_once("\", invoice=\""))
        .unwrap();
    let (invoice, _) = rest.split_once('"').unwrap();
    assert_eq!(
        *l402,
        format!(
            "L402 macaroon=\"{macaroon}\", invoice=\"{invoice}\", version=\"0\", token=\"{macaroon}\""
        )
    );
    assert_eq!(
        *lsat,
        format!("LSAT macaroon=\"{macaroon}\", invoice=\"{invoice}\"")
    );
    assert_eq!(
        STANDARD.encode(STANDARD.decode(macaroon).unwrap()),
        macaroon,
        "standard base64 with padding"
    );
    assert_eq!(invoice, invoice.to_lowercase());
    assert_eq!(reply.values("cache-control"), ["no-store"]);
    assert_eq!(reply.values("vary"), ["Accept, Authorization"]);
    assert_eq!(reply.values("content-type"), ["application/problem+json"]);
    assert_eq!(reply.values("access-control-allow-origin"), ["*"]);
    assert_eq!(
        reply.values("access-control-expose-headers"),
        ["WWW-Authenticate, Payment-Receipt, Retry-After"]
    );
}

#[tokio::test]
async fn body_token_and_invoice_of_a_challenge_say_the_same() {
    let shop = Shop::open().await;
    let challenge = assert_challenged(&shop.get("/counted/page.txt").await);
    let problem = challenge.problem.as_object().unwrap();
    let mut names: Vec<_> = problem.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "detail",
            "expires_at",
            "grant",
            "how_to_pay",
            "invoice",
            "macaroon",
            "payment_hash",
            "price_msat",
            "service",
            "status",
            "title",
            "type"
        ]
    );
    let expires_at = NOW_SECS + INVOICE_EXPIRY.as_secs();
    assert_eq!(problem["status"], 402);
    assert_eq!(problem["service"], "counted");
    assert_eq!(problem["price_msat"], 10_000);
    assert_eq!(problem["expires_at"], expires_at);
    assert_eq!(problem["grant"]["requests"], 3);
    assert_eq!(problem["grant"]["valid_secs"], 3_600);
    assert_eq!(problem["invoice"], challenge.bolt11);
    assert_eq!(problem["macaroon"], challenge.macaroon);
    let how = problem["how_to_pay"].as_str().unwrap();
    assert!(
        how.contains("Authorization: L402 <macaroon>:<preimage>"),
        "{how}"
    );

    let token = Token::from_base64(&challenge.macaroon).unwrap();
    let valid_until = expires_at + 3_600;
    assert_eq!(
        token.caveats,
        [
            "services=counted:0".to_owned(),
            format!("counted_valid_until={valid_until}"),
            "counted_requests=3".to_owned(),
        ]
    );
    assert_eq!(token.location.as_deref(), Some("lsat"));
    assert_eq!(token.identifier.len(), 66);
    let invoice: Bolt11Invoice = read_invoice(&challenge.bolt11).unwrap();
    assert_eq!(invoice.amount_milli_satoshis(), Some(10_000));
    assert_eq!(invoice.expiry_time(), INVOICE_EXPIRY);
    assert!(invoice.description().to_string().contains("counted"));
    let hash = invoice.payment_hash().to_string();
    assert_eq!(token.payment_hash_hex().as_ref(), Some(&hash));
    assert_eq!(problem["payment_hash"], hash);
}

#[tokio::test]
async fn no_two_challenges_are_the_same_and_none_of_them_is_on_the_disk() {
    let shop = Shop::open().await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        let challenge = assert_challenged(&shop.get("/articles/page.txt").await);
        let token = challenge.token().unwrap();
        assert!(seen.insert(token.payment_hash_hex().unwrap()));
        assert!(seen.insert(hex::encode(&token.identifier[34..])));
    }
    assert_eq!(shop.ledger.challenge_count(), 20);
    assert_eq!(shop.journal(), "");
}

#[tokio::test]
async fn a_token_is_good_until_its_second_and_not_in_it() {
    let shop = Shop::open().await;
    let sold = shop.sell("articles", None);
    shop.clock.advance(Duration::from_secs(3_599));
    assert_served(&shop.get_with("/articles/page.txt", &sold).await);
    shop.clock.advance(Duration::from_secs(1));
    let answer = shop.get_with("/articles/page.txt", &sold).await;
    let challenge = assert_challenged(&answer);
    assert_eq!(
        challenge.problem["expires_at"],
        NOW_SECS + 3_600 + INVOICE_EXPIRY.as_secs()
    );
}

#[tokio::test]
async fn a_narrower_copy_opens_what_it_was_narrowed_to() {
    let shop = Shop::open().await;
    let sold = shop.sell("articles", None);
    for caveat in [
        "articles_path=/articles/*",
        "articles_method=GET,HEAD",
        "articles_ip=127.0.0.0/8",
        "articles_requests=5",
        "articles_valid_until=1800000001",
        "services=articles:0",
        "somebody_else=anything",
    ] {
        let copy = sold.with_caveat(caveat);
        assert_served(&shop.get_with("/articles/page.txt", &copy).await);
    }
}

#[tokio::test]
async fn what_cannot_be_paid_for_now_is_503_and_what_was_paid_for_is_served_all_the_same() {
    let shop = Shop::open().await;
    let sold = shop.sell("articles", None);
    let too_little = Reach::Ready(Inbound {
        capacity_msat: 9_999,
        ..Inbound::default()
    });
    for reach in [
        Reach::Unready(Unready::Starting),
        Reach::Unready(Unready::ChainSourceUnreachable),
        Reach::Unready(Unready::Behind),
        Reach::Unready(Unready::NoChannel),
        Reach::Unready(Unready::PeersOffline),
        Reach::Unready(Unready::KeyMismatch),
        Reach::Unready(Unready::Stopping),
        too_little,
    ] {
        shop.reach.send_replace(reach);
        let answer = shop.get("/articles/page.txt").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            answer
                .header("retry-after")
                .unwrap()
                .parse::<u32>()
                .unwrap()
                > 0
        );
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("www-authenticate"), None);
        assert!(!answer.text().contains(PAGE));
        assert_served(&shop.get_with("/articles/page.txt", &sold).await);
    }
    assert_eq!(shop.ledger.challenge_count(), 0);
}

#[tokio::test]
async fn what_is_not_there_is_not_for_sale() {
    let shop = Shop::open().await;
    for (method, path, status) in [
        (Method::GET, "/articles/none.txt", StatusCode::NOT_FOUND),
        (Method::GET, "/articles/", StatusCode::NOT_FOUND),
        (Method::GET, "/nothing", StatusCode::NOT_FOUND),
        (
            Method::POST,
            "/articles/page.txt",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (
            Method::OPTIONS,
            "/articles/page.txt",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ] {
        let answer = shop.send(shop.request(method, path)).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("www-authenticate"), None, "{path}");
    }
    assert_eq!(shop.ledger.challenge_count(), 0);
}

#[tokio::test]
async fn a_free_route_asks_nobody_for_anything() {
    let shop = Shop::open().await;
    shop.reach.send_replace(Reach::Unready(Unready::Starting));
    let answer = shop.get("/free/page.txt").await;
    assert_served(&answer);
    assert_eq!(answer.header("cache-control"), None);
    let garbage = shop.request(Method::GET, "/free/page.txt");
    assert_served(
        &shop
            .send(garbage.header(AUTHORIZATION, "L402 garbage"))
            .await,
    );
}

#[tokio::test]
async fn a_paid_answer_is_kept_by_nobody_but_its_payer_and_scripts_may_read_it() {
    let shop = Shop::open().await;
    let answer = shop
        .get_with("/articles/page.txt", &shop.sell("articles", None))
        .await;
    assert_served(&answer);
    assert_eq!(answer.header("cache-control"), Some("private"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("www-authenticate"), None);
}

#[tokio::test]
async fn one_good_token_opens_every_route_of_its_service_and_no_other() {
    let shop = Shop::open().await;
    let both = Sold::mint(
        &RootKeys::new(&master_key(), &[]),
        &["services=counted:0,articles:0".to_owned()],
    );
    assert_served(&shop.get_with("/articles/page.txt", &both).await);
    assert_served(&shop.get_with("/counted/page.txt", &both).await);
    let narrowed = both.with_caveat("services=articles:0");
    assert_served(&shop.get_with("/articles/page.txt", &narrowed).await);
    assert_challenged(&shop.get_with("/counted/page.txt", &narrowed).await);
}
