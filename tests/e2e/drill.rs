//! The drill: sell, back up, sell more, lose everything, restore, and have every satoshi and every token again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use regtest::folder;
use regtest::merchant::Merchant;
use regtest::wait::eventually;
use serde_json::Value;
use tempfile::TempDir;

use crate::backup::{done, tollhouse};
use crate::operations;
use crate::shop::{ARTICLE, ARTICLE_TEXT, HEIGHT, Shop};

/// What is sold for enough to be worth a place in a closing transaction.
pub(crate) const GOLD: &str = "/gold/one.html";
pub(crate) const GOLD_SAT: u64 = 100_000;
pub(crate) const ROUTES: &str = r#"
[[route]]
path = "/gold/*"
service = "gold"
price = "100000 sat"
files = "articles"
"#;
/// What the harness gives the merchant on chain.
pub(crate) const DEPOSIT_SAT: u64 = 10_000_000;

/// Backups that are made while others buy, and what each of them meets.
const BACKUPS_UNDER_LOAD: usize = 5;
const SALES_PER_BACKUP: usize = 4;

/// Closing, six blocks, loading the monitors, and up to 30 s until ldk-node sweeps.
pub(crate) const RECOVERY_DEADLINE: Duration = Duration::from_secs(120);
/// From a message of the payer's to its closing transaction at the chain source.
pub(crate) const CLOSING_DEADLINE: Duration = Duration::from_secs(30);
/// A backup is made five seconds after the channels were last changed.
const BACKUP_DEADLINE: Duration = Duration::from_secs(30);

/// A place for backups that the merchant's disaster does not reach.
pub(crate) struct Elsewhere(TempDir);

impl Elsewhere {
    pub(crate) fn new() -> Self {
        Self(folder::temporary().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Makes a backup by the command, and writes the words down.
    pub(crate) fn back_up(&self, merchant: &Merchant) -> PathBuf {
        let said = done(
            tollhouse(&["backup", "create", "--config"])
                .arg(merchant.settings_file())
                .arg("--to")
                .arg(self.path()),
        );
        fs::copy(merchant.data_dir().join("seed.words"), self.words()).unwrap();
        let copied = said
            .lines()
            .find_map(|line| line.strip_prefix("Copied to "));
        PathBuf::from(copied.unwrap().trim_end_matches('.'))
    }

    fn words(&self) -> PathBuf {
        self.path().join("words")
    }

    /// The restore of this backup to where the data was.
    fn restore(&self, backup: &Path, merchant: &Merchant) -> std::process::Command {
        let mut command = tollhouse(&["backup", "restore"]);
        command
            .arg(backup)
            .arg("--words-file")
            .arg(self.words())
            .arg("--config")
            .arg(merchant.settings_file());
        command
    }
}

#[tokio::test]
async fn after_the_loss_of_everything_channels_money_and_tokens_come_back_from_an_older_backup() {
    let elsewhere = Elsewhere::new();
    let mut shop = Shop::open_with(ROUTES, "").await;
    let half_used = shop.buy(HEIGHT).await;
    let gold = shop.buy(GOLD).await;
    shop.redeemed_sales(2).await;
    let access = operations::done(&shop.network, &["access", "admin"]).await;
    let backup = elsewhere.back_up(&shop.network.merchant);
    // What the backup does not know of: a token that was revoked;
    let id = access["id"].as_str().unwrap();
    operations::done(&shop.network, &["access", "revoke", id]).await;
    // its channel state is now one that the payer could punish.
    let later = shop.buy(GOLD).await;
    shop.buy(GOLD).await;
    let sold_sat = 3 * GOLD_SAT + 10;

    shop.loses_everything_but(&elsewhere, &backup).await;
    // What was sold is served from the first second, also what was sold after the backup; nothing new is sold.
    assert_eq!(shop.get(HEIGHT, Some(&half_used)).await.status, 200);
    shop.refuses_to_sell().await;
    for token in [&gold, &later] {
        assert_eq!(shop.get(GOLD, Some(token)).await.text(), ARTICLE_TEXT);
    }
    let listed = operations::done(&shop.network, &["access", "list"]).await;
    assert_eq!(
        listed["tokens"].as_array().unwrap().len(),
        0,
        "it stays revoked: {listed}"
    );
    shop.network.merchant.wait_running().await.unwrap();
    let status = shop.status().await;
    let recovery = &status["node"]["recovery"];
    assert_eq!(recovery["stage"], "closing", "{recovery}");
    assert_eq!(recovery["channels"].as_array().unwrap().len(), 1);
    assert_eq!(recovery["channels"][0]["backup_balance_sat"], GOLD_SAT + 10);
    assert_eq!(status["node"]["channels"].as_array().unwrap().len(), 0);
    let admin = shop.network.merchant.admin();
    let (refused, why) = admin.call(http::Method::POST, "/backup").await.unwrap();
    assert_eq!(refused, StatusCode::CONFLICT, "{why}");

    let closing = shop.peer_closes().await;
    let status = shop.status().await;
    let closed = &status["node"]["recovery"]["channels"][0];
    assert_eq!(closed["pays_us_sat"], sold_sat, "{closed}");
    shop.keeps_no_new_channel().await;
    // Stopped and started in the middle, it goes on where it was.
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    shop.recovers().await;

    // The payer's newest state is what is in the chain, to the satoshi, and it is in the wallet but for the fee.
    let fee_sat = shop.sweep_fee_sat(&closing, sold_sat).await;
    let status = shop.status().await;
    let balances = &status["node"]["balances"];
    assert_eq!(balances["lightning_sat"], 0, "{balances}");
    assert_eq!(
        balances["onchain_total_sat"],
        DEPOSIT_SAT + sold_sat - fee_sat,
        "{balances}"
    );
    assert_eq!(
        status["node"]["channels_closed"].as_array().unwrap().len(),
        1
    );
    // What was sold before the backup is in the books.
    assert_eq!(status["sales"]["count"], 2);

    // And it sells again.
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 1);
    shop.buy(ARTICLE).await;
    shop.refused(HEIGHT, &half_used).await;
    let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
    for said in [
        "Recovery: Of 1 old channels 0 are closed for good.",
        "Recovery: Nothing of the old channels is left to sweep.",
        "Recovery is complete",
    ] {
        assert!(log.contains(said), "`{said}` in {log}");
    }
}

#[tokio::test]
async fn the_money_of_a_channel_that_the_backup_does_not_know_comes_back_too() {
    let elsewhere = Elsewhere::new();
    let mut shop = Shop::open_with(ROUTES, "").await;
    shop.buy(GOLD).await;
    let backup = elsewhere.back_up(&shop.network.merchant);
    // The old one is full, so to say; what is sold from now on arrives over the new one.
    assert_eq!(shop.network.close_channels().await.unwrap(), 1);
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 1);
    shop.buy(GOLD).await;
    shop.buy(GOLD).await;

