//! Damage: a store that is gone, cut, garbled or spoilt is rebuilt from journal and dump, and nothing is revived.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tollhouse::account::ledger::{LedgerError, Settlement};
use tollhouse::account::store::StoreError;

use crate::support::books::{
    Books, PRICE_MSAT, account, challenge, copy_folder, find_sale, payment, token, totals,
    use_once, uses_left, with_surplus,
};

/// Sales, counts, a used-up token, a surplus and a closed channel, all closed cleanly.
pub(crate) async fn a_full_account() -> Books {
    let books = Books::new();
    let ledger = books.open();
    for number in 1..=5 {
        ledger.challenge(challenge(number, &books.clock));
        books.clock.advance(Duration::from_secs(1));
        ledger.settle(payment(number)).unwrap();
    }
    ledger.settle(payment(5)).unwrap();
    assert_eq!(uses_left(&ledger, &token(1, Some(3))).await, 3);
    assert!(use_once(&ledger, &token(2, Some(3))).await);
    ledger.write_behind().unwrap();
    assert!(use_once(&ledger, &token(2, Some(3))).await);
    ledger.open_channel([8; 32], None).unwrap();
    ledger.open_channel([9; 32], Some("02".repeat(33))).unwrap();
    assert!(ledger.close_channel([9; 32], "a test").unwrap());
    ledger.close().unwrap();
    books
}

/// Opens what is left, and finds all of it.
async fn assert_full_account(damaged: &Books, what: &str) {
    let intact = a_full_account().await;
    let expected = account(&intact.open());
    let ledger = damaged
        .try_open()
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(account(&ledger), expected, "{what}");
    assert_eq!(
        ledger.totals(),
        with_surplus(totals(5, 5 * PRICE_MSAT), PRICE_MSAT),
        "{what}"
    );
    assert_eq!(find_sale(&ledger, 5).surplus_msat, PRICE_MSAT, "{what}");
    let closed = ledger.closed_channels(10).unwrap();
    assert_eq!(closed.len(), 1, "{what}");
    assert_eq!(closed[0].reason.as_deref(), Some("a test"), "{what}");
    assert_eq!(
        uses_left(&ledger, &token(1, Some(3))).await,
        0,
        "{what}: revived"
    );
    assert_eq!(uses_left(&ledger, &token(2, Some(3))).await, 1, "{what}");
    assert_eq!(
        ledger.settle(payment(3)).unwrap(),
        Settlement::Known,
        "{what}"
    );
    ledger.close().unwrap();
    drop(ledger);
    assert_eq!(account(&damaged.open()), expected, "{what}, once more");
}

type Damage = (&'static str, fn(&Path));

const DAMAGES: &[Damage] = &[
    ("no damage", |_| {}),
    ("store deleted", |store| {
        std::fs::remove_dir_all(store).unwrap()
    }),
    ("database deleted", |store| {
        std::fs::remove_file(store.join("db")).unwrap()
    }),
    ("database empty", |store| truncate(&store.join("db"), |_| 0)),
    ("database halved", |store| {
        truncate(&store.join("db"), |length| length / 2)
    }),
    ("a quarter of the database cut", |store| {
        truncate(&store.join("db"), |length| length / 4 * 3)
    }),
    ("an eighth of the database left", |store| {
        truncate(&store.join("db"), |length| length / 8)
    }),
    ("database's last byte cut", |store| {
        truncate(&store.join("db"), |length| length - 1)
    }),
    ("database's first KB garbled", |store| {
        garble(&store.join("db"), 0, 1_024)
    }),
    ("database's records garbled", |store| {
        garble(&store.join("db"), 1_024, 8_192)
    }),
    ("snapshots deleted", |store| {
        each_snapshot(store, |path| std::fs::remove_file(path).unwrap())
    }),
    ("snapshots garbled", |store| {
        each_snapshot(store, |path| garble(path, 0, 64))
    }),
    ("snapshots empty", |store| {
        each_snapshot(store, |path| truncate(path, |_| 0))
    }),
    ("configuration deleted", |store| {
        std::fs::remove_file(store.join("conf")).unwrap()
    }),
];

fn truncate(file: &Path, length: fn(u64) -> u64) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    let before = file.metadata().unwrap().len();
    file.set_len(length(before)).unwrap();
}

fn garble(file: &Path, from: usize, to: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let to = to.min(bytes.len());
    for byte in &mut bytes[from.min(to)..to] {
        *byte ^= 0xa5;
    }
    std::fs::write(file, bytes).unwrap();
}

fn each_snapshot(store: &Path, damage: impl Fn(&Path)) {
    for entry in std::fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("snap.")
        {
            damage(&path);
        }
    }
}

#[tokio::test]
async fn a_damaged_store_is_rebuilt_with_sales_counts_and_totals() {
    let intact = a_full_account().await;
    for (what, damage) in DAMAGES {
        let damaged = intact.copy();
        damage(&damaged.file("store"));
        assert_full_account(&damaged, what).await;
    }
}

