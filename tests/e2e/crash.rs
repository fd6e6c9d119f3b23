//! Killed with -9 around the payer's success, again and again.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use crate::shop::{ARTICLE, Shop};
use regtest::client::Challenge;
use regtest::payer::{Paid, PayError};
use regtest::wait::eventually;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Kills in all.
const KILLS: u64 = 20;
/// A payment of one hop takes some 90 ms; the kills fall before, into and after it.
const KILLED_WITHIN_MS: u64 = 180;

#[tokio::test]
async fn killed_twenty_times_around_a_payment_every_sale_is_in_the_ledger_once() {
    let mut shop = Shop::open().await;
    // The first payment waits up to two seconds for LDK; the others then take the time that the kills are spread over.
    shop.buy(ARTICLE).await;
    let random = RandomState::new();
    let mut paid = Vec::new();
    let mut reopened = 0;
    for kill in 0..KILLS {
        let after = Duration::from_millis(random.hash_one(kill) % KILLED_WITHIN_MS);
        let (challenge, payment) = shop.begin_to_pay().await;
        tokio::time::sleep_until(Instant::now() + after).await;
        shop.network.merchant.kill().unwrap();
        shop.network.merchant.restart().await.unwrap();
        shop.network.merchant.wait_up().await.unwrap();
        reopened += shop.network.ensure_channel().await.unwrap();
        // A payment whose channel was closed under it stays open until the chain resolves it: that is no success.
        if let Ok(success) = payment.await.unwrap() {
            paid.push((challenge, success));
        }
        // Warm again, so that the next kill falls around the payment and not into LDK's start.
        shop.buy(ARTICLE).await;
    }

    let bought = usize::try_from(KILLS).unwrap() + 1;
    let sales = shop.settled_sales(bought + paid.len()).await;
    for (challenge, success) in &paid {
        let hash = challenge.invoice().unwrap().payment_hash().to_string();
        assert_eq!(sales.get(&hash), Some(&1), "payment {hash} in {sales:?}");
        let answer = shop
            .get(ARTICLE, Some(&challenge.credential(success)))
            .await;
        assert_eq!(answer.status, 200, "what was paid for is served");
    }
    assert!(
        sales.values().all(|count| *count == 1),
        "a sale stands twice in {sales:?}"
    );

    let status = shop.network.merchant.admin().status().await.unwrap();
    assert_eq!(
        status["sales"]["count"].as_u64(),
        u64::try_from(sales.len()).ok(),
        "the total counts every sale once"
    );
    // Shown, not hidden: what kill -9 costs is a channel now and then (ldk-node writes monitor and manager in two steps).
    let closed: HashSet<String> = status["node"]["channels_closed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|closure| closure["channel_id"].to_string())
        .collect();
    println!(
        "{KILLS} kills: {} payments succeeded, {reopened} channels were reopened; the payer heard {:?}",
        paid.len(),
        shop.network.channels_closed()
    );
    assert_eq!(closed.len(), reopened, "every closed channel is shown");
}

impl Shop {
    /// Takes a challenge and starts to pay it.
    async fn begin_to_pay(&self) -> (Challenge, JoinHandle<Result<Paid, PayError>>) {
        let url = format!("{}{ARTICLE}", self.network.gate_url());
        let challenge = self.network.client().challenge(&url).await.unwrap();
        let (payer, bolt11) = (Arc::clone(&self.network.payer), challenge.bolt11.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "the payment goes on while the merchant is killed; it is awaited right after"
        )]
        let payment = tokio::spawn(async move { payer.pay(&bolt11).await });
        (challenge, payment)
    }

    /// How often each payment stands in the books, once they hold at least this many.
    async fn settled_sales(&self, at_least: usize) -> BTreeMap<String, usize> {
        eventually("every sale to settle", Duration::from_secs(15), || async {
            let sales = self.network.merchant.admin().sales(500).await;
            let sales = sales.map_err(|error| format!("{error:#}"))?;
            if sales.len() < at_least {
                return Err(format!("{} of {at_least}", sales.len()));
            }
            let mut counts = BTreeMap::new();
            for sale in &sales {
                let hash = sale["payment_hash"].as_str().unwrap().to_owned();
                *counts.entry(hash).or_default() += 1;
            }
            Ok(Some(counts))
        })
        .await
        .unwrap()
    }
}
