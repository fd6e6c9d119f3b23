//! The chain source gone: what was paid for is served all along.

use std::time::Duration;

use crate::shop::{ARTICLE, Shop};
use regtest::wait::eventually;

#[tokio::test]
async fn without_its_chain_source_the_program_serves_what_was_paid_for_and_says_what_it_lacks() {
    let mut shop = Shop::open().await;
    let credential = shop.buy(ARTICLE).await;

    // Gone while it runs: channels work without it, so it even goes on selling.
    shop.network.esplora.stop();
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);
    shop.buy(ARTICLE).await;

    // Gone when it starts: what was paid for is served before the node runs.
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);
    let challenge = shop.get(ARTICLE, None).await;
    assert_eq!(challenge.status, 503, "{}", challenge.text());
    assert!(challenge.header("retry-after").is_some());
    assert_eq!(
        challenge.header("content-type"),
        Some("application/problem+json")
    );
    let reason = eventually("/ready to say why", Duration::from_secs(20), || async {
        let readiness = shop.network.merchant.admin().ready().await;
        let readiness = readiness.map_err(|error| format!("{error:#}"))?;
        assert!(!readiness.ready);
        match readiness.reason {
            Some(reason) if reason.contains("chain source") => Ok(Some(reason)),
            other => Err(format!("{other:?}")),
        }
    });
    reason.await.unwrap();
    // A stop is a stop also while the node waits.
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);

    // Back: without a hand, within its back-off.
    shop.network.esplora.start_again().unwrap();
    shop.network.merchant.wait_running().await.unwrap();
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
    shop.buy(ARTICLE).await;
}
