//! Payments that open channels: in the books from the invoice on, paid once, no sales, and never lost.

use std::time::Duration;

use tollhouse::clock::Clock;
use tollhouse::ledger::record::{ActivationRecord, ActivationTotals};
use tollhouse::ledger::{Arrived, Ledger};

use crate::books::{Books, account, copy_folder, payment, totals};

const PROVIDER: &str = "the provider";

pub(crate) fn activation(number: u8, clock: &Clock) -> ActivationRecord {
    ActivationRecord {
        payment_hash: [number; 32],
        gross_msat: 50_000_000,
        fee_msat: 2_000_000,
        net_msat: 48_000_000,
        provider: PROVIDER.to_owned(),
        bolt11: "lnbcrt1".to_owned(),
        made_ms: clock.unix_ms(),
        expires_ms: clock.unix_ms() + 3_600_000,
        settled_ms: None,
    }
}

fn arrived(number: u8) -> Arrived {
    Arrived {
        payment_hash: [number; 32],
        net_msat: 48_000_000,
        fee_msat: 2_000_000,
        provider: PROVIDER.to_owned(),
    }
}

const PAID_ONCE: ActivationTotals = ActivationTotals {
    count: 1,
    gross_msat: 50_000_000,
    fee_msat: 2_000_000,
    net_msat: 48_000_000,
};

/// Two activations, one of them paid, and a sale.
fn opened(books: &Books) -> Ledger {
    let ledger = books.open();
    for number in [1, 2] {
        books.clock.advance(Duration::from_secs(1));
        ledger
            .open_activation(&activation(number, &books.clock))
            .unwrap();
    }
    assert_eq!(
        ledger.activations(10).unwrap().1,
        ActivationTotals::default()
    );
    assert!(ledger.settle_activation(&arrived(1)).unwrap().is_some());
    ledger.settle(payment(9)).unwrap();
    ledger
}

/// What must be in the books after all that.
fn assert_in_the_books(ledger: &Ledger, what: &str) {
    let (all, sums) = ledger.activations(10).unwrap();
    let seen: Vec<_> = all
        .iter()
        .map(|it| (it.payment_hash[0], it.settled_ms.is_some(), &*it.bolt11))
        .collect();
    assert_eq!(
        seen,
        [(2, false, "lnbcrt1"), (1, true, "lnbcrt1")],
        "{what}"
    );
    assert_eq!(sums, PAID_ONCE, "{what}");
    let (sales, sold) = account(ledger);
    assert_eq!(
        (sales.len(), sold),
        (1, totals(1, 10_000)),
        "{what}: no sale"
    );
}

#[test]
fn an_activation_that_is_told_again_is_paid_once_also_after_a_restart() {
    let books = Books::new();
    let ledger = opened(&books);
    for _ in 0..3 {
        assert_eq!(ledger.settle_activation(&arrived(1)).unwrap(), None);
    }
    assert_in_the_books(&ledger, "at once");
    ledger.close().unwrap();
    drop(ledger);
    let ledger = books.open();
    assert_eq!(ledger.settle_activation(&arrived(1)).unwrap(), None);
    assert_in_the_books(&ledger, "after a restart");
}

#[test]
fn a_killed_program_has_lost_no_activation() {
    let books = Books::new();
    let ledger = opened(&books);
    let killed = books.copy();
    drop(ledger);
    assert_in_the_books(&killed.open(), "after a kill");
}

#[test]
fn activations_are_rebuilt_from_the_journal_and_from_a_dump() {
    let books = Books::new();
    let ledger = opened(&books);
    ledger.close().unwrap();
    drop(ledger);
    let rebuilt = books.copy();
    std::fs::remove_dir_all(rebuilt.file("store")).unwrap();
    assert_in_the_books(&rebuilt.open(), "from the journal");

    // Long enough to be folded; lines that cannot be read are passed over.
    let mut journal = std::fs::read(books.file("journal.log")).unwrap();
    journal.extend(vec![b'-'; 16 * 1024 * 1024]);
    journal.push(b'\n');
    std::fs::write(books.file("journal.log"), journal).unwrap();
    let ledger = books.open();
    ledger.write_behind().unwrap();
    ledger.close().unwrap();
    drop(ledger);
    assert!(books.file("dump.jsonl").exists());
    let rebuilt = books.copy();
    std::fs::remove_dir_all(rebuilt.file("store")).unwrap();
    assert_in_the_books(&rebuilt.open(), "from a dump");
}

#[test]
fn a_store_that_went_back_hears_again_that_an_activation_was_paid() {
    let books = Books::new();
    let ledger = books.open();
    ledger
        .open_activation(&activation(1, &books.clock))
        .unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let before = books.copy();
    let ledger = books.open();
    ledger.settle_activation(&arrived(1)).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let went_back = books.copy();
    std::fs::remove_dir_all(went_back.file("store")).unwrap();
    copy_folder(&before.file("store"), &went_back.file("store"));
    assert_eq!(went_back.open().activations(10).unwrap().1, PAID_ONCE);
}

#[test]
fn one_that_the_books_do_not_know_is_entered_from_what_the_node_knows() {
    let books = Books::new();
    let ledger = books.open();
    let settled = ledger.settle_activation(&arrived(7)).unwrap().unwrap();
    assert_eq!((settled.gross_msat, &*settled.bolt11), (50_000_000, ""));
    assert_eq!(ledger.activations(10).unwrap().1, PAID_ONCE);
    assert_eq!(ledger.settle_activation(&arrived(7)).unwrap(), None);
}

#[test]
fn what_arrived_is_what_the_books_say_whatever_was_announced() {
    let books = Books::new();
    let ledger = books.open();
    ledger
        .open_activation(&activation(1, &books.clock))
        .unwrap();
    let cheaper = Arrived {
        net_msat: 49_000_000,
        fee_msat: 1_000_000,
        ..arrived(1)
    };
    let settled = ledger.settle_activation(&cheaper).unwrap().unwrap();
    assert_eq!(settled.gross_msat, settled.fee_msat + settled.net_msat);
    assert_eq!(
        (settled.fee_msat, settled.net_msat),
        (1_000_000, 49_000_000)
    );
}
