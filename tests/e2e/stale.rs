//! Recoveries from a backup that is older than something that matters: a splice, a channel, a peer that went away.

use std::fs;

use bitcoin::Amount;
use http::{Method, StatusCode};
use regtest::folder;
use regtest::payer::{Payer, PayerOptions};
use regtest::wait::eventually;
use serde_json::Value;

use crate::drill::{
    CLOSING_DEADLINE, DEPOSIT_SAT, Elsewhere, GOLD, GOLD_SAT, RECOVERY_DEADLINE, ROUTES,
};
use crate::operations;
use crate::shop::Shop;

/// What is put into a channel from the chain.
const SPLICE_SAT: u64 = 300_000;

/// More than the fees of a splice and of what sweeps it, at the rate of a chain without estimates.
const FEES_SAT: u64 = 5_000;

#[tokio::test]
async fn a_closed_channel_is_swept_while_the_peer_of_another_stays_away() {
    let elsewhere = Elsewhere::new();
    let mut shop = Shop::open_with(ROUTES, "").await;
    let dir = folder::temporary().unwrap();
    let away = shop.another_peer(dir.path()).await;
    shop.buy(GOLD).await;
    let backup = elsewhere.back_up(&shop.network.merchant);
    away.stop();

    shop.loses_everything_but(&elsewhere, &backup).await;
    shop.network.merchant.wait_running().await.unwrap();
    shop.peer_closes().await;
    shop.mines_until("the closed channel to be swept", |node| {
        let recovery = &node["recovery"];
        assert!(
            recovery.is_null() || recovery["stage"] == "closing",
            "{recovery}"
        );
        let left = recovery["channels"].as_array().map(Vec::len);
        left == Some(1) && has(node, DEPOSIT_SAT + GOLD_SAT)
    })
    .await;
    let recovery = shop.status().await["node"]["recovery"].clone();
    let happening = recovery["happening"].as_str().unwrap();
    let said = "Of 2 old channels 1 are closed for good.";
    assert!(happening.starts_with(said), "{happening}");
    let channel = &recovery["channels"][0];
    assert_eq!(channel["counterparty"], away_id(&away), "{channel}");

    let admin = shop.network.merchant.admin();
    let left = admin.call(Method::POST, "/recovery/leave").await.unwrap();
    assert_eq!(left.0, StatusCode::ACCEPTED);
    shop.recovers().await;
    let status = shop.status().await;
    let left = status["node"]["unclosed_old_channels"].as_array().unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_splice_after_the_backup_is_no_closing_and_its_money_comes_back() {
    let elsewhere = Elsewhere::new();
    let mut shop = Shop::open_with(ROUTES, "").await;
    shop.buy(GOLD).await;
    let backup = elsewhere.back_up(&shop.network.merchant);
    shop.splices_in().await;
    shop.mines_until("the splice to be locked in", |node| {
        let channel = &node["channels"][0];
        channel["capacity_sat"] == 2_000_000 + SPLICE_SAT && channel["usable"] == true
    })
    .await;
    shop.buy(GOLD).await;

    shop.loses_everything_but(&elsewhere, &backup).await;
    shop.network.merchant.wait_running().await.unwrap();
    shop.finds_the_splice().await;
    shop.network
        .payer
        .connect(shop.network.peer())
        .await
        .unwrap();
    shop.payer_has_closed().await;
    shop.recovers().await;
    let status = shop.status().await;
    assert!(has(&status["node"], DEPOSIT_SAT + 2 * GOLD_SAT), "{status}");
    let left = status["node"]["unclosed_old_channels"].as_array().unwrap();
    assert_eq!(left.len(), 0, "{left:?}");
    let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
    assert!(log.contains("was spliced after the backup"), "{log}");
}

#[tokio::test]
async fn a_splice_that_was_under_way_at_the_backup_leaves_the_fence_up() {
    let elsewhere = Elsewhere::new();
    let mut shop = Shop::open_with(ROUTES, "").await;
    shop.buy(GOLD).await;
    shop.splices_in().await;
    let backup = elsewhere.back_up(&shop.network.merchant);

    shop.loses_everything_but(&elsewhere, &backup).await;
    shop.network.merchant.wait_running().await.unwrap();
    shop.network.bitcoind.mine(7).await.unwrap();
    shop.finds_the_splice().await;
    let status = shop.status().await;
    assert_eq!(
        status["node"]["balances"]["lightning_sat"], 0,
        "no monitor is loaded: {status}"
    );
    shop.network.payer.sync().await.unwrap();
    shop.peer_closes().await;
    shop.recovers().await;
    let status = shop.status().await;
    assert!(has(&status["node"], DEPOSIT_SAT + GOLD_SAT), "{status}");
    assert_eq!(status["node"]["balances"]["lightning_sat"], 0, "{status}");
}

#[tokio::test]
async fn a_channel_that_nobody_knew_of_is_found_also_when_it_is_closed_after_the_recovery() {
    let elsewhere = Elsewhere::new();
    let mut shop = Shop::open_with(ROUTES, "").await;
    shop.buy(GOLD).await;
    let backup = elsewhere.back_up(&shop.network.merchant);
    assert_eq!(shop.network.close_channels().await.unwrap(), 1);
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 1);
    shop.buy(GOLD).await;
    shop.buy(GOLD).await;

    shop.loses_everything_but(&elsewhere, &backup).await;
    shop.network.merchant.wait_running().await.unwrap();
    shop.recovers().await;
    let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
    assert!(log.contains("is searched for 90 days more"), "{log}");
    let payer = &shop.network.payer;
    payer.connect(shop.network.peer()).await.unwrap();
    shop.payer_has_closed().await;
    shop.network.bitcoind.mine(6).await.unwrap();
    // Each look takes some of the scripts.
    shop.mines_until("the closing to be found and swept", |node| {
        has(node, DEPOSIT_SAT + 3 * GOLD_SAT)
    })
    .await;
    assert!(shop.status().await["node"]["recovery"].is_null());
}

