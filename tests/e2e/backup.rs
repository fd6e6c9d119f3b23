//! The backup commands, on a merchant whose node has no chain: what is good, and what is refused and why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::{Method, StatusCode};
use regtest::client::Client;
use regtest::folder;
use regtest::merchant::{Merchant, MerchantOptions};
use regtest::wait::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The shipped program with these arguments.
pub(crate) fn tollhouse(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
    command.args(arguments);
    command
}

/// Runs a command that must do what it is asked, and returns what it said.
pub(crate) fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (said, complained) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{command:?}: {said}{complained}");
    said
}

/// Words that are good, and nobody's.
pub(crate) const OTHER_WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
    abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art";

/// A merchant that runs, and a backup of it.
pub(crate) struct BackedUp {
    pub(crate) merchant: Merchant,
    pub(crate) dir: TempDir,
    pub(crate) file: PathBuf,
}

impl BackedUp {
    async fn new() -> Self {
        Self::with("").await
    }

    /// With further settings. Beside the folder of the settings file there is a secret for a store, `s3.secret`.
    pub(crate) async fn with(settings: &str) -> Self {
        let dir = folder::temporary().unwrap();
        fs::create_dir(dir.path().join("articles")).unwrap();
        tollhouse::base::secret_file::write_new(&dir.path().join("s3.secret"), "hush").unwrap();
        let routes = "[[route]]\npath = \"/a/*\"\nservice = \"a\"\nprice = \"1 sat\"\nfiles = \"articles\"\n";
        let options = MerchantOptions {
            dir: Some(dir.path().join("merchant")),
            routes_dir: Some(dir.path().to_owned()),
            settings: settings.to_owned(),
            // Nobody listens there: the node waits, and everything else works.
            ..MerchantOptions::new(
                env!("CARGO_BIN_EXE_tollhouse"),
                "http://127.0.0.1:1",
                routes,
            )
        };
        let mut merchant = Merchant::start(options).await.unwrap();
        merchant.wait_up().await.unwrap();
        wait_for_state(&merchant).await;
        let file = back_up(&merchant, &dir.path().join("elsewhere"));
        Self {
            merchant,
            dir,
            file,
        }
    }

    pub(crate) fn verify(&self, file: &Path) -> Command {
        let mut command = tollhouse(&["backup", "verify"]);
        command
            .arg(file)
            .arg("--config")
            .arg(self.merchant.settings_file());
        command
    }