    shop.loses_everything_but(&elsewhere, &backup).await;
    shop.network.merchant.wait_running().await.unwrap();
    let (payer, peer) = (&shop.network.payer, shop.network.peer());
    payer.connect(peer).await.unwrap();
    shop.payer_has_closed().await;
    shop.recovers().await;

    // The first channel was closed in agreement, to an address that the backup does not know either.
    let status = shop.status().await;
    let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
    let swept = log
        .split("that the backup does not know are swept: ")
        .nth(1)
        .unwrap_or_else(|| panic!("nothing was swept: {log}"));
    let swept_sat: u64 = swept.split(' ').next().unwrap().parse().unwrap();
    assert!(
        (2 * GOLD_SAT - 1_000..2 * GOLD_SAT).contains(&swept_sat),
        "{swept_sat}"
    );
    let balances = &status["node"]["balances"];
    assert_eq!(
        balances["onchain_total_sat"],
        DEPOSIT_SAT + GOLD_SAT + swept_sat,
        "{balances}"
    );
}

#[tokio::test]
async fn a_peer_that_does_not_come_back_need_not_keep_the_shop_closed() {
    let elsewhere = Elsewhere::new();
    let mut shop = Shop::open_with(ROUTES, "").await;
    shop.buy(GOLD).await;
    let backup = elsewhere.back_up(&shop.network.merchant);
    shop.loses_everything_but(&elsewhere, &backup).await;
    shop.network.merchant.wait_running().await.unwrap();
    let leave = || async {
        let admin = shop.network.merchant.admin();
        admin
            .call(http::Method::POST, "/recovery/leave")
            .await
            .unwrap()
            .0
    };
    assert_eq!(leave().await, StatusCode::ACCEPTED);
    shop.recovers().await;
    assert_eq!(leave().await, StatusCode::CONFLICT);

    // The old channel is closed by its peer as soon as that is back. The next look finds that, and the node begins anew and sweeps it.
    let payer = &shop.network.payer;
    payer.connect(shop.network.peer()).await.unwrap();
    shop.payer_has_closed().await;
    eventually("the old channel to be swept", RECOVERY_DEADLINE, || async {
        shop.network
            .mine(1)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let balances = shop.status().await["node"]["balances"].clone();
        // Between two nodes there is none.
        let sat = balances["onchain_total_sat"].as_u64().unwrap_or(0);
        if (DEPOSIT_SAT + GOLD_SAT - 1_000..DEPOSIT_SAT + GOLD_SAT).contains(&sat) {
            Ok(Some(()))
        } else {
            Err(balances.to_string())
        }
    })
    .await
    .unwrap();
    assert_eq!(shop.network.ensure_channel().await.unwrap(), 1);
    shop.buy(ARTICLE).await;
    let status = shop.status().await;
    let left = &status["node"]["unclosed_old_channels"];
    assert_eq!(left.as_array().unwrap().len(), 0, "{left}");
    // The node has this channel's monitor, so the search for channels without one must not sweep it as well.
    let log = fs::read_to_string(shop.network.merchant.log()).unwrap();
    assert!(
        !log.contains("channels that the backup does not know are swept"),
        "{log}"
    );
}

