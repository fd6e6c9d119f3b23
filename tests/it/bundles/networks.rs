//! Each network has its share of the few bundles of a day.

use std::time::Duration;

use http::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tollhouse::account::ledger::Arrived;
use tollhouse::account::ledger::record::ActivationRecord;
use tollhouse::protocol::invoice::{Invoice, Reach, Unready};
use tollhouse::sell::gate::{ACCEPT_GRANT, Bundle};

use crate::support::Shop;

use super::{EXPIRY_SECS, MONTH_MSAT, PATH, SETTINGS, month};

/// A shop without a channel, behind a proxy that names the clients' addresses.
async fn shop_behind_a_proxy() -> Shop {
    let proxy = "[http]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let shop = Shop::selling(&format!("{proxy}{SETTINGS}")).await;
    shop.reach.send_replace(Reach::Unready(Unready::NoChannel));
    shop
}

/// Lays another bundle ready and records it in the ledger.
fn lay_ready(shop: &Shop, number: u8) -> [u8; 32] {
    let (bundle, _provider) = month();
    let now_secs = shop.clock.unix_secs();
    let payment_hash = Sha256::digest([number; 32]).into();
    shop.ledger
        .open_activation(&ActivationRecord {
            payment_hash,
            gross_msat: MONTH_MSAT,
            fee_msat: 0,
            net_msat: MONTH_MSAT,
            provider: "the provider".to_owned(),
            bolt11: bundle.invoice.bolt11.clone(),
            made_ms: now_secs * 1_000,
            expires_ms: (now_secs + EXPIRY_SECS) * 1_000,
            settled_ms: None,
            bundle: None,
        })
        .unwrap();
    shop.gate.lay_ready(Bundle {
        invoice: Invoice {
            payment_hash,
            expires_at_secs: now_secs + EXPIRY_SECS,
            ..bundle.invoice.clone()
        },
        ..bundle
    });
    payment_hash
}

/// Whether this client receives the bundle.
async fn is_given(shop: &Shop, client: &str) -> bool {
    let request = shop
        .request(Method::GET, PATH)
        .header(ACCEPT_GRANT, "month");
    let answer = shop.send(request.header("x-forwarded-for", client)).await;
    assert!(
        [402, 503].contains(&answer.status.as_u16()),
        "{}",
        answer.text()
    );
    answer.status == StatusCode::PAYMENT_REQUIRED
}

#[tokio::test]
async fn a_network_that_did_not_pay_gets_no_other_for_a_day_and_has_none_made() {
    let shop = shop_behind_a_proxy().await;
    for (one, neighbour, other) in [
        ("192.0.2.1", "192.0.2.77", "198.51.100.1"),
        ("2001:db8::1", "2001:db8:0:ffff::1", "2001:db8:1::1"),
    ] {
        lay_ready(&shop, 1);
        assert!(is_given(&shop, one).await);
        for again in [one, neighbour] {
            assert!(!is_given(&shop, again).await, "{again}");
        }
        assert!(!shop.gate.laid_ready().unwrap().was_missed);
        lay_ready(&shop, 2);
        for again in [one, neighbour] {
            assert!(!is_given(&shop, again).await, "{again}");
        }
        assert!(is_given(&shop, other).await);
        assert!(!is_given(&shop, "203.0.113.1").await);
        assert!(shop.gate.laid_ready().unwrap().was_missed);
        // For the network that has waited since then.
        lay_ready(&shop, 3);
        assert!(is_given(&shop, "203.0.113.9").await);
        shop.clock.advance(Duration::from_secs(86_400));
        lay_ready(&shop, 4);
        assert!(is_given(&shop, neighbour).await, "a day has passed");
        shop.clock.advance(Duration::from_secs(86_400));
    }
}

#[tokio::test]
async fn a_network_without_a_bundle_goes_first_and_one_that_paid_may_have_another() {
    let shop = shop_behind_a_proxy().await;
    let payment_hash = lay_ready(&shop, 1);
    assert!(is_given(&shop, "192.0.2.1").await);
    shop.clock.advance(Duration::from_secs(86_400));
    assert!(!is_given(&shop, "198.51.100.1").await);
    lay_ready(&shop, 2);
    // The bundle is reserved for a network that waits for its first, so the client is told to retry in half a
    // minute.
    assert!(!is_given(&shop, "192.0.2.1").await);
    assert!(is_given(&shop, "198.51.100.1").await);
    // A bundle is reserved only for a while for a network that waits and does not come.
    assert!(!is_given(&shop, "203.0.113.1").await);
    lay_ready(&shop, 3);
    assert!(!is_given(&shop, "192.0.2.1").await);
    shop.clock.advance(Duration::from_secs(300));
    assert!(is_given(&shop, "192.0.2.1").await);
    // A network that has paid may have another bundle.
    let arrived = |payment_hash| Arrived {
        payment_hash,
        net_msat: MONTH_MSAT,
        fee_msat: 0,
        provider: "the provider".to_owned(),
    };
    let second = lay_ready(&shop, 4);
    assert!(!is_given(&shop, "192.0.2.1").await);
    shop.clock.advance(Duration::from_secs(300));
    shop.ledger
        .settle_activation(&arrived(payment_hash))
        .unwrap();
    assert!(
        !is_given(&shop, "192.0.2.1").await,
        "only the one before is paid"
    );
    assert!(is_given(&shop, "203.0.113.1").await);
    shop.ledger.settle_activation(&arrived(second)).unwrap();
    lay_ready(&shop, 5);
    assert!(is_given(&shop, "203.0.113.1").await);
}