    /// A copy of the backup with something done to its bytes.
    fn changed(&self, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = fs::read(&self.file).unwrap();
        change(&mut bytes);
        let path = self.dir.path().join("changed.backup");
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Waits until the node has made its state.
pub(crate) async fn wait_for_state(merchant: &Merchant) {
    let state = merchant.data_dir().join("node/ldk_node_data.sqlite");
    regtest::wait::eventually(
        "the node's state",
        std::time::Duration::from_secs(20),
        || async {
            // Made before ldk-node opens it, and empty until then.
            let status = merchant
                .admin()
                .status()
                .await
                .map_err(|error| format!("{error:#}"))?;
            match status["node"]["node_id"].as_str() {
                Some(_) if state.exists() => Ok(Some(())),
                _ => Err(status["node"].to_string()),
            }
        },
    )
    .await
    .unwrap();
}

/// Makes a backup of a merchant, running or not, and a copy of it in this folder, of which it returns the path.
pub(crate) fn back_up(merchant: &Merchant, to: &Path) -> PathBuf {
    // A disk that is there.
    std::fs::create_dir_all(to).unwrap();
    let said = done(
        tollhouse(&["backup", "create", "--config"])
            .arg(merchant.settings_file())
            .arg("--to")
            .arg(to),
    );
    let copied = said
        .lines()
        .find_map(|line| line.strip_prefix("Copied to "));
    PathBuf::from(copied.unwrap().trim_end_matches('.'))
}

/// Runs a command that must refuse, and says these words.
pub(crate) fn refuses(command: &mut Command, words: &str) {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
    assert!(said.contains(words), "`{words}` in: {said}");
}

#[tokio::test]
async fn a_backup_that_cannot_be_used_says_why_and_writes_nothing() {
    let backed_up = BackedUp::new().await;
    let said = done(&mut backed_up.verify(&backed_up.file));
    for part in [
        "is good",
        "regtest",
        "seed.words",
        "master.key",
        "admin.token",
        "ledger/journal.log",
        "settings/tollhouse.toml",
    ] {
        assert!(said.contains(part), "`{part}` in: {said}");
    }

    let length = fs::metadata(&backed_up.file).unwrap().len();
    let cut = |bytes: usize| backed_up.changed(|all| all.truncate(bytes));
    refuses(&mut backed_up.verify(&cut(10)), "is no backup of tollhouse");
    refuses(
        &mut backed_up.verify(&cut(usize::try_from(length).unwrap() - 1)),
        "cut short",
    );
    refuses(&mut backed_up.verify(&cut(80)), "cut short");
    let flipped = backed_up.changed(|all| *all.last_mut().unwrap() ^= 1);
    refuses(&mut backed_up.verify(&flipped), "changed");
    let flipped = backed_up.changed(|all| all[100] ^= 1);
    refuses(&mut backed_up.verify(&flipped), "changed");
    let newer = backed_up.changed(|all| all[19] = 2);
    refuses(&mut backed_up.verify(&newer), "use the newer program");
    let other = backed_up.dir.path().join("other.words");
    tollhouse::base::secret_file::write_new(&other, OTHER_WORDS).unwrap();
    let wrong = |file: &Path, words: &Path| {
        let mut command = tollhouse(&["backup", "restore"]);
        command.arg(file).arg("--words-file").arg(words);
        command
            .arg("--data-dir")
            .arg(backed_up.dir.path().join("restored"));
        command
    };
    refuses(&mut wrong(&backed_up.file, &other), "those of another node");
    let scrambled = backed_up.dir.path().join("scrambled.words");
    tollhouse::base::secret_file::write_new(&scrambled, &OTHER_WORDS.replace("art", "abandon"))
        .unwrap();
    refuses(&mut wrong(&backed_up.file, &scrambled), "checksum");
    refuses(
        &mut wrong(&flipped, &backed_up.merchant.data_dir().join("seed.words")),
        "changed",
    );
    assert!(!backed_up.dir.path().join("restored").exists());

    let settings = fs::read_to_string(backed_up.merchant.settings_file()).unwrap();
    let signet = backed_up
        .merchant
        .settings_file()
        .with_file_name("signet.toml");
    fs::write(&signet, settings.replace("\"regtest\"", "\"signet\"")).unwrap();
    let mut command = tollhouse(&["backup", "verify"]);
    command.arg(&backed_up.file).arg("--config").arg(&signet);
    refuses(&mut command, "a backup of a node on regtest");

    let mut command = tollhouse(&["backup", "restore"]);
    command
        .arg(&backed_up.file)
        .arg("--config")
        .arg(backed_up.merchant.settings_file());
    refuses(&mut command, "is not empty");
}

#[tokio::test]
async fn the_old_backups_are_let_go_and_a_backup_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut backed_up = BackedUp::new().await;
    let mode = fs::metadata(&backed_up.file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let bytes = fs::read(&backed_up.file).unwrap();
    let words = fs::read_to_string(backed_up.merchant.data_dir().join("seed.words")).unwrap();
    let beginning = &words.as_bytes()[..12];
    assert!(!bytes.windows(12).any(|window| window == beginning));
    // A stopped program is backed up by the command itself.
    assert!(backed_up.merchant.terminate().await.unwrap().success());
    done(tollhouse(&["backup", "create", "--config"]).arg(backed_up.merchant.settings_file()));
    let folder = backed_up.merchant.data_dir().join("backups");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with("tollhouse-") && name.ends_with(".backup"),
            "{name}"
        );
    }
    assert!(!backed_up.merchant.data_dir().join("backup.new").exists());
}

#[tokio::test]
async fn a_backup_that_is_damaged_on_the_disk_is_noticed_and_another_one_is_made() {
    let backed_up = BackedUp::new().await;
    let status = || async {
        let status = backed_up.merchant.admin().status().await;
        status.map_err(|error| format!("{error:#}"))
    };
    let within = std::time::Duration::from_secs(100);
    let good = regtest::wait::eventually("a verified backup", within, || async {
        let backup = status().await?["backup"].clone();
        match backup["verified"].as_str() {
            Some(verified) if backup["newest"] == verified => Ok(Some(PathBuf::from(verified))),
            _ => Err(backup.to_string()),
        }
    });
    let good = good.await.unwrap();

    // The same length, one bit changed.
    let mut bytes = fs::read(&good).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&good, bytes).unwrap();
    let noticed = regtest::wait::eventually("another backup", within, || async {
        let backup = status().await?["backup"].clone();
        let is_told = backup["damage"].as_str().is_some_and(|damage| {
            damage.contains(good.to_str().unwrap()) && damage.contains("another one was made")
        });
        let is_replaced =
            backup["verified"].is_string() && backup["verified"] != good.to_str().unwrap();
        if is_told && is_replaced && backup["verified"] == backup["newest"] {
            return Ok(Some(backup));
        }
        Err(backup.to_string())
    });
    let backup = noticed.await.unwrap();
    assert_eq!(backup["error"], serde_json::Value::Null);
    done(&mut backed_up.verify(Path::new(backup["verified"].as_str().unwrap())));
    refuses(&mut backed_up.verify(&good), "changed");
    let said = Command::new(env!("CARGO_BIN_EXE_tollhouse"))
        .args(["doctor", "--config"])
        .arg(backed_up.merchant.settings_file())
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("the newest verified one is 0 min old"),
        "{said}"
    );
    assert!(said.contains("Is that disk failing?"), "{said}");
}

