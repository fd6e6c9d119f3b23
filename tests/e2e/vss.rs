//! A server that keeps the channels' state: nothing of it is lost with the machine, and nothing is restored that is old.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use regtest::vss::Vss;
use regtest::wait::eventually;
use serde_json::Value;

use crate::backup::{done, tollhouse};
use crate::operations::DEADLINE;
use crate::shop::{ARTICLE, HEIGHT, Shop};

pub(crate) const AUTHORIZATION: &str = "Bearer who-we-are";

/// A lease that is not renewed lapses after half a minute.
const ENDS_WITHIN: Duration = Duration::from_secs(90);

/// Waits until it says that this is what it waits for.
async fn waits_for_its_server(shop: &Shop) {
    let admin = shop.network.merchant.admin();
    eventually("that it says what it waits for", DEADLINE, || async {
        let readiness = admin.ready().await.map_err(|error| format!("{error:#}"))?;
        let reason = readiness.reason.unwrap_or_default();
        match reason.contains("node.vss") {
            true => Ok(Some(())),
            false => Err(reason),
        }
    })
    .await
    .unwrap();
}

/// Writes what says who asks, as one does who replaces it while the program runs.
pub(crate) fn authorize(folder: &Path, authorization: &str) -> PathBuf {
    let (headers, new) = (folder.join("vss.headers"), folder.join("vss.headers.new"));
    fs::write(&new, format!("Authorization: {authorization}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, &headers).unwrap();
    headers
}

pub(crate) fn settings(server: &Vss, folder: &Path) -> String {
    let headers = authorize(folder, AUTHORIZATION);
    let (url, headers) = (server.url(), headers.display());
    format!("[node.vss]\nurl = \"{url}\"\nstore_id = \"shop\"\nheaders_file = \"{headers}\"\n")
}

/// Waits until the last payment is over for the server, too: a kill before the channel manager is written there, which
/// is one round trip after the payment, costs the channel.
async fn has_written_all(server: &Vss) {
    eventually("the node to have written all", DEADLINE, || async {
        match server.idle_for() {
            idle if idle >= Duration::from_secs(2) => Ok(Some(())),
            idle => Err(format!("it wrote {idle:?} ago")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn channels_whose_state_is_on_a_server_outlive_the_data_folder_and_go_on() {
    let dir = regtest::folder::temporary().unwrap();
    let server = Vss::start(AUTHORIZATION).unwrap();
    let mut shop = Shop::open_with("", &settings(&server, dir.path())).await;
    let bought = shop.buy(ARTICLE).await;
    assert!(server.count() > 5, "{}", server.count());
    for readable in ["monitors", "manager", "bdk_wallet"] {
        assert!(!server.contains(readable.as_bytes()), "{readable}");
    }

    // Killed, and back with its channel once the lease has lapsed.
    has_written_all(&server).await;
    shop.network.merchant.kill().unwrap();
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_running().await.unwrap();
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
    shop.buy(HEIGHT).await;

    // A backup, more sales, and the folder is gone.
    let config = shop.network.merchant.settings_file().to_owned();
    done(tollhouse(&["backup", "create", "--config"]).arg(&config));
    let status = shop.network.merchant.admin().status().await.unwrap();
    let backup = status["backup"]["newest"].as_str().unwrap().to_owned();
    assert_eq!(status["backup"]["is_behind_channels"], false);
    let kept = dir.path().join("kept");
    fs::copy(&backup, &kept).unwrap();
    let said = done(
        tollhouse(&["backup", "verify"])
            .arg(&kept)
            .arg("--config")
            .arg(&config),
    );
    assert!(said.contains("not in this file: kept as shop at"), "{said}");
    assert!(!said.contains("block"), "{said}");
    shop.buy(HEIGHT).await;
    let status = shop.network.merchant.admin().status().await.unwrap();
    let owned_sat = status["node"]["balances"]["lightning_sat"].clone();
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    let data_dir = shop.network.merchant.data_dir().to_owned();
    let words = dir.path().join("words");
    fs::copy(data_dir.join("seed.words"), &words).unwrap();
    fs::remove_dir_all(&data_dir).unwrap();
    let said = done(
        tollhouse(&["backup", "restore"])
            .arg(&kept)
            .arg("--words-file")
            .arg(&words)
            .arg("--config")
            .arg(&config),
    );
    assert!(said.contains("it goes on with them"), "{said}");
    shop.network.merchant.restart().await.unwrap();
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
    let status = shop.network.merchant.admin().status().await.unwrap();
    assert_eq!(status["node"]["balances"]["lightning_sat"], owned_sat);
    assert_eq!(shop.get(ARTICLE, Some(&bought)).await.status, 200);
    shop.buy(HEIGHT).await;
    let closed = &shop.network.merchant.admin().status().await.unwrap()["node"]["channels_closed"];
    assert_eq!(closed.as_array().unwrap().len(), 0);
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    nothing_is_begun_anew(&shop, &config);
}

/// Without the server in the settings.
fn nothing_is_begun_anew(shop: &Shop, config: &Path) {
    let with = fs::read_to_string(config).unwrap();
    let mut without: toml::Table = with.parse().unwrap();
    without["node"]
        .as_table_mut()
        .unwrap()
        .remove("vss")
        .unwrap();
    fs::write(config, without.to_string()).unwrap();
    let refused = tollhouse(&["run", "--config"])
        .arg(config)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
    assert!(!refused.status.success());
    assert!(
        format!("{said}{log}").contains("would forget its channels"),
        "{said}"
    );
}

#[tokio::test]
async fn a_server_that_is_away_holds_the_node_up_and_nothing_that_was_sold_is_lost() {
    let dir = regtest::folder::temporary().unwrap();
    let mut server = Vss::start(AUTHORIZATION).unwrap();
    let mut shop = Shop::open_with("", &settings(&server, dir.path())).await;
    let bought = shop.buy(ARTICLE).await;
    shop.redeemed_sales(1).await;

    // Away in the middle of a sale: the payment waits, and nothing more is sold.
    let challenge = shop.get(HEIGHT, None).await.challenge().unwrap();
    server.stop();
    let payer = Arc::clone(&shop.network.payer);
    let mut paying = std::pin::pin!(payer.pay(&challenge.bolt11));
    tokio::select! {
        paid = &mut paying => panic!("paid without a state that was kept: {paid:?}"),
        () = waits_for_its_server(&shop) => {}
    }
    assert_eq!(shop.get(ARTICLE, Some(&bought)).await.status, 200);
    assert_eq!(shop.get(HEIGHT, None).await.status, 503);

    // Back: the payment arrives, and the sale is made.
    server.start_again().unwrap();
    let paid = paying.await.unwrap();
    let credential = challenge.credential(&paid);
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    shop.network.merchant.wait_ready().await.unwrap();
    shop.redeemed_sales(2).await;

    // Away when it starts: it serves and waits.
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    server.stop();
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    waits_for_its_server(&shop).await;
    assert_eq!(shop.get(ARTICLE, Some(&bought)).await.status, 200);
    // Nor does it keep anybody from stopping it.
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    server.start_again().unwrap();
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
    shop.buy(HEIGHT).await;
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test]
async fn a_server_that_has_lost_everything_begins_no_node_anew() {
    let dir = regtest::folder::temporary().unwrap();
    let server = Vss::start(AUTHORIZATION).unwrap();
    let mut shop = Shop::open_with("", &settings(&server, dir.path())).await;
    shop.buy(ARTICLE).await;
    server.lose();
    for _ in 0..2 {
        let ended = shop.network.merchant.wait_ended().await.unwrap();
        assert!(!ended.success(), "{ended}");
        shop.network.merchant.restart().await.unwrap();
    }
    let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
    assert_eq!(log.matches("has lost what it kept").count() % 2, 0, "{log}");
    assert!(log.contains("has lost what it kept"), "{log}");
}

fn program(config: &Path) -> tokio::process::Command {
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_tollhouse"));
    program.args(["run", "--config"]).arg(config);
    program
        .kill_on_drop(true)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    program
}

/// Runs until it finds that another program has its channels.
async fn is_refused(config: &Path) {
    let ended = tokio::time::timeout(ENDS_WITHIN, program(config).output()).await;
    let ended = ended.unwrap().unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(!ended.status.success());
    assert!(said.contains("another program uses the channels"), "{said}");
}

#[tokio::test]
async fn of_two_programs_with_the_same_channels_one_ends_before_it_has_touched_them() {
    let dir = regtest::folder::temporary().unwrap();
    let server = Vss::start(AUTHORIZATION).unwrap();
    let mut shop = Shop::open_with("", &settings(&server, dir.path())).await;
    shop.buy(ARTICLE).await;
    let merchant = &shop.network.merchant;

    // A copy of the folder on another machine, while this one runs: it finds out, and ends.
    let other = dir.path().join("other");
    let config = dir.path().join("other.toml");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    copy(merchant.data_dir(), &other, &["seed.words", "master.key"]);
    fs::create_dir(other.join("node")).unwrap();
    let all: Vec<_> = fs::read_dir(merchant.data_dir().join("node"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    copy(&merchant.data_dir().join("node"), &other.join("node"), &all);
    let mut settings: toml::Table = fs::read_to_string(merchant.settings_file())
        .unwrap()
        .parse()
        .unwrap();
    let mut set = |table: &str, key: &str, value: toml::Value| {
        settings[table]
            .as_table_mut()
            .unwrap()
            .insert(key.to_owned(), value);
    };
    let free = || regtest::port::free().unwrap().to_string();
    for table in ["admin", "http"] {
        set(table, "listen", free().into());
    }
    set("node", "listen", toml::Value::Array(vec![free().into()]));
    let other = other.to_str().unwrap().to_owned();
    settings.insert("data_dir".to_owned(), other.into());
    fs::write(&config, settings.to_string()).unwrap();
    is_refused(&config).await;
    shop.buy(ARTICLE).await;

    // Once this one is gone without a word, the other takes over; should this one come back, it is the one that ends.
    shop.network.merchant.kill().unwrap();
    let mut taking = program(&config).spawn().unwrap();
    eventually("the other to have taken over", ENDS_WITHIN, || async {
        let status = tollhouse(&["status", "--config"]).arg(&config).output();
        let status: Value =
            serde_json::from_slice(&status.unwrap().stdout).map_err(|error| error.to_string())?;
        match status["node"]["running"] == true {
            true => Ok(Some(())),
            false => Err(status["node"].to_string()),
        }
    })
    .await
    .unwrap();
    is_refused(shop.network.merchant.settings_file()).await;
    taking.kill().await.unwrap();
}
