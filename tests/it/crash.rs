//! Killed, locked, newer: what the ledger makes of what it finds.

use std::path::PathBuf;
use std::time::Duration;

use tollhouse::account::ledger::{LedgerError, Settlement};
use tollhouse::account::store::{DataLock, LockError, StoreError};

use crate::support::books::{Books, PRICE_MSAT, account, challenge, find_sale, payment, totals};

/// One sale in the books, and one more on its way: before anything of it was written, and after all of it was.
fn around_a_settlement() -> (Books, Books) {
    let books = Books::new();
    let ledger = books.open();
    ledger.challenge(challenge(1, &books.clock));
    ledger.challenge(challenge(2, &books.clock));
    ledger.settle(payment(1)).unwrap();
    let before = books.copy();
    ledger.settle(payment(2)).unwrap();
    (before, books.copy())
}

/// The node tells its event again, as it does after a start; then everything is there once.
fn assert_two_sales(left_behind: &Books, what: &str) {
    for _ in 0..2 {
        let ledger = left_behind.open();
        let again = ledger.settle(payment(2)).unwrap();
        assert!(!matches!(again, Settlement::Surplus(_)), "{what}");
        let (sales, sum) = account(&ledger);
        assert_eq!(sales.len(), 2, "{what}");
        assert_eq!(sum, totals(2, 2 * PRICE_MSAT), "{what}");
    }
}

#[test]
fn killed_between_any_two_steps_a_sale_is_in_the_books_once() {
    let (before, after) = around_a_settlement();
    let journal = std::fs::read(after.file("journal.log")).unwrap();
    let begun = std::fs::metadata(before.file("journal.log")).unwrap().len() as usize;
    assert!(journal.len() > begun);
    // Before the line, after some of its bytes, after all of them but before the store, after the store.
    for cut in [
        begun,
        begun + 1,
        begun + 9,
        begun + 100,
        journal.len() - 1,
        journal.len(),
    ] {
        let killed = before.copy();
        std::fs::write(killed.file("journal.log"), &journal[..cut]).unwrap();
        let known = killed.open().totals().count;
        assert_eq!(
            known,
            if cut == journal.len() { 2 } else { 1 },
            "cut at {cut}"
        );
        assert_two_sales(&killed, &format!("cut at {cut}"));
    }
    assert_two_sales(&after, "after the store");
}

#[test]
fn what_stands_in_the_journal_only_is_not_told_as_new() {
    let (before, after) = around_a_settlement();
    std::fs::copy(after.file("journal.log"), before.file("journal.log")).unwrap();
    let ledger = before.open();
    assert_eq!(ledger.settle(payment(2)).unwrap(), Settlement::Known);
    let sale = find_sale(&ledger, 2);
    assert_eq!(sale.service.as_deref(), Some("chain"));
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let books = Books::new();
    let ledger = books.open();
    ledger.settle(payment(1)).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let database = books.database();
    database.insert("format", &99_u32.to_be_bytes()).unwrap();
    drop(database);
    let refused = books.when_free();
    assert!(
        matches!(
            refused,
            Err(LedgerError::Store(StoreError::Newer { found: 99, .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(books.set_aside(), Vec::<PathBuf>::new());
    // The program that wrote it finds everything again.
    let database = books.database();
    database.insert("format", &1_u32.to_be_bytes()).unwrap();
    drop(database);
    assert_eq!(books.open().totals(), totals(1, PRICE_MSAT));
}

#[test]
fn two_programs_never_have_one_ledger() {
    let books = Books::new();
    let ledger = books.open();
    ledger.settle(payment(1)).unwrap();
    assert!(books.try_open().is_err());
    assert_eq!(
        books.set_aside(),
        Vec::<PathBuf>::new(),
        "a lock is no damage"
    );
    assert_eq!(ledger.totals(), totals(1, PRICE_MSAT));
    let lock = DataLock::acquire(&books.folder()).unwrap();
    let second = DataLock::acquire(&books.folder());
    assert!(matches!(second, Err(LockError::Held(_))), "{second:?}");
    drop(lock);
    drop(DataLock::acquire(&books.folder()).unwrap());
}

#[test]
fn unpaid_challenges_are_bounded_and_expire_on_the_disk_too() {
    let books = Books::new();
    let ledger = books.open();
    for _ in 0..3 {
        for number in 0..=255 {
            ledger.challenge(challenge(number, &books.clock));
        }
    }
    for number in 0..=255 {
        let mut other = challenge(number, &books.clock);
        other.payment_hash[0] ^= 1;
        ledger.challenge(other);
    }
    assert_eq!(ledger.challenge_count(), 1_000);
    ledger.close().unwrap();
    drop(ledger);
    let ledger = books.open();
    assert_eq!(ledger.challenge_count(), 1_000);
    let late_max = Duration::from_millis(tollhouse::account::ledger::challenges::LATE_MAX_MS);
    books.clock.advance(Duration::from_secs(601) + late_max);
    ledger.write_behind().unwrap();
    assert_eq!(ledger.challenge_count(), 0);
    ledger.close().unwrap();
    drop(ledger);
    assert_eq!(books.open().challenge_count(), 0);
}
