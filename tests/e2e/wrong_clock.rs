//! A clock that is wrong, or set while the program runs, and a chain that is not seen for hours: the merchant's process goes by
//! a clock that the test sets (`faketime`), the rest of the network by the right one.

use std::fs;
use std::path::{Path, PathBuf};

use regtest::wait::eventually;
use serde_json::Value;
use tempfile::TempDir;

use crate::backup::{done, tollhouse};
use crate::operations::DEADLINE;
use crate::shop::{ARTICLE, HEIGHT, Shop};

/// The clock of one process.
struct Watch {
    file: PathBuf,
    _dir: TempDir,
}

impl Watch {
    /// One that is right.
    fn new() -> Self {
        let dir = regtest::folder::temporary().unwrap();
        let file = dir.path().join("offset");
        let watch = Self { file, _dir: dir };
        watch.set("+0");
        watch
    }

    /// Sets it, as in `+2h`, before or after the right time. Read anew each time that the process asks.
    fn set(&self, offset: &str) {
        // In one step: half a file would be another time.
        let fresh = self.file.with_extension("fresh");
        fs::write(&fresh, format!("{offset}\n")).unwrap();
        fs::rename(&fresh, &self.file).unwrap();
    }

    /// What has a process go by it. The clock that only counts is left alone, as it is by whoever sets a real clock.
    fn env(&self) -> Vec<(String, String)> {
        let library = format!(
            "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1",
            std::env::consts::ARCH
        );
        assert!(
            Path::new(&library).exists(),
            "{library} is not there: this test sets the merchant's clock with the package faketime"
        );
        [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }
}

async fn chain(shop: &Shop) -> Value {
    shop.network.merchant.admin().status().await.unwrap()["node"]["chain"].clone()
}

/// Waits until it is not ready and says this.
async fn is_unready(shop: &Shop, why: &str) {
    let admin = shop.network.merchant.admin();
    eventually("that it is not ready", DEADLINE, || async {
        let readiness = admin.ready().await.map_err(|error| format!("{error:#}"))?;
        let reason = readiness.reason.unwrap_or_default();
        if !readiness.ready && reason.contains(why) {
            Ok(Some(()))
        } else {
            Err(reason)
        }
    })
    .await
    .unwrap();
}

/// Waits until all of this is in the log.
async fn says(shop: &Shop, words: &[&str]) {
    eventually("the log to say so", DEADLINE, || async {
        let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
        let missing: Vec<_> = words
            .iter()
            .filter(|words| !log.contains(**words))
            .collect();
        if missing.is_empty() {
            Ok(Some(()))
        } else {
            Err(format!("not in the log: {missing:?}"))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_chain_that_is_not_seen_is_an_alarm_after_an_hour_and_the_end_of_sales_after_two() {
    let watch = Watch::new();
    let mut shop = Shop::open_in("", "", watch.env()).await;
    let credential = shop.buy(ARTICLE).await;
    shop.network.esplora.stop();

    watch.set("+65m");
    says(&shop, &["The chain was last seen 65 minutes ago"]).await;
    let alarmed = chain(&shop).await;
    assert_eq!(alarmed["is_alarm"], true, "{alarmed}");
    assert!(alarmed["degraded_since_secs"].is_u64(), "{alarmed}");
    shop.buy(ARTICLE).await;

    watch.set("+125m");
    is_unready(&shop, "has not seen the chain for too long").await;
    assert_eq!(shop.get(ARTICLE, None).await.status, 503);
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);

    shop.network.esplora.start_again().unwrap();
    shop.network.merchant.wait_ready().await.unwrap();
    assert_eq!(chain(&shop).await["is_alarm"], false);
    shop.buy(ARTICLE).await;
    shop.redeemed_sales(3).await;
    assert!(shop.network.stop().await.unwrap().success());
}

const SHORT_ROUTE: &str = r#"
[[route]]
path = "/short/*"
service = "short"
price = "30 sat"
grant = { valid = "20s" }
files = "articles"
"#;

#[tokio::test]
async fn an_invoice_that_is_paid_after_its_expiry_buys_the_full_grant() {
    let watch = Watch::new();
    let shop = Shop::open_in(SHORT_ROUTE, "", watch.env()).await;
    let path = "/short/one.html";
    let url = format!("{}{path}", shop.network.gate_url());
    // By the merchant's clock, the payment comes after the invoice's end and the twenty seconds, and then hours
    // later.
    for (number, offset) in ["+650s", "+130m"].into_iter().enumerate() {
        watch.set("+0");
        shop.network.merchant.admin().sync().await.unwrap();
        let challenge = shop.network.client().challenge(&url).await.unwrap();
        watch.set(offset);
        let paid = shop.network.payer.pay(&challenge.bolt11).await.unwrap();
        let credential = challenge.credential(&paid);
        assert_eq!(shop.get(path, Some(&credential)).await.status, 200);
        let sales = shop.redeemed_sales(number + 1).await;
        let sale = sales.iter().max_by_key(|sale| sale["settled_ms"].as_u64());
        let sale = sale.unwrap();
        assert_eq!(sale["route"], "/short/*", "{sale}");
        assert_eq!(sale["price_msat"], 30_000, "{sale}");
        let settled_ms = sale["settled_ms"].as_u64().unwrap();
        assert!(
            settled_ms > sale["expires_ms"].as_u64().unwrap() + 20_000,
            "{sale}"
        );
        assert_eq!(shop.get(path, Some(&credential)).await.status, 200);
        // The token ends after the time sold.
        eventually("its end", DEADLINE, || async {
            let answer = shop.get(path, Some(&credential)).await;
            Ok::<_, String>((answer.status == 402).then_some(()))
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_clock_that_is_set_by_a_year_and_back_is_noticed_and_nothing_is_lost() {
    let watch = Watch::new();
    let mut shop = Shop::open_in("", "", watch.env()).await;
    let credential = shop.buy(ARTICLE).await;
    shop.redeemed_sales(1).await;

    watch.set("+366d");
    says(
        &shop,
        &[
            "was set forward by 527040 minutes",
            "minutes ahead of that of the chain source",
        ],
    )
    .await;
    shop.network.merchant.wait_ready().await.unwrap();
    shop.buy(HEIGHT).await;
    // Good for a day, and a year has passed by this clock.
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 402);

    watch.set("+0");
    says(&shop, &["was set back by 527040 minutes"]).await;
    shop.network.merchant.wait_ready().await.unwrap();
    let answer = shop.get(ARTICLE, Some(&credential)).await;
    assert_eq!(answer.status, 200);
    let said = httpdate::parse_http_date(answer.header("date").unwrap()).unwrap();
    let said = said.duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_secs = tollhouse::base::clock::Clock::system().unix_secs();
    assert!(now_secs.abs_diff(said.as_secs()) < 300, "{said:?}");
    shop.buy(HEIGHT).await;
    shop.redeemed_sales(3).await;

    // Wrong from the start: what was sold opens, and nothing is sold by a clock that is behind.
    shop.network.merchant.terminate().await.unwrap();
    watch.set("-2d");
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    is_unready(&shop, "minutes behind").await;
    assert_eq!(shop.get(ARTICLE, None).await.status, 503);
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);
    watch.set("+0");
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
    shop.buy(HEIGHT).await;
    shop.redeemed_sales(4).await;
    let status = shop.network.merchant.admin().status().await.unwrap();
    assert_eq!(status["sales"]["amount_msat"], 21_000 + 3 * 10_000);
    assert!(shop.network.stop().await.unwrap().success());
}

#[tokio::test]
async fn a_clock_that_is_hours_behind_from_the_start_is_known_by_the_blocks_of_ones_own_bitcoind() {
    let watch = Watch::new();
    let settings = "[node.chain]\nesplora = \"\"\n\
                    bitcoind = { rpc = \"{bitcoind_rpc}\", cookie_file = \"{bitcoind_cookie}\" }\n";
    let mut shop = Shop::open_in("", settings, watch.env()).await;
    let credential = shop.buy(ARTICLE).await;
    // A block may be two hours ahead: less than that proves nothing.
    for (offset, minutes) in [("-119m", 0), ("-3h", 59)] {
        shop.network.merchant.terminate().await.unwrap();
        watch.set(offset);
        shop.network.merchant.restart().await.unwrap();
        shop.network.merchant.wait_running().await.unwrap();
        if minutes > 0 {
            is_unready(&shop, "minutes behind").await;
            let behind = chain(&shop).await["clock_behind_secs"].as_i64().unwrap();
            // The harness's blocks are made in a row, each a second after the one before.
            assert!((minutes..minutes + 30).contains(&(behind / 60)), "{behind}");
            assert_eq!(shop.get(ARTICLE, None).await.status, 503);
        } else {
            assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
        }
        assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);
    }
    watch.set("+0");
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 0);
    shop.buy(ARTICLE).await;
    assert!(shop.network.stop().await.unwrap().success());
}

#[tokio::test]
async fn the_backup_that_was_made_last_is_the_newest_and_is_kept_whatever_the_clock_shows() {
    let watch = Watch::new();
    let shop = Shop::open_in("", "backup.keep = 2", watch.env()).await;
    let settings = shop.network.merchant.settings_file();
    let admin = shop.network.merchant.admin();
    eventually("the backup of the new channel", DEADLINE, || async {
        let status = admin.status().await;
        let backup = status.map_err(|error| format!("{error:#}"))?["backup"].clone();
        if backup["newest"].is_string() && backup["is_behind_channels"] == false {
            Ok(Some(()))
        } else {
            Err(backup.to_string())
        }
    })
    .await
    .unwrap();
    // As many as are kept by each clock, and one that comes after.
    for offset in [
        "+0", "-2d", "+0", "+366d", "+366d", "+366d", "+0", "-2d", "+0",
    ] {
        watch.set(offset);
        let said = done(tollhouse(&["backup", "create", "--config"]).arg(settings));
        let backup = admin.status().await.unwrap()["backup"].clone();
        let newest = backup["newest"].as_str().unwrap();
        assert!(said.contains(newest), "{offset}: {said}{backup}");
        assert!(Path::new(newest).exists(), "{offset}: {newest}");
        assert!(backup["age_secs"].as_u64().unwrap() < 60, "{backup}");
        done(tollhouse(&["backup", "verify", newest, "--config"]).arg(settings));
    }
    assert!(shop.network.stop().await.unwrap().success());
}
