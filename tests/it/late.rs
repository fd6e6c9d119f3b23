//! Invoices that are paid after they expired, which LDK accepts for hours. The time sold is no shorter for it, and
//! the ledger records it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tollhouse::account::ledger::{Challenge, Claims, Payment, Settlement};

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::{INVOICE_EXPIRY, NOW_SECS, Shop, Sold};

const SETTINGS: &str = r#"
    [[route]]
    path = "/short/*"
    service = "short"
    price = "10 sat"
    grant = { requests = 50, valid = "20s" }
    files = "shop"

    [[route]]
    path = "/long/*"
    service = "long"
    price = "20 sat"
    grant = { valid = "1d" }
    grants = [{ name = "week", price = "100 sat", valid = "7d" }]
    files = "shop"
"#;

const SHORT: &str = "/short/page.txt";

fn late(secs: u64) -> Duration {
    INVOICE_EXPIRY + Duration::from_secs(secs)
}

fn payment(sold: &Sold) -> Payment {
    Payment {
        payment_hash: sold.identifier().payment_hash,
        amount_msat: 10_000,
    }
}

/// The challenge as the ledger would have it for the invoice with the known preimage.
fn challenged(sold: &Sold) -> Challenge {
    Challenge {
        payment_hash: sold.identifier().payment_hash,
        token_id: sold.identifier().token_id.0,
        service: "short".into(),
        route: "/short/*".into(),
        price_msat: 10_000,
        challenged_ms: NOW_SECS * 1_000,
        expires_ms: (NOW_SECS + INVOICE_EXPIRY.as_secs()) * 1_000,
        grant: None,
        rate: None,
    }
}

/// A shop and a token that it sold and that is not paid yet. `is_remembered` says whether the ledger has its
/// challenge.
async fn asked(is_remembered: bool) -> (Shop, Sold) {
    let shop = Shop::selling(SETTINGS).await;
    let challenge = assert_challenged(&shop.get(SHORT).await);
    let sold = shop.pay(&challenge);
    if is_remembered {
        shop.ledger.challenge(challenged(&sold));
    }
    (shop, sold)
}

#[tokio::test]
async fn a_token_that_is_paid_late_is_valid_for_the_time_sold() {
    // The token is valid as long if the ledger no longer has the challenge.
    for is_remembered in [true, false] {
        let (shop, sold) = asked(is_remembered).await;
        shop.clock.advance(late(25));
        assert_challenged(&shop.get_with(SHORT, &sold).await);
        shop.ledger.settle(payment(&sold)).unwrap();
        assert_served(&shop.get_with(SHORT, &sold).await);
        shop.clock.advance(Duration::from_secs(19));
        let last = shop.get_with(SHORT, &sold).await;
        assert_served(&last);
        shop.clock.advance(Duration::from_secs(1));
        assert_challenged(&shop.get_with(SHORT, &sold).await);
    }
}

#[tokio::test]
async fn a_token_that_is_paid_late_and_used_before_its_usual_end_has_all_of_its_time() {
    for is_shown_before in [false, true] {
        let (shop, sold) = asked(true).await;
        shop.clock.advance(late(15));
        if is_shown_before {
            // The client may have the preimage before the node reports the payment.
            assert_served(&shop.get_with(SHORT, &sold).await);
        }
        shop.ledger.settle(payment(&sold)).unwrap();
        assert_served(&shop.get_with(SHORT, &sold).await);
        shop.clock.advance(Duration::from_secs(19));
        assert_served(&shop.get_with(SHORT, &sold).await);
        shop.clock.advance(Duration::from_secs(1));
        assert_challenged(&shop.get_with(SHORT, &sold).await);
    }
}

#[tokio::test]
async fn a_token_that_is_paid_in_time_ends_as_usual_and_its_holders_limits_hold() {
    let (shop, sold) = asked(true).await;
    shop.clock.advance(INVOICE_EXPIRY);
    shop.ledger.settle(payment(&sold)).unwrap();
    shop.clock.advance(Duration::from_secs(19));
    assert_served(&shop.get_with(SHORT, &sold).await);
    shop.clock.advance(Duration::from_secs(1));
    assert_challenged(&shop.get_with(SHORT, &sold).await);

    let (shop, sold) = asked(true).await;
    let until = NOW_SECS + INVOICE_EXPIRY.as_secs() + 10;
    let narrowed = sold.with_caveat(&format!("short_valid_until={until}"));
    shop.clock.advance(late(12));
    shop.ledger.settle(payment(&sold)).unwrap();
    assert_challenged(&shop.get_with(SHORT, &narrowed).await);
    assert_served(&shop.get_with(SHORT, &sold).await);
}

#[tokio::test]
async fn a_late_sale_has_its_route_its_price_and_its_grant() {
    let shop = Shop::selling(SETTINGS).await;
    let asked = shop.request(http::Method::GET, "/long/page.txt");
    let asked = shop.send(asked.header("accept-grant", "week")).await;
    let challenge = assert_challenged(&asked);
    let digits = challenge.token().unwrap().payment_hash_hex().unwrap();
    let mut payment_hash = [0; 32];
    hex::decode_to_slice(digits, &mut payment_hash).unwrap();
    // LDK accepts the payment until a block's time is two hours after the expiry.
    shop.clock.advance(late(2 * 3_600 + 1_800));
    shop.ledger.write_behind().unwrap();
    let payment = Payment {
        payment_hash,
        amount_msat: 100_000,
    };
    let Settlement::New(sale) = shop.ledger.settle(payment).unwrap() else {
        panic!("no new sale");
    };
    assert_eq!(sale.route.as_deref(), Some("/long/*"));
    assert_eq!(sale.service.as_deref(), Some("long"));
    assert_eq!(sale.grant.as_deref(), Some("week"));
    assert_eq!(sale.price_msat, Some(100_000));
    let end_ms = (NOW_SECS + INVOICE_EXPIRY.as_secs()) * 1_000;
    assert_eq!(sale.expires_ms, Some(end_ms));
}

#[tokio::test]
async fn a_token_whose_late_payment_is_being_claimed_waits_for_it() {
    let (shop, sold) = asked(true).await;
    let claims = Arc::new(Claims::default());
    shop.ledger.follow(Arc::clone(&claims));
    shop.clock.advance(late(25));
    // No payment is arriving, so the token is refused at once.
    assert_challenged(&shop.get_with(SHORT, &sold).await);
    let hash = payment(&sold).payment_hash;
    claims.arrive(hash);
    let (answer, ()) = tokio::join!(shop.get_with(SHORT, &sold), async {
        tokio::task::yield_now().await;
        shop.ledger.settle(payment(&sold)).unwrap();
        claims.end(&hash);
    });
    assert_eq!(answer.status, StatusCode::OK);
}