#[tokio::test]
async fn every_backup_that_is_made_in_the_middle_of_sales_is_whole() {
    let elsewhere = Elsewhere::new();
    let shop = Shop::open().await;
    let merchant = &shop.network.merchant;
    for round in 0..BACKUPS_UNDER_LOAD {
        let selling = async {
            for _ in 0..SALES_PER_BACKUP {
                shop.buy(ARTICLE).await;
            }
        };
        let settings = merchant.settings_file().to_owned();
        let to = elsewhere.path().to_owned();
        let backing_up = tokio::task::spawn_blocking(move || {
            done(
                tollhouse(&["backup", "create", "--config"])
                    .arg(settings)
                    .arg("--to")
                    .arg(to),
            )
        });
        let ((), backed_up) = tokio::join!(selling, backing_up);
        backed_up.unwrap();
        let count = fs::read_dir(elsewhere.path()).unwrap().count();
        assert_eq!(count, round + 1);
    }
    for backup in fs::read_dir(elsewhere.path()).unwrap() {
        let said = done(
            tollhouse(&["backup", "verify"])
                .arg(backup.unwrap().path())
                .arg("--config")
                .arg(merchant.settings_file()),
        );
        assert!(said.contains("is good"), "{said}");
    }
}

#[tokio::test]
async fn the_newest_state_of_a_stopped_program_is_restored_and_sells_on() {
    let elsewhere = Elsewhere::new();
    let mut shop = Shop::open().await;
    let half_used = shop.buy(HEIGHT).await;
    shop.redeemed_sales(1).await;
    let while_running = elsewhere.back_up(&shop.network.merchant);
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    let newest = elsewhere.back_up(&shop.network.merchant);
    assert_ne!(while_running, newest);
    fs::remove_dir_all(shop.network.merchant.data_dir()).unwrap();

    let mut sure = elsewhere.restore(&while_running, &shop.network.merchant);
    let refused = sure.arg("--i-am-sure-it-is-the-newest").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("while the program ran"), "{why}");
    assert!(!shop.network.merchant.data_dir().exists());

    let mut sure = elsewhere.restore(&newest, &shop.network.merchant);
    done(sure.arg("--i-am-sure-it-is-the-newest"));
    shop.come_back().await;
    assert_eq!(shop.get(HEIGHT, Some(&half_used)).await.status, 200);
    shop.refused(HEIGHT, &half_used).await;
    shop.buy(ARTICLE).await;
    let status = shop.status().await;
    assert!(status["node"]["recovery"].is_null());
    assert_eq!(status["node"]["balances"]["onchain_total_sat"], DEPOSIT_SAT);
    assert_eq!(status["sales"]["count"], 2);
}

#[tokio::test]
async fn the_words_alone_bring_back_the_money_on_chain() {
    let mut shop = Shop::open().await;
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    let data_dir = shop.network.merchant.data_dir().to_owned();
    let words = fs::read_to_string(data_dir.join("seed.words")).unwrap();
    fs::remove_dir_all(&data_dir).unwrap();

    tollhouse::base::secret_file::write_new(&made(&data_dir).join("seed.words"), &words).unwrap();
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    shop.network.merchant.wait_running().await.unwrap();
    shop.network.sync().await.unwrap();
    let status = shop.status().await;
    assert_eq!(status["node"]["balances"]["onchain_total_sat"], DEPOSIT_SAT);
}

#[tokio::test]
async fn a_backup_is_made_by_itself_after_a_change_of_the_channels() {
    let shop = Shop::open().await;
    let backup = eventually(
        "a backup with the channel in it",
        BACKUP_DEADLINE,
        || async {
            let status = shop.network.merchant.admin().status().await;
            let status = status.map_err(|error| format!("{error:#}"))?;
            let backup = &status["backup"];
            if backup["newest"].is_string() && backup["is_behind_channels"] == false {
                Ok(Some(backup.clone()))
            } else {
                Err(backup.to_string())
            }
        },
    )
    .await
    .unwrap();
    assert!(backup["error"].is_null(), "{backup}");
    let merchant = &shop.network.merchant;
    let said = done(
        tollhouse(&["backup", "verify"])
            .arg(backup["newest"].as_str().unwrap())
            .arg("--config")
            .arg(merchant.settings_file()),
    );
    assert!(said.contains("is good"), "{said}");
    assert!(said.contains("1, with"), "{said}");
}

