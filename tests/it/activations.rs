//! Payments that open channels: in the books from the invoice on, paid once, no sales, and never lost.

use std::time::Duration;

use tollhouse::account::ledger::record::{ActivationRecord, ActivationTotals, BundleRecord};
use tollhouse::account::ledger::{Arrived, Ledger};
use tollhouse::base::clock::Clock;

use crate::support::books::{
    Books, account, challenge, copy_folder, find_sale, payment, token, totals, use_once,
};

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
        bundle: None,
    }
}

/// One that pays for a bundle.
fn bundle(number: u8, clock: &Clock) -> ActivationRecord {
    ActivationRecord {
        bundle: Some(BundleRecord {
            service: "chain".to_owned(),
            route: "/chain/*".to_owned(),
            grant: Some("month".to_owned()),
        }),
        ..activation(number, clock)
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
    sold_msat: 0,
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

/// The sale and the activation that a paid bundle is, once, however often it is told again.
fn assert_bundle_sold_once(ledger: &Ledger, what: &str) {
    for _ in 0..2 {
        let (sales, sold) = account(ledger);
        assert_eq!((sales.len(), sold), (1, totals(1, 50_000_000)), "{what}");
        let sale = &sales[0];
        assert_eq!(
            (
                sale.service.as_deref(),
                sale.route.as_deref(),
                sale.grant.as_deref()
            ),
            (Some("chain"), Some("/chain/*"), Some("month")),
            "{what}"
        );
        assert_eq!(sale.price_msat, Some(50_000_000), "{what}");
        let (_, sums) = ledger.activations(10).unwrap();
        // What the node has is what was sold, less what the provider kept of it.
        let arrived_msat = sold.amount_msat + sums.net_msat - sums.sold_msat;
        assert_eq!(arrived_msat, 48_000_000, "{what}");
        assert_eq!((sums.count, sums.fee_msat), (1, 2_000_000), "{what}");
        assert_eq!(ledger.settle_activation(&arrived(1)).unwrap(), None);
    }
}

fn with_paid_bundle(books: &Books) -> Ledger {
    let ledger = books.open();
    ledger.open_activation(&bundle(1, &books.clock)).unwrap();
    assert!(ledger.settle_activation(&arrived(1)).unwrap().is_some());
    ledger
}

#[test]
fn a_paid_bundle_is_one_sale_also_when_killed_restarted_or_rebuilt() {
    let books = Books::new();
    let ledger = with_paid_bundle(&books);
    assert_bundle_sold_once(&ledger, "at once");
    let killed = books.copy();
    let rebuilt = books.copy();
    std::fs::remove_dir_all(rebuilt.file("store")).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    assert_bundle_sold_once(&books.open(), "after a restart");
    assert_bundle_sold_once(&killed.open(), "after a kill");
    assert_bundle_sold_once(&rebuilt.open(), "from the journal");
}

#[test]
fn a_bundle_whose_journal_is_torn_anywhere_is_one_sale_once_its_payment_is_told_again() {
    let books = Books::new();
    let ledger = books.open();
    ledger.open_activation(&bundle(1, &books.clock)).unwrap();
    let opened_bytes = std::fs::metadata(books.file("journal.log")).unwrap().len();
    ledger.settle_activation(&arrived(1)).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let journal = std::fs::read(books.file("journal.log")).unwrap();
    let opened_bytes = usize::try_from(opened_bytes).unwrap();
    for kept in (opened_bytes..journal.len())
        .step_by(7)
        .chain([journal.len() - 1])
    {
        let torn = books.copy();
        std::fs::remove_dir_all(torn.file("store")).unwrap();
        std::fs::write(torn.file("journal.log"), &journal[..kept]).unwrap();
        let ledger = torn.open();
        let told = ledger.settle_activation(&arrived(1)).unwrap();
        assert!(
            told.is_some(),
            "cut to {kept}: the payment was not acknowledged"
        );
        assert_bundle_sold_once(&ledger, &format!("cut to {kept}"));
    }
}

#[tokio::test]
async fn a_bundle_that_is_used_before_its_payment_is_told_is_redeemed() {
    let books = Books::new();
    let ledger = books.open();
    ledger.open_activation(&bundle(1, &books.clock)).unwrap();
    ledger.challenge(challenge(1, &books.clock));
    assert!(use_once(&ledger, &token(1, Some(3))).await);
    ledger.close().unwrap();
    ledger.settle_activation(&arrived(1)).unwrap();
    let sale = find_sale(&ledger, 1);
    assert_eq!(sale.token_id, Some([1; 32]));
    assert!(sale.redeemed_ms.is_some());
    assert_eq!(sale.amount_msat, 50_000_000);
}

#[test]
fn what_nobody_has_paid_is_dropped_a_month_after_it_could_be_and_what_was_paid_never() {
    let books = Books::new();
    let ledger = books.open();
    let hour = Duration::from_secs(3_600);
    for number in [1, 2, 3] {
        let made = bundle(number, &books.clock);
        ledger.open_activation(&made).unwrap();
    }
    ledger.settle_activation(&arrived(1)).unwrap();
    books.clock.advance(hour * (30 * 24 + 1));
    ledger.open_activation(&bundle(4, &books.clock)).unwrap();
    let dropped = ledger.drop_unpaid_activations().unwrap();
    assert!(dropped.is_empty(), "to the millisecond");
    books.clock.advance(Duration::from_secs(1));
    ledger.open_activation(&bundle(5, &books.clock)).unwrap();
    let mut dropped = ledger.drop_unpaid_activations().unwrap();
    dropped.sort_unstable();
    assert_eq!(dropped, [[2; 32], [3; 32]]);
    let kept = |ledger: &Ledger| {
        let (mut all, sums) = ledger.activations(10).unwrap();
        all.sort_by_key(|it| it.payment_hash);
        let numbers: Vec<_> = all.iter().map(|it| it.payment_hash[0]).collect();
        (numbers, sums.count)
    };
    assert_eq!(kept(&ledger), (vec![1, 4, 5], 1));
    ledger.close().unwrap();
    drop(ledger);
    // The journal still has their lines, and nobody brings them back.
    assert_eq!(kept(&books.open()), (vec![1, 4, 5], 1));
    let rebuilt = books.copy();
    std::fs::remove_dir_all(rebuilt.file("store")).unwrap();
    let ledger = rebuilt.open();
    assert_eq!(kept(&ledger), (vec![1, 4, 5], 1));
    // Should one of them be paid all the same, it is in the books.
    assert!(ledger.settle_activation(&arrived(2)).unwrap().is_some());
    assert_eq!(kept(&ledger), (vec![1, 2, 4, 5], 2));
}