#[tokio::test]
async fn a_new_master_key_is_backed_up_before_it_mints_or_not_used() {
    let backed_up = BackedUp::new().await;
    let merchant = &backed_up.merchant;
    let key = merchant.data_dir().join("master.key");
    let before = fs::read_to_string(&key).unwrap();
    let folder = merchant.data_dir().join("backups");
    let aside = merchant.data_dir().join("elsewhere");
    // A file takes the place of the backup folder.
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, "in the way").unwrap();
    let (status, said) = rotate(merchant, json!({ "retire_after_secs": 0 })).await;
    assert_eq!(status, 409, "{said}");
    assert!(said.contains("force"), "{said}");
    let after = fs::read_to_string(&key).unwrap();
    assert_eq!(after.lines().count(), 1, "no key has retired");
    assert!(after.contains(before.trim()));
    let (status, said) = rotate(merchant, json!({ "force": true })).await;
    assert_eq!(status, 200, "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["backup"].is_null(), "{said}");
    assert_eq!(said["keys"].as_array().unwrap().len(), 2, "{said}");
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    let (status, said) = rotate(merchant, json!({})).await;
    assert_eq!(status, 200, "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    let backup = PathBuf::from(said["backup"].as_str().unwrap());
    let restored = backed_up.dir.path().join("restored");
    let mut restore = tollhouse(&["backup", "restore"]);
    restore.arg(&backup);
    restore.args([
        "--words-file",
        merchant.data_dir().join("seed.words").to_str().unwrap(),
    ]);
    restore.args(["--data-dir", restored.to_str().unwrap()]);
    let told = done(&mut restore);
    assert!(told.contains("revoked since then open again"), "{told}");
    let in_it = fs::read_to_string(restored.join("master.key")).unwrap();
    assert_eq!(in_it, fs::read_to_string(&key).unwrap());
    assert_eq!(in_it.lines().count(), 3);
}

#[tokio::test]
async fn a_backup_follows_a_revocation_even_after_a_kill_but_not_each_of_a_hundred() {
    let mut backed_up = BackedUp::new().await;
    let merchant = &mut backed_up.merchant;
    let count = || async {
        let status = merchant.admin().status().await.unwrap();
        status["backup"]["count"].as_u64().unwrap()
    };
    let before = count().await;
    for number in 0..100 {
        let path = format!("/tokens/{number:064x}/revoke");
        let (status, said) = merchant.admin().call(Method::POST, &path).await.unwrap();
        assert_eq!(status, 200, "{said}");
    }
    // A backup was made a moment ago: the next one is due in minutes, or at once after a start.
    assert!(count().await <= before + 1);
    let before = count().await;
    merchant.kill().unwrap();
    merchant.restart().await.unwrap();
    merchant.wait_up().await.unwrap();
    let merchant = &*merchant;
    eventually(
        "a backup of the revocations",
        Duration::from_secs(60),
        || async {
            let status = merchant.admin().status().await;
            let backup = status.map_err(|error| format!("{error:#}"))?["backup"].clone();
            let is_made = backup["count"].as_u64() > Some(before);
            is_made.then_some(Some(())).ok_or(backup.to_string())
        },
    )
    .await
    .unwrap();
}

async fn rotate(merchant: &Merchant, body: Value) -> (StatusCode, String) {
    let (admin, client) = (merchant.admin(), Client::new().unwrap());
    let url = format!("{}/keys/rotate", admin.url());
    let request = client
        .request(Method::POST, &url)
        .bearer_auth(admin.token().unwrap())
        .header("content-type", "application/json")
        .body(body.to_string());
    let answer = client.send(request).await.unwrap();
    (answer.status, answer.text())
}