fn made(folder: &Path) -> &Path {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(folder).unwrap();
    folder
}

impl Shop {
    pub(crate) async fn status(&self) -> Value {
        self.network.merchant.admin().status().await.unwrap()
    }

    /// The machine burns down; another one begins with this backup.
    pub(crate) async fn loses_everything_but(&mut self, elsewhere: &Elsewhere, backup: &Path) {
        self.network.payer.settled().await.unwrap();
        let merchant = &mut self.network.merchant;
        merchant.kill().unwrap();
        fs::remove_dir_all(merchant.data_dir()).unwrap();
        done(&mut elsewhere.restore(backup, merchant));
        merchant.restart().await.unwrap();
        merchant.wait_up().await.unwrap();
    }

    /// ldk-node has no way to refuse a channel without anchors, which a peer tries when one with them is refused: it is closed
    /// at once.
    async fn keeps_no_new_channel(&self) {
        let (payer, peer) = (&self.network.payer, self.network.peer());
        let _ = payer.open_channel(peer, 1_000_000).await;
        eventually("the new channel to be closed", CLOSING_DEADLINE, || async {
            let status = self.status().await;
            let merchants = status["node"]["channels"].as_array().map(Vec::len);
            match (merchants, payer.channels().len()) {
                (Some(0), 0) => Ok(Some(())),
                left => Err(format!("{left:?} left")),
            }
        })
        .await
        .unwrap();
    }

    /// Asks without a credential, which must not even be answered with a challenge.
    async fn refuses_to_sell(&self) {
        let answer = self.get(ARTICLE, None).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
        let ready = self.network.merchant.admin().ready().await.unwrap();
        assert!(!ready.ready);
    }

    /// The payer connects, hears that there is no such channel, and closes it. Returns the closing transaction.
    pub(crate) async fn peer_closes(&self) -> String {
        self.network
            .payer
            .connect(self.network.peer())
            .await
            .unwrap();
        eventually("the closing transaction", CLOSING_DEADLINE, || async {
            let _ = self.network.merchant.admin().sync().await;
            let status = self.network.merchant.admin().status().await;
            let status = status.map_err(|error| format!("{error:#}"))?;
            let recovery = &status["node"]["recovery"];
            let channels = recovery["channels"].as_array().into_iter().flatten();
            let mut closings = channels.filter_map(|channel| channel["closing_txid"].as_str());
            match closings.next() {
                Some(txid) => Ok(Some(txid.to_owned())),
                None => Err(recovery.to_string()),
            }
        })
        .await
        .unwrap()
    }

    /// Waits until the payer has closed all that it had with the merchant.
    pub(crate) async fn payer_has_closed(&self) {
        eventually("the payer to close", CLOSING_DEADLINE, || async {
            match self.network.payer.channels().len() {
                0 => Ok(Some(())),
                left => Err(format!("{left} left")),
            }
        })
        .await
        .unwrap();
    }

    /// Mines until the recovery is over and the node runs as it does in peace.
    pub(crate) async fn recovers(&self) {
        eventually("the recovery to end", RECOVERY_DEADLINE, || async {
            let admin = self.network.merchant.admin();
            let mined = self.network.bitcoind.mine(1).await;
            mined.map_err(|error| error.to_string())?;
            // Between two stages there is no node that could.
            let _ = admin.sync().await;
            let status = admin.status().await.map_err(|error| format!("{error:#}"))?;
            let node = &status["node"];
            if node["recovery"].is_null() && node["running"] == true {
                Ok(Some(()))
            } else {
                Err(node["recovery"].to_string())
            }
        })
        .await
        .unwrap();
        self.network.sync().await.unwrap();
    }

    /// What it cost to sweep this much out of the closing transaction.
    async fn sweep_fee_sat(&self, closing: &str, swept_sat: u64) -> u64 {
        let ask = |path: String| async move {
            let url = format!("{}{path}", self.network.esplora.url());
            let answer = self.network.client().get(&url, None).await.unwrap();
            serde_json::from_slice::<Value>(&answer.body).unwrap()
        };
        let closing_tx = ask(format!("/tx/{closing}")).await;
        let outputs = closing_tx["vout"].as_array().unwrap();
        let ours = outputs
            .iter()
            .position(|output| output["value"].as_u64() == Some(swept_sat))
            .unwrap_or_else(|| panic!("an output of {swept_sat} sat in {closing_tx}"));
        let spent = ask(format!("/tx/{closing}/outspend/{ours}")).await;
        let sweep = ask(format!("/tx/{}", spent["txid"].as_str().unwrap())).await;
        sweep["fee"].as_u64().unwrap()
    }
}