/// Whether this much is on chain, but for fees.
fn has(node: &Value, sat: u64) -> bool {
    let onchain = node["balances"]["onchain_total_sat"].as_u64();
    onchain.is_some_and(|onchain| (sat - FEES_SAT..=sat).contains(&onchain))
}

fn away_id(peer: &Payer) -> String {
    peer.node_id().to_string()
}

impl Shop {
    /// Another peer, with a channel to the merchant.
    pub(crate) async fn another_peer(&self, dir: &std::path::Path) -> Payer {
        let network = &self.network;
        let options = PayerOptions {
            dir: dir.to_owned(),
            esplora: network.esplora.url(),
            listen: None,
        };
        let other = Payer::start(options).await.unwrap();
        let address = other.new_address().await.unwrap();
        let money = [(address, Amount::from_sat(2_000_000))];
        network.bitcoind.send(&money).await.unwrap();
        network.mine(1).await.unwrap();
        let funding = other.open_channel(network.peer(), 500_000).await.unwrap();
        network.bitcoind.wait_for_mempool(funding).await.unwrap();
        network.mine(6).await.unwrap();
        eventually("the other channel", CLOSING_DEADLINE, || async {
            other.sync().await.map_err(|error| format!("{error:#}"))?;
            let channels = other.channels();
            match channels.iter().all(|channel| channel.is_usable) {
                true => Ok(Some(())),
                false => Err("not usable".to_owned()),
            }
        })
        .await
        .unwrap();
        other
    }

    /// Puts on-chain money into the channel; on return that is broadcast.
    async fn splices_in(&self) {
        let network = &self.network;
        // A sync that was under way when the deposit was mined has not seen it.
        eventually("the deposit", CLOSING_DEADLINE, || async {
            let _ = network.merchant.admin().sync().await;
            let status = self.status().await;
            let spendable = &status["node"]["balances"]["onchain_spendable_sat"];
            let is_there = spendable.as_u64().is_some_and(|sat| sat > SPLICE_SAT);
            is_there.then_some(Some(())).ok_or(spendable.to_string())
        })
        .await
        .unwrap();
        let channels = operations::done(network, &["channels", "list"]).await;
        let id = channels["channels"][0]["channel_id"].as_str().unwrap();
        let amount = SPLICE_SAT.to_string();
        operations::done(network, &["channels", "splice-in", id, &amount]).await;
        eventually("the splice", CLOSING_DEADLINE, || async {
            let log = fs::read_to_string(network.merchant.log());
            let log = log.map_err(|error| error.to_string())?;
            let is_there = log.contains("A splice of channel");
            is_there
                .then_some(Some(()))
                .ok_or("not in the log".to_owned())
        })
        .await
        .unwrap();
    }

    /// The recovery sees that the channel's money has moved, and that it is not closed.
    async fn finds_the_splice(&self) {
        eventually("the splice to be seen", CLOSING_DEADLINE, || async {
            let _ = self.network.merchant.admin().sync().await;
            let recovery = self.status().await["node"]["recovery"].clone();
            let is_seen = recovery["channels"][0]["moved_to"].is_string();
            is_seen.then_some(Some(())).ok_or(recovery.to_string())
        })
        .await
        .unwrap();
        let recovery = self.status().await["node"]["recovery"].clone();
        assert_eq!(recovery["stage"], "closing", "{recovery}");
        assert!(recovery["channels"][0]["closing_txid"].is_null());
    }

    /// Mines until this is so of the node.
    async fn mines_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, RECOVERY_DEADLINE, || async {
            let mined = self.network.bitcoind.mine(1).await;
            mined.map_err(|error| error.to_string())?;
            // Between two nodes there is none that could.
            let _ = self.network.sync().await;
            let node = self.status().await["node"].clone();
            if is_so(&node) {
                Ok(Some(()))
            } else {
                Err(node.to_string())
            }
        })
        .await
        .unwrap();
    }
}
