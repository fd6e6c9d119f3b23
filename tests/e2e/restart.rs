//! The program stopped and started again at every step of a purchase.

use regtest::wait::eventually;

use crate::operations::DEADLINE;
use crate::shop::{HEIGHT, Shop};

#[tokio::test]
async fn an_invoice_is_paid_after_a_restart_and_the_sale_still_knows_its_route() {
    let mut shop = Shop::open().await;
    let url = format!("{}{HEIGHT}", shop.network.gate_url());
    let challenge = shop.network.client().challenge(&url).await.unwrap();
    shop.restart().await;

    let paid = shop.network.payer.pay(&challenge.bolt11).await.unwrap();
    let credential = challenge.credential(&paid);
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    let sales = shop.redeemed_sales(1).await;
    assert_eq!(sales[0]["service"], "chain");
    assert_eq!(sales[0]["route"], "/chain/*");
    assert!(sales[0]["challenged_ms"].is_u64());
}

#[tokio::test]
async fn an_invoice_is_paid_after_a_kill_that_lost_its_challenge() {
    let mut shop = Shop::open().await;
    let url = format!("{}{HEIGHT}", shop.network.gate_url());
    let challenge = shop.network.client().challenge(&url).await.unwrap();
    // At once: the challenge was in memory only.
    shop.network.merchant.kill().unwrap();
    shop.come_back().await;

    let paid = shop.network.payer.pay(&challenge.bolt11).await.unwrap();
    let credential = challenge.credential(&paid);
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    let sales = shop.redeemed_sales(1).await;
    assert_eq!(sales[0]["amount_msat"], 10_000);
    // The token told it.
    assert_eq!(sales[0]["service"], "chain");
    assert!(sales[0]["price_msat"].is_null());
}

#[tokio::test]
async fn a_token_that_was_paid_before_a_restart_is_good_after_it_for_what_is_left() {
    let mut shop = Shop::open().await;
    let url = format!("{}{HEIGHT}", shop.network.gate_url());
    let challenge = shop.network.client().challenge(&url).await.unwrap();
    let paid = shop.network.payer.pay(&challenge.bolt11).await.unwrap();
    let credential = challenge.credential(&paid);
    // Between payment and redemption.
    shop.restart().await;
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    // Between its two requests.
    shop.restart().await;
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    shop.refused(HEIGHT, &credential).await;
    // And a used-up token stays used up.
    shop.restart().await;
    shop.refused(HEIGHT, &credential).await;

    let sales = shop.redeemed_sales(1).await;
    assert_eq!(sales[0]["service"], "chain");
    let status = shop.network.merchant.admin().status().await.unwrap();
    assert_eq!(status["sales"]["count"], 1);
    assert_eq!(status["sales"]["amount_msat"], 10_000);
}

#[tokio::test]
async fn each_payment_of_an_invoice_is_recorded_once_also_after_a_stop_and_after_a_kill() {
    let mut shop = Shop::open().await;
    let dir = regtest::folder::temporary().unwrap();
    let url = format!("{}{HEIGHT}", shop.network.gate_url());
    let challenge = shop.network.client().challenge(&url).await.unwrap();
    let payer = shop.network.payer.clone();
    let mut others = Vec::new();
    for name in ["one", "two", "three"] {
        others.push(shop.another_peer(&dir.path().join(name)).await);
    }
    payer.pay(&challenge.bolt11).await.unwrap();
    shop.has_surplus(0).await;
    // In the run of the first payment, after a stop, and after a kill.
    for (before, other) in others.iter().enumerate() {
        match before {
            0 => {}
            1 => shop.restart().await,
            _ => {
                shop.kill().await;
                shop.come_back().await;
            }
        }
        shop.has_surplus(before as u64 * 10_000).await;
        other.connect(shop.network.peer()).await.unwrap();
        eventually("the other channel", DEADLINE, || async {
            let channels = other.channels();
            let is_usable = channels.iter().all(|channel| channel.is_usable);
            Ok::<_, String>(is_usable.then_some(()))
        })
        .await
        .unwrap();
        other.pay(&challenge.bolt11).await.unwrap();
        shop.has_surplus((before as u64 + 1) * 10_000).await;
    }
    // A payment that LDK repeats after a start does not count again.
    shop.kill().await;
    shop.come_back().await;
    shop.buy(HEIGHT).await;
    let status = shop.network.merchant.admin().status().await.unwrap();
    assert_eq!(status["sales"]["surplus_msat"], 30_000);
    assert_eq!(status["sales"]["count"], 2);
}

impl Shop {
    /// Waits until the totals show one sale and this surplus.
    async fn has_surplus(&self, surplus_msat: u64) {
        eventually("the sums", DEADLINE, || async {
            let status = self.network.merchant.admin().status().await;
            let sales = status.map_err(|error| format!("{error:#}"))?["sales"].clone();
            let is_so = sales["surplus_msat"] == surplus_msat
                && sales["count"] == 1
                && sales["amount_msat"] == 10_000;
            is_so.then_some(Some(())).ok_or(sales.to_string())
        })
        .await
        .unwrap();
    }

    /// Stops the program in good order and starts it again.
    async fn restart(&mut self) {
        let status = self.network.merchant.terminate().await.unwrap();
        assert!(status.success(), "{status}");
        self.come_back().await;
    }
}
