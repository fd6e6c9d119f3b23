//! A data folder of which something is gone: no node is begun in the place of another, and no books without a word.

use std::path::{Path, PathBuf};

use bitcoin::Network;
use regtest::wait::eventually;
use tempfile::TempDir;
use tollhouse::AppError;
use tollhouse::Tollhouse;
use tollhouse::account::ledger::{self, Ledger};
use tollhouse::base::clock::Clock;
use tollhouse::keys::NodeKeys;

use crate::embedded::{folder, settings};
use crate::support::DEADLINE;
use crate::support::log::Log;

fn data(dir: &TempDir) -> PathBuf {
    dir.path().join("tollhouse-data")
}

/// A program without a chain, until its node is made.
async fn runs(dir: &TempDir) {
    let tollhouse = match Tollhouse::start(settings(dir)).await {
        Ok(tollhouse) => tollhouse,
        Err(error) => panic!("{error}"),
    };
    let mark = data(dir).join("node.made");
    let made = eventually("the node to be made", DEADLINE, || async {
        Ok::<_, String>(mark.exists().then_some(()))
    });
    made.await.unwrap();
    tollhouse.stop().await.unwrap();
}

/// What is said instead of a start; whatever is in the folder stays as it is.
async fn refuses(dir: &TempDir) -> String {
    let node = data(dir).join("node");
    let before = names(&node);
    let said = match Tollhouse::start(settings(dir)).await {
        Err(error @ AppError::NodeLost { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it starts"),
    };
    assert_eq!(names(&node), before);
    assert!(said.contains("would forget its channels"), "{said}");
    said
}

fn names(folder: &Path) -> Option<Vec<String>> {
    let entries = std::fs::read_dir(folder).ok()?;
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    Some(names)
}

/// A folder with a seed, as the first start leaves it that is killed before it has a node, or `init`.
fn with_seed(more: &str) -> TempDir {
    let dir = folder(more);
    tollhouse_folder(&data(&dir));
    NodeKeys::open(&data(&dir).join("seed.words"), Network::Regtest).unwrap();
    let key = hex::encode([7; 32]);
    tollhouse::base::secret_file::write_new(&data(&dir).join("master.key"), &key).unwrap();
    dir
}

fn tollhouse_folder(path: &Path) {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}

fn books(dir: &TempDir) -> Ledger {
    let config = ledger::Config {
        folder: data(dir).join("ledger"),
        challenges_max: 10,
        quotas_max: 10,
    };
    Ledger::open(&config, Clock::system()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_folder_is_gone_is_not_begun_anew() {
    let dir = folder("");
    runs(&dir).await;
    runs(&dir).await;
    let (node, away) = (data(&dir).join("node"), data(&dir).join("node.away"));
    std::fs::rename(&node, &away).unwrap();
    assert!(refuses(&dir).await.contains("node.made says so"));
    // Nor if something else has made the folder again.
    std::fs::create_dir(&node).unwrap();
    std::fs::write(node.join("chain.json"), "{}").unwrap();
    refuses(&dir).await;
    std::fs::remove_dir_all(&node).unwrap();
    std::fs::rename(&away, &node).unwrap();
    runs(&dir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_and_the_backups_know_of_a_node_that_is_gone() {
    let dir = with_seed("");
    let ledger = books(&dir);
    ledger.open_channel([7; 32], None).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    assert!(refuses(&dir).await.contains("a channel that is not closed"));

    let keys = NodeKeys::open(&data(&dir).join("seed.words"), Network::Regtest).unwrap();
    let node_id = keys.payment_keys().node_id().to_string();
    let name = format!("tollhouse-{}-20261125T031500Z.backup", &node_id[..16]);
    std::fs::create_dir(data(&dir).join("backups")).unwrap();
    std::fs::write(data(&dir).join("backups").join(&name), "").unwrap();
    assert!(refuses(&dir).await.contains(&name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_a_server_is_not_begun_anew_either() {
    let vss = "node.vss = { url = \"http://127.0.0.1:1/vss\", store_id = \"shop\" }\n";
    let dir = with_seed(vss);
    // What its first start notes, once there is a node.
    std::fs::write(data(&dir).join("node.made"), "").unwrap();
    refuses(&dir).await;
    // The settings do not say any more that there is a server.
    let without = folder("");
    std::fs::copy(settings(&without), settings(&dir)).unwrap();
    refuses(&dir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_never_was_a_node_one_is_begun() {
    // After `init`, also with the words of another node.
    let dir = with_seed("");
    runs(&dir).await;

    // A first start that was killed half-way, and books of channels that are all closed.
    let dir = with_seed("");
    std::fs::create_dir(data(&dir).join("node")).unwrap();
    let ledger = books(&dir);
    ledger.open_channel([7; 32], None).unwrap();
    assert!(ledger.close_channel([7; 32], "done").unwrap());
    ledger.close().unwrap();
    drop(ledger);
    runs(&dir).await;

    // Whoever has only the words left, and backups elsewhere that cannot be read.
    let kept = tempfile::tempdir().unwrap();
    let dir = with_seed(&format!("backup.folder = {:?}\n", kept.path()));
    let keys = NodeKeys::open(&data(&dir).join("seed.words"), Network::Regtest).unwrap();
    let node_id = keys.payment_keys().node_id().to_string();
    let name = format!("tollhouse-{}-20261125T031500Z.backup", &node_id[..16]);
    std::fs::write(kept.path().join(name), "").unwrap();
    runs(&dir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_are_gone_begin_anew_and_it_is_said_what_that_means() {
    let (log, listening) = Log::listen();
    let dir = folder("");
    runs(&dir).await;
    runs(&dir).await;
    assert!(!log.text().contains("are gone and begin anew"));
    std::fs::remove_dir_all(data(&dir).join("ledger")).unwrap();
    runs(&dir).await;
    drop(listening);
    let said = log.text();
    for part in [
        "ERROR",
        "are gone and begin anew",
        "used up or revoked are good again",
        "take `ledger` from there",
    ] {
        assert!(said.contains(part), "`{part}` in: {said}");
    }
}