/// Makes the journal so long that it is folded into a dump.
pub(crate) fn folded(books: &Books) {
    let journal = books.file("journal.log");
    let mut file = std::fs::File::options()
        .append(true)
        .open(&journal)
        .unwrap();
    // Lines that cannot be read are passed over.
    file.write_all(&vec![b'-'; 16 * 1024 * 1024]).unwrap();
    file.write_all(b"\n").unwrap();
    let ledger = books.open();
    ledger.write_behind().unwrap();
    ledger.close().unwrap();
    assert_eq!(std::fs::metadata(&journal).unwrap().len(), 0);
}

#[tokio::test]
async fn a_damaged_store_is_rebuilt_from_a_dump_too() {
    let intact = a_full_account().await;
    folded(&intact);
    for (what, damage) in DAMAGES {
        let damaged = intact.copy();
        damage(&damaged.file("store"));
        assert_full_account(&damaged, what).await;
    }
}

/// sled recovers a cut log by going back, and says nothing.
#[tokio::test]
async fn a_store_that_went_back_is_brought_up_again_from_the_dump() {
    let books = Books::new();
    let ledger = books.open();
    ledger.settle(payment(4)).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let before = books.copy();
    let full = a_full_account().await;
    folded(&full);
    std::fs::remove_dir_all(full.file("store")).unwrap();
    copy_folder(&before.file("store"), &full.file("store"));
    assert_eq!(
        full.open().totals(),
        with_surplus(totals(5, 5 * PRICE_MSAT), PRICE_MSAT)
    );
    assert_eq!(
        uses_left(&full.open(), &token(1, Some(3))).await,
        0,
        "revived"
    );
}

#[tokio::test]
async fn a_kill_within_a_fold_changes_nothing() {
    let intact = a_full_account().await;
    let (journal, dump) = (intact.file("journal.log"), intact.file("dump.jsonl"));
    let lines = std::fs::read(&journal).unwrap();
    folded(&intact);
    // The dump is in force, and the journal was not emptied yet.
    let killed = intact.copy();
    std::fs::write(killed.file("journal.log"), &lines).unwrap();
    assert_full_account(&killed, "journal behind the dump").await;
    // The dump is half written, under its other name.
    let killed = intact.copy();
    std::fs::remove_file(killed.file("dump.jsonl")).unwrap();
    std::fs::write(
        killed.file("dump.new"),
        &std::fs::read(&dump).unwrap()[..100],
    )
    .unwrap();
    std::fs::write(killed.file("journal.log"), &lines).unwrap();
    assert_full_account(&killed, "half a dump").await;
}

/// Puts something into the store that no version of this program wrote.
fn spoil(books: &Books, tree: &str, key: &[u8]) {
    let database = books.database();
    database.open_tree(tree).unwrap().insert(key, &[1]).unwrap();
}

#[tokio::test]
async fn a_store_with_damage_in_it_is_set_aside_whole_and_rebuilt() {
    let damaged = a_full_account().await;
    spoil(&damaged, "sales", &[3; 32]);
    let database = std::fs::read(damaged.file("store/db")).unwrap();
    assert_full_account(&damaged, "a sale that is none").await;
    let aside = damaged.set_aside();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read(aside[0].join("db")).unwrap(), database);
}

#[tokio::test]
async fn damage_that_a_request_meets_ends_the_program_and_is_gone_after_the_next_start() {
    let damaged = a_full_account().await;
    let stranger = token(7, Some(3));
    spoil(&damaged, "tokens", &[7; 64]);
    let ledger = damaged.open();
    assert!(
        ledger
            .reserve(
                &stranger,
                "chain",
                tollhouse::account::ledger::Overrun::Serve,
                None
            )
            .await
            .is_err(),
        "no use without a count"
    );
    assert!(ledger.write_behind().is_err());
    drop(ledger);
    assert_full_account(&damaged, "a token that is none").await;
    assert_eq!(damaged.set_aside().len(), 1);
    assert_eq!(uses_left(&damaged.open(), &stranger).await, 3);
}

#[test]
fn what_sled_refuses_for_another_reason_is_left_alone() {
    let books = Books::new();
    let ledger = books.open();
    ledger.settle(payment(1)).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    garble(&books.file("store/conf"), 0, 16);
    let refused = books.when_free();
    assert!(
        matches!(refused, Err(LedgerError::Store(StoreError::Refused(_)))),
        "{refused:?}"
    );
    assert_eq!(books.set_aside(), Vec::<PathBuf>::new());
    garble(&books.file("store/conf"), 0, 16);
    assert_eq!(books.open().totals(), totals(1, PRICE_MSAT));
}

#[test]
fn a_damaged_line_of_the_journal_costs_that_line_only() {
    let books = Books::new();
    let ledger = books.open();
    for number in 1..=3 {
        ledger.settle(payment(number)).unwrap();
    }
    ledger.close().unwrap();
    drop(ledger);
    let journal = books.file("journal.log");
    let middle = std::fs::read(&journal).unwrap().len() / 2;
    garble(&journal, middle, middle + 1);
    // The store still has it.
    assert_eq!(books.open().totals(), totals(3, 3 * PRICE_MSAT));
    std::fs::remove_dir_all(books.file("store")).unwrap();
    assert_eq!(books.open().totals(), totals(2, 2 * PRICE_MSAT));
}
