//! What somebody meets who does not know the program yet: slips of the pen, disks that are not there, and money that is on its way.

use std::fs;

use regtest::merchant::{Merchant, MerchantOptions};
use regtest::wait::eventually;
use serde_json::{Value, json};

use crate::operations::{DEADLINE, done, lent, not_done};
use crate::shop::Shop;

/// What the merchant has on the chain before it does anything.
const DEPOSIT_SAT: u64 = 10_000_000;

impl Shop {
    async fn balance(&self) -> (u64, u64, Option<u64>) {
        let balance = done(&self.network, &["balance"]).await;
        let sat = |name: &str| balance[name].as_u64().unwrap();
        let height = balance["sweeping_from_height"].as_u64();
        (sat("total_sat"), sat("sweeping_sat"), height)
    }

    async fn block_height(&self) -> u64 {
        let status = done(&self.network, &["status"]).await;
        status["node"]["block_height"].as_u64().unwrap()
    }

    async fn balances(&self) -> Value {
        done(&self.network, &["status"]).await["node"]["balances"].clone()
    }

    /// The channels' ids and sizes.
    async fn channels(&self) -> Vec<(String, u64)> {
        let listed = done(&self.network, &["channels", "list"]).await;
        let channels = listed["channels"].as_array().unwrap().iter();
        let id_and_size = |it: &Value| {
            let id = it["channel_id"].as_str().unwrap().to_owned();
            (id, it["capacity_sat"].as_u64().unwrap())
        };
        channels.map(id_and_size).collect()
    }

