//! Backups when something goes wrong around them: everything is lost, a command is stopped half-way, a newer one is elsewhere.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use regtest::wait::eventually;
use serde_json::Value;

use crate::backup::{BackedUp, back_up, done, refuses, tollhouse, wait_for_state};

/// Reading some hundred kilobytes, or ending after a signal.
const DEADLINE: Duration = Duration::from_secs(30);

/// A file of the operator's own in the data folder: so much of it that what stands before it in a backup is read when a reader
/// waits within it.
const NOTES: &str = "zz.notes";
const NOTES_BYTES: usize = 900_000;

/// A backup that comes through a pipe, and never ends: whoever reads it stands in the middle.
struct Dripping {
    path: PathBuf,
    /// Told when all of it but the end has been taken.
    taken: mpsc::Receiver<()>,
    _end: mpsc::Sender<()>,
}

impl Dripping {
    fn new(backup: &Path, folder: &Path) -> Self {
        let path = folder.join(backup.file_name().unwrap());
        done(Command::new("mkfifo").arg(&path));
        let mut bytes = fs::read(backup).unwrap();
        bytes.truncate(bytes.len() - 100);
        let (tell, taken) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let pipe = path.clone();
        std::thread::spawn(move || {
            let mut pipe = fs::File::options().write(true).open(pipe).unwrap();
            // Whoever is killed takes no more of it.
            let _ = pipe.write_all(&bytes);
            let _ = tell.send(());
            let _ = ended.recv();
        });
        Self {
            path,
            taken,
            _end: end,
        }
    }

    fn wait(&self) {
        self.taken.recv_timeout(DEADLINE).unwrap();
    }
}

impl BackedUp {
    fn data_dir(&self) -> PathBuf {
        self.merchant.data_dir().to_owned()
    }

    /// A copy of the words that outlives the data folder.
    fn words(&self) -> PathBuf {
        let words = self.dir.path().join("words");
        if !words.exists() {
            fs::copy(self.data_dir().join("seed.words"), &words).unwrap();
        }
        words
    }

    fn restore(&self, file: &Path) -> Command {
        let mut command = tollhouse(&["backup", "restore"]);
        command
            .arg(file)
            .arg("--words-file")
            .arg(self.words())
            .arg("--config")
            .arg(self.merchant.settings_file());
        command
    }

    /// A backup with notes in it.
    fn with_notes(&self) -> PathBuf {
        let notes = self.data_dir().join(NOTES);
        fs::write(notes, vec![b'x'; NOTES_BYTES]).unwrap();
        back_up(&self.merchant, &self.dir.path().join("noted"))
    }

    async fn backup_status(&self) -> Value {
        self.merchant.admin().status().await.unwrap()["backup"].clone()
    }

    /// What the doctor finds of backups, one finding a line.
    fn doctor(&self) -> String {
        let output = tollhouse(&["doctor", "--config"])
            .arg(self.merchant.settings_file())
            .output()
            .unwrap();
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = findings["findings"].as_array().unwrap().iter();
        let lines = findings
            .filter(|finding| finding["what"].as_str().unwrap().starts_with("backup"))
            .map(|finding| format!("{}: {}\n", finding["grade"], finding["found"]));
        lines.collect()
    }
}

