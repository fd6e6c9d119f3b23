//! Tests of the store's promises, except for power cuts and failing disks.

use ldk_node::io::sqlite_store::SqliteStore;
use lightning::util::persist::CHANNEL_MANAGER_PERSISTENCE_KEY;
use lightning::util::persist::CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE as UPDATES;

use super::*;

fn ldk_nodes_own(folder: &Path) -> SqliteStore {
    SqliteStore::new(
        folder.to_owned(),
        Some(SQLITE_DB_FILE_NAME.to_owned()),
        Some(KV_TABLE_NAME.to_owned()),
    )
    .unwrap()
}

fn open(folder: &Path) -> Rows {
    super::super::database::prepare(folder).unwrap();
    Rows::open(folder, Complaint::default()).unwrap()
}

#[test]
fn what_is_written_is_read_listed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let rows = open(folder.path());
    let missing = KVStoreSync::read(&rows, "a", "b", "key").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    for value in [b"one".to_vec(), b"two".to_vec()] {
        KVStoreSync::write(&rows, "a", "b", "key", value.clone()).unwrap();
        assert_eq!(KVStoreSync::read(&rows, "a", "b", "key").unwrap(), value);
    }
    KVStoreSync::write(&rows, "a", "", "other", vec![]).unwrap();
    assert_eq!(KVStoreSync::list(&rows, "a", "b").unwrap(), ["key"]);
    assert_eq!(KVStoreSync::list(&rows, "c", "").unwrap(), [""; 0]);
    for lazy in [true, false] {
        KVStoreSync::remove(&rows, "a", "b", "key", lazy).unwrap();
    }
    assert_eq!(KVStoreSync::list(&rows, "a", "b").unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_last_call_wins_whatever_order_the_futures_end_in() {
    let folder = tempfile::tempdir().unwrap();
    let rows = open(folder.path());
    let first = KVStore::write(&rows, "a", "", "key", b"first".to_vec());
    let second = KVStore::write(&rows, "a", "", "key", b"second".to_vec());
    second.await.unwrap();
    first.await.unwrap();
    assert_eq!(
        KVStore::read(&rows, "a", "", "key").await.unwrap(),
        b"second"
    );
    // A future does its write even if it is dropped.
    drop(KVStore::remove(&rows, "a", "", "key", false));
    assert!(KVStore::list(&rows, "a", "").await.unwrap().is_empty());
}

#[test]
fn ldk_nodes_own_store_reads_what_this_one_wrote_and_the_other_way_round() {
    let folder = tempfile::tempdir().unwrap();
    let rows = open(folder.path());
    KVStoreSync::write(&rows, "", "", "manager", b"ours".to_vec()).unwrap();
    drop(rows);
    let own = ldk_nodes_own(folder.path());
    assert_eq!(KVStoreSync::read(&own, "", "", "manager").unwrap(), b"ours");
    KVStoreSync::write(&own, "", "", "manager", b"theirs".to_vec()).unwrap();
    drop(own);
    let rows = open(folder.path());
    assert_eq!(
        KVStoreSync::read(&rows, "", "", "manager").unwrap(),
        b"theirs"
    );
}

#[test]
fn a_power_cut_takes_nothing_that_was_promised() {
    let folder = tempfile::tempdir().unwrap();
    let rows = open(folder.path());
    let log = folder.path().join(format!("{SQLITE_DB_FILE_NAME}-wal"));
    let mut promised = Vec::new();
    for number in 0..40_u8 {
        let value = vec![number; 700];
        // Scores are not synced themselves, but the sync of a later write covers them.
        KVStoreSync::write(&rows, "", "", "scorer", value.clone()).unwrap();
        KVStoreSync::write(&rows, UPDATES, "channel", &number.to_string(), value).unwrap();
        promised.push(std::fs::metadata(&log).unwrap().len());
    }
    for (number, length) in promised.iter().enumerate() {
        let left = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
        }
        let cut = left.path().join(log.file_name().unwrap());
        std::fs::File::options()
            .write(true)
            .open(&cut)
            .unwrap()
            .set_len(*length)
            .unwrap();
        let rows = open(left.path());
        let updates = KVStoreSync::list(&rows, UPDATES, "channel").unwrap();
        assert_eq!(updates.len(), number + 1);
        let scores = KVStoreSync::read(&rows, "", "", "scorer").unwrap();
        assert_eq!(usize::from(scores[0]), number);
    }
}

/// Writes rows of the sizes that LDK writes for a payment over the only channel, in LDK's order.
fn write_a_payment(rows: &Rows, update: &mut u32) {
    // As long as a channel's key.
    let channel = "c".repeat(66);
    for (manager, updates) in [
        (6_084, 1),
        (5_071, 1),
        (5_071, 1),
        (5_083, 1),
        (4_365, 0),
        (4_573, 1),
    ] {
        for _ in 0..updates {
            *update += 1;
            if update.is_multiple_of(100) {
                KVStoreSync::write(rows, "monitors", "", &channel, vec![7; 40_000]).unwrap();
                for old in *update - 100..=*update {
                    let key = old.to_string();
                    KVStoreSync::remove(rows, UPDATES, &channel, &key, true).unwrap();
                }
            } else {
                let bytes = [99, 747, 749, 263, 693][*update as usize % 5];
                let key = update.to_string();
                KVStoreSync::write(rows, UPDATES, &channel, &key, vec![1; bytes]).unwrap();
            }
        }
        KVStoreSync::write(rows, "", "", "manager", vec![2; manager]).unwrap();
    }
    for events in [82, 2] {
        KVStoreSync::write(rows, "", "", "events", vec![3; events]).unwrap();
    }
}