    async fn closes_by_force(&self, id: &str) {
        let before = self.channels().await.len();
        done(&self.network, &["channels", "force-close", id, "--yes"]).await;
        eventually("the channel to be closed", DEADLINE, || async {
            Ok::<_, String>((self.channels().await.len() < before).then_some(()))
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn money_of_a_channel_that_is_closed_by_force_is_never_nowhere() {
    let shop = Shop::open().await;
    let network = &shop.network;
    lent(network).await;
    assert_eq!(shop.balance().await, (DEPOSIT_SAT, 0, None));
    assert_eq!(shop.balances().await["lightning_sat"], 100_000);
    let (id, _) = shop.channels().await.remove(0);
    shop.closes_by_force(&id).await;
    // At once, before any block.
    assert_eq!(shop.balance().await, (DEPOSIT_SAT, 100_000, None));
    let balances = shop.balances().await;
    assert_eq!(balances["lightning_sat"], 0, "{balances}");
    assert_eq!(balances["closing_sat"], 100_000, "{balances}");

    let height = eventually("the closing to be in a block", DEADLINE, || async {
        let mined = network.mine(1).await;
        mined.map_err(|error| format!("{error:#}"))?;
        let (_, sweeping_sat, height) = shop.balance().await;
        assert_eq!(sweeping_sat, 100_000);
        Ok::<_, String>(height)
    })
    .await
    .unwrap();
    let now = shop.block_height().await;
    assert!(height > now, "{height} after {now}");
    network
        .mine(u32::try_from(height - now).unwrap())
        .await
        .unwrap();
    // LDK looks every half minute whether there is something to sweep.
    eventually("the money to be in the wallet", 4 * DEADLINE, || async {
        let mined = network.mine(1).await;
        mined.map_err(|error| format!("{error:#}"))?;
        let (total_sat, sweeping_sat, _) = shop.balance().await;
        // Less what sweeping it costs.
        assert!(total_sat + sweeping_sat > DEPOSIT_SAT + 90_000);
        Ok::<_, String>((sweeping_sat == 0).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_channel_whose_funding_never_confirmed_is_no_money_when_it_is_closed() {
    let shop = Shop::open().await;
    let before = shop.balances().await["lightning_sat"].clone();
    let payer = shop.network.payer.node_id().to_string();
    done(&shop.network, &["channels", "open", &payer, "200000 sat"]).await;
    // Before that it has another id.
    eventually("its funding to be sent", DEADLINE, || async {
        let waiting = shop
            .network
            .bitcoind
            .rpc()
            .call::<Vec<String>>("getrawmempool", json!([]));
        let waiting = waiting.await.map_err(|error| error.to_string())?;
        Ok::<_, String>((!waiting.is_empty()).then_some(()))
    })
    .await
    .unwrap();
    let channels = shop.channels().await.into_iter();
    let mut ours = channels.filter(|(_, size)| *size == 200_000);
    let (id, _) = ours.next().unwrap();
    shop.closes_by_force(&id).await;
    let balances = shop.balances().await;
    assert_eq!(balances["lightning_sat"], before, "{balances}");
    assert_eq!(balances["closing_sat"], 0, "{balances}");
    assert_eq!(shop.balance().await.1, 0);
}

#[tokio::test]
async fn a_slip_of_the_pen_closes_no_channel_and_makes_no_folder() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let (id, _) = shop.channels().await.remove(0);
    for wrong in [&*format!("zz{id}"), &*format!("{id}ab"), &id[1..], ""] {
        for what in ["close", "force-close"] {
            let arguments = ["channels", what, wrong];
            not_done(network, &arguments, 2, "no id of a channel").await;
        }
    }
    for wrong in ["foo", "", "02ff"] {
        not_done(
            network,
            &["peers", "disconnect", wrong],
            2,
            "no id of a node",
        )
        .await;
    }
    for what in [&["revoke", ""][..], &["access", "revoke", " "]] {
        not_done(network, what, 2, "an id is wanted").await;
    }
    not_done(
        network,
        &["access", "read", "--valid", "0s"],
        2,
        "`0s` is zero",
    )
    .await;
    assert_eq!(shop.channels().await.len(), 1);

    let dir = regtest::folder::temporary().unwrap();
    let backups =
        || fs::read_dir(network.merchant.data_dir().join("backups")).map_or(0, Iterator::count);
    let before = backups();
    for missing in ["disk/that/is/not/mounted", "x.backup"] {
        let to = dir.path().join(missing);
        let arguments = ["backup", "create", "--to", to.to_str().unwrap()];
        not_done(network, &arguments, 2, "no such folder").await;
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(backups(), before, "nothing was done");

    // A settings file that is none of the sort is not shown to whoever stands by.
    let data_dir = network.merchant.data_dir();
    let words = fs::read_to_string(data_dir.join("seed.words")).unwrap();
    let seed = data_dir.join("seed.words");
    let output = crate::operations::tollhouse_at(&seed, &["status"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let first = words.split_whitespace().next().unwrap();
    assert!(
        said.contains("is it the right one?") && !said.contains(first),
        "{said}"
    );
}

#[tokio::test]
async fn a_server_that_is_away_is_named_before_and_after_somebody_asks_it() {
    let closed = regtest::port::free().unwrap();
    let routes = format!(
        "[[route]]\npath = \"/gone/*\"\naccess = \"free\"\nupstream = \"http://{closed}\"\n"
    );
    let mut shop = Shop::open_with(&routes, "").await;
    let found = async |shop: &Shop| {
        let output =
            crate::operations::tollhouse_at(shop.network.merchant.settings_file(), &["doctor"]);
        let findings: Value = serde_json::from_slice(&output.await.stdout).unwrap();
        let findings = findings["findings"].as_array().unwrap().clone();
        let upstreams = findings.into_iter().filter(|it| it["what"] == "upstream");
        upstreams
            .map(|it| {
                (
                    it["grade"].as_str().unwrap().to_owned(),
                    it["found"].to_string(),
                )
            })
            .collect::<Vec<_>>()
    };
    let bad_and_good = |found: &[(String, String)]| {
        let bad: Vec<_> = found.iter().filter(|(grade, _)| grade == "bad").collect();
        let [(_, bad)] = &*bad else {
            panic!("{found:?}")
        };
        assert!(bad.contains("/gone/*"), "{bad}");
        assert!(
            found
                .iter()
                .any(|(grade, found)| grade == "good" && found.contains("/chain/*"))
        );
    };
    bad_and_good(&found(&shop).await);
    let away = |status: &Value| {
        let servers = status["upstreams"].as_array().unwrap().iter();
        servers.filter(|it| it["is_away"] == true).count()
    };
    let admin = shop.network.merchant.admin();
    assert_eq!(
        away(&admin.status().await.unwrap()),
        0,
        "nobody has asked it"
    );
    assert_eq!(shop.get("/gone/x", None).await.status, 502);
    let status = admin.status().await.unwrap();
    assert_eq!(away(&status), 1, "{}", status["upstreams"]);
    assert_eq!(status["upstreams"].as_array().unwrap().len(), 2);
    shop.network.merchant.terminate().await.unwrap();
    bad_and_good(&found(&shop).await);
}

#[tokio::test]
async fn an_invoice_is_paid_as_a_wallet_links_to_it_also_in_capitals() {
    let shop = Shop::open().await;
    let network = &shop.network;
    lent(network).await;
    let theirs = network.payer.invoice(1_000_000, "wood").await.unwrap();
    let link = format!("lightning:{theirs}").to_uppercase();
    let paid = done(network, &["pay", &link]).await;
    assert_eq!(paid["status"], "succeeded", "{paid}");
    let nowhere = network.merchant.data_dir().join("no.token");
    let named = ["status", "--token-file", nowhere.to_str().unwrap()];
    not_done(network, &named, 2, "is --token-file misspelt?").await;
}

#[tokio::test]
async fn without_a_chain_it_is_said_what_was_asked_and_nothing_is_advised_that_cannot_be_done() {
    let dir = regtest::folder::temporary().unwrap();
    let routes = "[[route]]\npath = \"/a/*\"\nservice = \"a\"\nprice = \"1 sat\"\nfiles = \".\"\n";
    let options = MerchantOptions {
        routes_dir: Some(dir.path().to_owned()),
        ..MerchantOptions::new(
            env!("CARGO_BIN_EXE_tollhouse"),
            "http://127.0.0.1:1",
            routes,
        )
    };
    let mut merchant = Merchant::start(options).await.unwrap();
    merchant.wait_running().await.unwrap();
    let asked = crate::operations::tollhouse_at(merchant.settings_file(), &["sync"]).await;
    let said = String::from_utf8(asked.stderr).unwrap();
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the chain source http://127.0.0.1:1 could not be read"),
        "{said}"
    );
    assert!(said.to_lowercase().contains("refused"), "{said}");
    let doctor = crate::operations::tollhouse_at(merchant.settings_file(), &["doctor"]).await;
    let found = String::from_utf8(doctor.stdout).unwrap();
    assert!(found.contains("no usable channel"), "{found}");
    assert!(!found.contains("room for about"), "{found}");
}