fn spawned(mut command: Command) -> Child {
    let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

async fn ends(child: &mut Child) -> Option<i32> {
    let ended = eventually("the command to end", DEADLINE, || {
        let state = child.try_wait();
        async move { state }
    });
    ended.await.unwrap().code()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<_> = files(folder).iter().map(name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_node_that_is_begun_anew_from_its_words_lets_go_of_no_backup_that_it_did_not_make() {
    let mut backed_up = BackedUp::with("backup.folder = \"../kept\"\nbackup.keep = 1").await;
    let kept = backed_up.dir.path().join("kept");
    let words = fs::read_to_string(backed_up.words()).unwrap();
    backed_up.merchant.kill().unwrap();
    let lost = names(&kept);
    let data_dir = backed_up.data_dir();
    fs::remove_dir_all(&data_dir).unwrap();

    fs::DirBuilder::new().mode(0o700).create(&data_dir).unwrap();
    tollhouse::base::secret_file::write_new(&data_dir.join("seed.words"), words.trim()).unwrap();
    backed_up.merchant.restart().await.unwrap();
    backed_up.merchant.wait_up().await.unwrap();
    wait_for_state(&backed_up.merchant).await;
    for _ in 0..3 {
        done(tollhouse(&["backup", "create", "--config"]).arg(backed_up.merchant.settings_file()));
    }
    let left = names(&kept);
    assert!(
        lost.iter().all(|lost| left.contains(lost)),
        "{lost:?} in {left:?}"
    );
    let backup = backed_up.backup_status().await;
    assert_eq!(backup["others"], lost.len(), "{backup}");
    assert_eq!(backup["newest_other"], *lost.last().unwrap(), "{backup}");
    // Its own are let go as ever, but for the one that is known to be good.
    assert!(left.len() <= lost.len() + 2, "{left:?}");
    let newest = backup["newest"].as_str().unwrap();
    assert!(
        newest.ends_with(left.last().unwrap()),
        "{newest} of {left:?}"
    );
    let told = backed_up.doctor();
    assert!(
        told.contains("\"look\"") && told.contains(lost.last().unwrap()),
        "{told}"
    );
    assert!(backed_up.merchant.terminate().await.unwrap().success());
    let told = backed_up.doctor();
    assert!(
        told.contains(lost.last().unwrap()),
        "also while it is stopped: {told}"
    );
}

#[tokio::test]
async fn the_doctor_says_that_the_store_has_no_backup() {
    let settings = "[backup.s3]\nendpoint = \"http://127.0.0.1:1\"\nregion = \"r\"\nbucket = \"b\"\naccess_key = \"a\"\n\
        secret_key_file = \"../s3.secret\"";
    let backed_up = BackedUp::with(settings).await;
    eventually("a store that cannot be reached", DEADLINE, || async {
        let backup = backed_up.backup_status().await;
        let error = backup["s3"]["error"].as_str();
        match error {
            Some(error) if error.contains("cannot be reached") => Ok(Some(())),
            _ => Err(backup.to_string()),
        }
    })
    .await
    .unwrap();
    let told = backed_up.doctor();
    assert!(
        told.contains("\"bad\": \"the newest is not in the store"),
        "{told}"
    );
}

#[tokio::test]
async fn a_verification_that_is_interrupted_leaves_nothing_and_no_secret_is_ever_on_the_disk() {
    let backed_up = BackedUp::with("").await;
    let words = fs::read_to_string(backed_up.words()).unwrap();
    let noted = backed_up.with_notes();
    let pipes = backed_up.dir.path().join("pipes");
    fs::create_dir(&pipes).unwrap();
    let scratch = || {
        let entries = fs::read_dir(backed_up.data_dir()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_scratch = |path: &PathBuf| path.to_str().unwrap().contains("tollhouse-scratch-");
        paths.filter(is_scratch).collect::<Vec<_>>()
    };
    let dripping = Dripping::new(&noted, &pipes);
    let mut verifying = spawned(backed_up.verify(&dripping.path));
    dripping.wait();
    let there = scratch();
    let [folder] = &*there else {
        panic!("{there:?}")
    };
    let unpacked = files(folder);
    assert!(
        unpacked
            .iter()
            .any(|file| file.ends_with("node/ldk_node_data.sqlite"))
    );
    for file in &unpacked {
        let bytes = fs::read(file).unwrap();
        let has = |secret: &str| {
            bytes
                .windows(12)
                .any(|window| window == &secret.as_bytes()[..12])
        };
        assert!(!has(&words) && !has("xxxxxxxxxxxx"), "{}", file.display());
    }
    done(Command::new("sh").args(["-c", "kill -s INT \"$0\"", &verifying.id().to_string()]));
    assert_eq!(ends(&mut verifying).await, Some(1));
    assert_eq!(scratch(), Vec::<PathBuf>::new());

    // Killed outright it clears nothing, and the next one does.
    fs::remove_file(&dripping.path).unwrap();
    let dripping = Dripping::new(&noted, &pipes);
    let mut verifying = spawned(backed_up.verify(&dripping.path));
    dripping.wait();
    verifying.kill().unwrap();
    verifying.wait().unwrap();
    assert_eq!(scratch().len(), 1);
    done(&mut backed_up.verify(&noted));
    assert_eq!(scratch(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_restore_that_is_killed_leaves_nothing_from_which_a_node_would_start() {
    let mut backed_up = BackedUp::with("").await;
    let noted = backed_up.with_notes();
    let pipes = backed_up.dir.path().join("pipes");
    fs::create_dir(&pipes).unwrap();
    backed_up.words();
    assert!(backed_up.merchant.terminate().await.unwrap().success());
    let data_dir = backed_up.data_dir();
    fs::remove_dir_all(&data_dir).unwrap();
    let dripping = Dripping::new(&noted, &pipes);
    let mut restoring = spawned(backed_up.restore(&dripping.path));
    dripping.wait();
    restoring.kill().unwrap();
    restoring.wait().unwrap();

    // Somebody takes what is left for the restored folder.
    fs::rename(data_dir.with_file_name("data.restoring"), &data_dir).unwrap();
    assert!(data_dir.join("seed.words").exists());
    let log = fs::read(backed_up.merchant.log()).unwrap().len();
    backed_up.merchant.restart().await.unwrap();
    let ended = backed_up.merchant.wait_ended().await.unwrap();
    assert_eq!(ended.code(), Some(1));
    let said = fs::read(backed_up.merchant.log()).unwrap();
    let said = String::from_utf8_lossy(&said[log..]).into_owned();
    assert!(said.contains("restore the newest backup"), "{said}");

    // The next restore clears it, and is whole.
    fs::rename(&data_dir, data_dir.with_file_name("data.restoring")).unwrap();
    done(&mut backed_up.restore(&noted));
    backed_up.merchant.restart().await.unwrap();
    backed_up.merchant.wait_up().await.unwrap();
}

#[tokio::test]
async fn a_backup_is_not_taken_for_the_newest_where_a_newer_one_is_in_sight() {
    let mut backed_up = BackedUp::with("backup.folder = \"../kept\"").await;
    backed_up.words();
    assert!(backed_up.merchant.terminate().await.unwrap().success());
    let elsewhere = backed_up.dir.path().join("one");
    let older = back_up(&backed_up.merchant, &elsewhere);
    let newer = back_up(&backed_up.merchant, &backed_up.dir.path().join("other"));
    fs::remove_dir_all(backed_up.data_dir()).unwrap();
    let sure = |file: &Path| {
        let mut command = backed_up.restore(file);
        command.arg("--i-am-sure-it-is-the-newest");
        command
    };
    let name = newer.file_name().unwrap().to_str().unwrap();
    // It is in the folder of the settings.
    refuses(&mut sure(&older), &format!("there is {name} in"));
    // Or beside it, without settings.
    let restored = backed_up.dir.path().join("restored");
    let alone = |file: &Path| {
        let mut command = tollhouse(&["backup", "restore", "--i-am-sure-it-is-the-newest"]);
        command.arg(file).arg("--words-file").arg(backed_up.words());
        command.arg("--data-dir").arg(&restored);
        command
    };
    fs::copy(&newer, elsewhere.join(name)).unwrap();
    refuses(&mut alone(&older), &format!("there is {name} in"));
    assert!(!backed_up.data_dir().exists() && !restored.exists());
    fs::remove_file(elsewhere.join(name)).unwrap();
    done(&mut alone(&older));
    // A recovery is not refused, and hears of it.
    fs::remove_dir_all(&restored).unwrap();
    let said = done(&mut backed_up.restore(&older));
    assert!(
        said.contains("is not the newest") && said.contains(name),
        "{said}"
    );
    fs::remove_dir_all(backed_up.data_dir()).unwrap();
    done(&mut sure(&newer));
}

#[tokio::test]
async fn a_backup_of_a_node_in_recovery_says_so() {
    let mut backed_up = BackedUp::with("").await;
    let said = done(&mut backed_up.verify(&backed_up.file));
    assert!(said.contains("recovery          none"), "{said}");
    backed_up.words();
    backed_up.merchant.kill().unwrap();
    fs::remove_dir_all(backed_up.data_dir()).unwrap();
    done(&mut backed_up.restore(&backed_up.file));
    // Only of a stopped program: a running one makes none meanwhile.
    let file = back_up(
        &backed_up.merchant,
        &backed_up.dir.path().join("recovering"),
    );
    let said = done(&mut backed_up.verify(&file));
    assert!(said.contains("UNDER WAY when it was made"), "{said}");
}

#[tokio::test]
async fn a_backup_that_hangs_is_seen_and_keeps_no_status_waiting() {
    let backed_up = BackedUp::with("").await;
    // Whoever reads it waits, as on a disk of a machine that is gone.
    let settings = backed_up.merchant.settings_file();
    fs::remove_file(settings).unwrap();
    done(Command::new("mkfifo").arg(settings));
    let seen = eventually("a backup that is under way", DEADLINE, || async {
        let backup = backed_up.backup_status().await;
        match backup["busy_secs"].as_u64() {
            Some(1..) => Ok(Some(())),
            Some(0) | None => Err(backup.to_string()),
        }
    });
    tokio::select! {
        seen = seen => seen.unwrap(),
        answer = backed_up.merchant.admin().call(http::Method::POST, "/backup") => panic!("{answer:?}"),
    }
}