#[test]
fn a_sale_writes_at_most_a_hundred_and_fifty_kilobytes_of_log() {
    let folder = tempfile::tempdir().unwrap();
    let rows = open(folder.path());
    let log = folder.path().join(format!("{SQLITE_DB_FILE_NAME}-wal"));
    let mut update = 0;
    write_a_payment(&rows, &mut update);
    let before = std::fs::metadata(&log).unwrap().len();
    for _ in 0..20 {
        write_a_payment(&rows, &mut update);
    }
    let written = std::fs::metadata(&log).unwrap().len() - before;
    // The log has not restarted.
    assert!(written + before < u64::from(moving::LOG_BYTES));
    assert!(written / 20 < 150_000, "{}", written / 20);
}

#[test]
fn an_update_that_is_let_go_of_is_gone_for_every_reader_and_a_later_one_of_its_name_stays() {
    let folder = tempfile::tempdir().unwrap();
    let rows = open(folder.path());
    let write = |key: &str, value: &[u8]| {
        KVStoreSync::write(&rows, UPDATES, "channel", key, value.to_vec()).unwrap();
    };
    let let_go = |key: &str| KVStoreSync::remove(&rows, UPDATES, "channel", key, true).unwrap();
    for number in 0..300 {
        write(&number.to_string(), b"update");
    }
    for number in 0..300 {
        let_go(&number.to_string());
    }
    assert!(rows.0.waiting().stale() < waiting::STALE_MAX);
    assert!(KVStoreSync::read(&rows, UPDATES, "channel", "299").is_err());
    write("1", b"first");
    let_go("1");
    write("1", b"second");
    assert_eq!(
        KVStoreSync::read(&rows, UPDATES, "channel", "1").unwrap(),
        b"second"
    );
    let_go("1");
    assert!(
        KVStoreSync::list(&rows, UPDATES, "channel")
            .unwrap()
            .is_empty()
    );
    // A lazy removal of any other row goes to the log at once.
    KVStoreSync::write(&rows, "monitors", "", "channel", vec![1]).unwrap();
    KVStoreSync::remove(&rows, "monitors", "", "channel", true).unwrap();
    assert!(rows.0.waiting().stale() == 0);
}

#[test]
fn nothing_that_anybody_relies_on_is_put_off() {
    for (primary, key) in [
        ("", "output_sweeper"),
        ("", "peers"),
        ("monitors", "events"),
        ("monitors", "manager"),
        ("monitor_updates", "node_metrics"),
        ("payments", "scorer"),
        ("bdk_wallet", "indexer"),
    ] {
        assert_eq!(Wait::of(primary, key), Wait::Done, "{primary}/{key}");
    }
    assert_eq!(Wait::of("", "manager"), Wait::Begun);
    assert_eq!(Wait::of("", "events"), Wait::Not);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_closed_complains_of_nothing() {
    let mut said = Vec::new();
    for _ in 0..300 {
        let folder = tempfile::tempdir().unwrap();
        super::super::database::prepare(folder.path()).unwrap();
        let complaint = Complaint::default();
        let rows = Rows::open(folder.path(), complaint.clone()).unwrap();
        drop(KVStore::write(
            &rows,
            "",
            "",
            CHANNEL_MANAGER_PERSISTENCE_KEY,
            vec![1],
        ));
        drop(rows);
        for _ in 0..20 {
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
        said.extend(complaint.borrow().clone());
    }
    assert!(said.is_empty(), "{} of 300: {}", said.len(), said[0]);
}

#[test]
fn metrics_wait_for_another_write_or_for_whoever_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let rows = open(folder.path());
    let write = |key: &str, value: &[u8]| {
        KVStoreSync::write(&rows, "", "", key, value.to_owned()).unwrap();
    };
    // The metrics that another connection sees.
    let file = Connection::open(folder.path().join(SQLITE_DB_FILE_NAME)).unwrap();
    let written = || {
        let query = format!("SELECT value FROM {KV_TABLE_NAME} WHERE key='node_metrics'");
        let found = file.query_row(&query, [], |row| row.get::<_, Vec<u8>>(0));
        String::from_utf8(found.unwrap()).unwrap()
    };
    write("node_metrics", b"1");
    assert_eq!(written(), "1", "the first of a run");
    write("node_metrics", b"2");
    write("node_metrics", b"3");
    assert_eq!(written(), "1");
    write("manager", b"m");
    assert_eq!(written(), "3");
    write("node_metrics", b"4");
    assert_eq!(written(), "3");
    assert_eq!(
        KVStoreSync::read(&rows, "", "", "node_metrics").unwrap(),
        b"4"
    );
    assert_eq!(written(), "4");
    // The wait for another write is over.
    write("node_metrics", b"5");
    rows.0.waiting().forget_written();
    write("node_metrics", b"6");
    assert_eq!(written(), "6");
    write("manager", b"m");
    assert_eq!(written(), "6", "an older one never comes behind it");
}
