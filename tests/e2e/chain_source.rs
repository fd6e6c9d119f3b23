//! The chain source gone, or failing in every way: the node runs, what was paid for is served, it goes on selling, and it
//! recovers without a hand. And the other kinds of source.

use std::time::Duration;

use http::Method;
use regtest::bitcoind::Bitcoind;
use regtest::esplora::{Esplora, Manner};
use regtest::folder;
use regtest::merchant::{Merchant, MerchantOptions};
use regtest::wait::eventually;
use serde_json::Value;

use crate::operations::tollhouse_at;
use crate::shop::{ARTICLE, HEIGHT, Shop};

/// From an answer of the chain source to a look that finds it: two tries of the node's.
const RECOVERY: Duration = Duration::from_secs(40);

async fn chain(merchant: &Merchant) -> Value {
    merchant.admin().status().await.unwrap()["node"]["chain"].clone()
}

/// Waits until the node has read the chain again, by itself.
async fn recovers(merchant: &Merchant) {
    eventually("the node to read the chain again", RECOVERY, || async {
        let chain = chain(merchant).await;
        let is_well = chain["degraded_since_secs"].is_null()
            && chain["complaint"].is_null()
            && chain["behind_secs"].as_u64().is_some_and(|secs| secs < 60);
        if is_well {
            Ok(Some(()))
        } else {
            Err(chain.to_string())
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn with_a_clock_that_is_behind_nothing_is_sold_what_was_bought_opens_and_a_clock_that_is_set_mends_it()
 {
    let mut shop = Shop::open().await;
    let credential = shop.buy(ARTICLE).await;
    let hour = Duration::from_secs(3_600);
    shop.network.esplora.answers(Manner::Ahead(hour));
    shop.network.merchant.admin().sync().await.unwrap();
    let behind = chain(&shop.network.merchant).await["clock_behind_secs"].as_i64();
    assert!((3_590..=3_610).contains(&behind.unwrap()), "{behind:?}");
    let reason = shop.network.merchant.admin().ready().await.unwrap().reason;
    assert!(
        reason.as_ref().unwrap().contains("minutes behind"),
        "{reason:?}"
    );
    assert_eq!(shop.get(ARTICLE, None).await.status, 503);
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);

    // Whoever sets the clock, or the server: a few seconds are no matter.
    let seconds = Duration::from_secs(30);
    shop.network.esplora.answers(Manner::Ahead(seconds));
    shop.network.merchant.admin().sync().await.unwrap();
    shop.network.merchant.wait_ready().await.unwrap();
    shop.buy(ARTICLE).await;
}

#[tokio::test]
async fn without_its_chain_source_the_program_serves_and_sells_and_says_what_it_lacks() {
    let mut shop = Shop::open().await;
    let credential = shop.buy(ARTICLE).await;

    // Gone while it runs.
    shop.network.esplora.stop();
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);
    shop.buy(ARTICLE).await;

    // Gone when it starts: the node runs all the same, by the fee estimates of the last time.
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_running().await.unwrap();
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
    let newer = shop.buy(ARTICLE).await;
    let degraded = eventually("the status to say so", RECOVERY, || async {
        let chain = chain(&shop.network.merchant).await;
        if chain["degraded_since_secs"].is_u64() {
            Ok(Some(chain))
        } else {
            Err(chain.to_string())
        }
    });
    let degraded = degraded.await.unwrap();
    let complaint = degraded["endpoints"][0]["last_complaint"].as_str().unwrap();
    assert!(complaint.contains("cannot be reached"), "{degraded}");
    assert!(degraded["behind_secs"].is_u64(), "{degraded}");
    assert_eq!(degraded["is_alarm"], false);
    assert!(shop.network.merchant.admin().sync().await.is_err());

    // A stop is a stop also now.
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    assert_eq!(shop.get(ARTICLE, Some(&newer)).await.status, 200);

    // Back: without a hand.
    shop.network.esplora.start_again().unwrap();
    recovers(&shop.network.merchant).await;
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
    shop.buy(ARTICLE).await;
}

#[tokio::test]
async fn the_first_start_ever_needs_no_chain_source_and_finds_it_when_it_is_there() {
    let dir = folder::temporary().unwrap();
    let bitcoind = Bitcoind::start(dir.path()).await.unwrap();
    let mut esplora = Esplora::start(&bitcoind).unwrap();
    esplora.stop();
    let options = MerchantOptions::new(
        env!("CARGO_BIN_EXE_tollhouse"),
        esplora.url(),
        "[[route]]\npath = \"/up/*\"\nservice = \"up\"\nprice = \"1 sat\"\nupstream = \"{esplora}\"\n",
    );
    let mut merchant = Merchant::start(options).await.unwrap();
    merchant.wait_running().await.unwrap();
    let told = eventually("the readiness to say why", RECOVERY, || async {
        match merchant.admin().ready().await.unwrap().reason {
            Some(reason) if reason.contains("has not seen the chain") => Ok(Some(())),
            other => Err(format!("{other:?}")),
        }
    });
    told.await.unwrap();
    assert!(chain(&merchant).await["behind_secs"].is_null());

    esplora.start_again().unwrap();
    recovers(&merchant).await;
    let status = merchant.admin().status().await.unwrap();
    assert_eq!(status["node"]["block_height"], 101);
    // There is neither a channel nor money: it does not look again soon.
    let looked = eventually("the next look to be planned", RECOVERY, || async {
        let chain = chain(&merchant).await;
        let next = chain["next_look_secs"].as_u64().unwrap_or(0);
        let synced = merchant.admin().status().await.unwrap()["node"]["lightning_synced_secs"]
            .as_u64()
            .unwrap_or(u64::MAX);
        if next > synced.saturating_add(300) {
            Ok(Some(()))
        } else {
            Err(chain.to_string())
        }
    });
    looked.await.unwrap();
    assert!(merchant.terminate().await.unwrap().success());
}

#[tokio::test]
async fn whatever_the_chain_source_answers_nobody_who_has_paid_is_refused_and_its_budget_is_kept() {
    const BUDGET: u64 = 400;
    let mut shop = Shop::open().await;
    let old = shop.buy(ARTICLE).await;
    // One of the merchant's own, so that the payer's requests are not counted.
    let esplora = Esplora::start(&shop.network.bitcoind).unwrap();
    shop.network.merchant.settings_mut().extra = format!(
        "node.chain.esplora = [\"{}\"]\nnode.chain.requests_per_hour = {BUDGET}\n",
        esplora.url()
    );
    shop.come_back().await;
    recovers(&shop.network.merchant).await;
    for manner in [
        Manner::Refuses(429),
        Manner::Refuses(500),
        Manner::Garbage,
        Manner::Slowly(Duration::from_secs(30)),
        Manner::Never,
    ] {
        esplora.answers(manner);
        // It fails, and says so.
        assert!(
            shop.network.merchant.admin().sync().await.is_err(),
            "{manner:?}"
        );
        let status = chain(&shop.network.merchant).await;
        assert!(
            status["degraded_since_secs"].is_u64(),
            "{manner:?}: {status}"
        );
        assert_eq!(
            shop.get(ARTICLE, Some(&old)).await.status,
            200,
            "{manner:?}"
        );
        let bought = shop.buy(ARTICLE).await;
        assert_eq!(shop.get(ARTICLE, Some(&bought)).await.status, 200);

        esplora.answers(Manner::Well);
        recovers(&shop.network.merchant).await;
        shop.buy(HEIGHT).await;
    }
    // A block, and the channel is what it was.
    shop.network.mine(1).await.unwrap();
    let counted = esplora.requests();
    let status = shop.network.merchant.admin().status().await.unwrap();
    assert_eq!(status["node"]["channels"][0]["usable"], true);
    assert_eq!(
        status["node"]["channels_closed"].as_array().unwrap().len(),
        0
    );
    let chain = &status["node"]["chain"];
    let told = chain["endpoints"][0]["requests_last_hour"]
        .as_u64()
        .unwrap();
    assert!(told >= counted, "{chain}");
    assert!(esplora.requests() <= BUDGET, "{chain}");
    assert_eq!(shop.redeemed_sales(11).await.len(), 11);
}

#[tokio::test]
async fn of_two_endpoints_one_is_enough() {
    let mut shop = Shop::open().await;
    let other = Esplora::start(&shop.network.bitcoind).unwrap();
    let urls = format!("[\"{}\", \"{}\"]", shop.network.esplora.url(), other.url());
    shop.network.merchant.settings_mut().extra = format!("node.chain.esplora = {urls}\n");
    shop.come_back().await;
    recovers(&shop.network.merchant).await;
    // Nor does the doctor ask by himself while the program runs.
    let settings = shop.network.merchant.settings_file();
    let findings = tollhouse_at(settings, &["doctor"]).await;
    let said = String::from_utf8(findings.stdout).unwrap();
    assert!(said.contains("was not needed yet"), "{said}");
    assert!(said.contains("requests in the last hour"), "{said}");
    assert_eq!(other.requests(), 0, "the first one is well");

    shop.network.esplora.answers(Manner::Garbage);
    let mined = shop.network.bitcoind.mine(1).await;
    mined.unwrap();
    shop.network.merchant.admin().sync().await.unwrap();
    let chain = chain(&shop.network.merchant).await;
    assert_eq!(chain["endpoints"][1]["is_in_use"], true, "{chain}");
    assert!(other.requests() > 0);
    shop.buy(ARTICLE).await;

    shop.network.esplora.answers(Manner::Well);
    let (status, _) = shop
        .network
        .merchant
        .admin()
        .call(Method::POST, "/sync")
        .await
        .unwrap();
    assert_eq!(status, 204);
    assert_eq!(shop.network.close_channels().await.unwrap(), 1);
}

#[tokio::test]
async fn an_endpoint_of_another_chain_costs_no_channel_whatever_its_height() {
    let mut shop = Shop::open().await;
    let dir = folder::temporary().unwrap();
    // Of the same network, as one signet is to another: they have the first block in common.
    let elsewhere = Bitcoind::start(dir.path()).await.unwrap();
    elsewhere.mine(200).await.unwrap();
    let other = Esplora::start(&elsewhere).unwrap();
    let urls = format!("[\"{}\", \"{}\"]", shop.network.esplora.url(), other.url());
    shop.network.merchant.settings_mut().extra = format!("node.chain.esplora = {urls}\n");
    shop.come_back().await;
    recovers(&shop.network.merchant).await;

    // The first one fails: the other one is not read instead.
    shop.network.esplora.answers(Manner::Garbage);
    assert!(shop.network.merchant.admin().sync().await.is_err());
    let status = chain(&shop.network.merchant).await;
    let complaint = status["endpoints"][1]["last_complaint"].as_str().unwrap();
    assert!(complaint.contains("another chain"), "{status}");
    shop.network.esplora.answers(Manner::Well);
    recovers(&shop.network.merchant).await;
    shop.buy(ARTICLE).await;

    // Nor is it if the settings name no other.
    let settings = shop.network.merchant.settings_mut();
    settings.extra = format!("node.chain.esplora = \"{}\"\n", other.url());
    shop.come_back().await;
    assert!(shop.network.merchant.admin().sync().await.is_err());
    shop.buy(ARTICLE).await;
    let status = shop.network.merchant.admin().status().await.unwrap();
    let closed = status["node"]["channels_closed"].as_array().unwrap();
    assert!(closed.is_empty(), "{closed:?}");
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    let settings = shop.network.merchant.settings_file();
    let findings = tollhouse_at(settings, &["doctor"]).await;
    let said = String::from_utf8(findings.stdout).unwrap();
    assert!(said.contains("another chain"), "{said}");
}

#[tokio::test]
async fn a_bitcoind_of_ones_own_is_a_chain_source_too() {
    let settings = "[node.chain]\nesplora = \"\"\n\
                    bitcoind = { rpc = \"{bitcoind_rpc}\", cookie_file = \"{bitcoind_cookie}\" }\n";
    let mut shop = Shop::open_with("", settings).await;
    shop.buy(ARTICLE).await;
    let chain = chain(&shop.network.merchant).await;
    assert_eq!(chain["kind"], "bitcoind");
    assert!(chain["degraded_since_secs"].is_null(), "{chain}");
    shop.network.mine(2).await.unwrap();
    shop.come_back().await;
    shop.buy(ARTICLE).await;
    assert!(shop.network.stop().await.unwrap().success());
}

#[tokio::test]
async fn a_node_that_waits_for_its_server_says_so_and_stops_when_it_is_told_to() {
    for (source, words) in [
        (
            "electrum = \"tcp://127.0.0.1:1\"",
            "does not answer as an Electrum server",
        ),
        (
            "bitcoind = { rpc = \"127.0.0.1:1\", cookie_file = \"none\" }",
            "failed to read its cookie",
        ),
    ] {
        let mut options = MerchantOptions::new(
            env!("CARGO_BIN_EXE_tollhouse"),
            "",
            "[[route]]\npath = \"/up\"\nservice = \"up\"\nprice = \"1 sat\"\nupstream = \"http://127.0.0.1:1\"\n",
        );
        options.settings = format!("[node.chain]\n{source}\n");
        let mut merchant = Merchant::start(options).await.unwrap();
        merchant.wait_up().await.unwrap();
        let told = eventually("the status to say so", RECOVERY, || async {
            let chain = chain(&merchant).await;
            let complaint = chain["complaint"].as_str().unwrap_or_default();
            if complaint.contains(words) && chain["degraded_since_secs"].is_u64() {
                Ok(Some(()))
            } else {
                Err(chain.to_string())
            }
        });
        told.await.unwrap();
        let reason = merchant.admin().ready().await.unwrap().reason.unwrap();
        assert!(reason.contains("chain source"), "{reason}");
        assert!(merchant.terminate().await.unwrap().success());
    }
}
