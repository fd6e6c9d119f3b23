//! The account: what is settled, what is redeemed, and that telling it twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use tollhouse::account::ledger::{Claims, Overrun, Payment, Settlement};

use crate::support::books::{
    Books, PRICE_MSAT, account, challenge, find_sale, payment, token, totals, use_once, uses_left,
    with_surplus,
};

/// How long after its invoice expired a challenge is kept.
const LATE_MAX: Duration =
    Duration::from_millis(tollhouse::account::ledger::challenges::LATE_MAX_MS);

#[test]
fn a_settlement_that_is_told_again_changes_nothing() {
    let books = Books::new();
    let ledger = books.open();
    ledger.challenge(challenge(1, &books.clock));
    assert!(matches!(
        ledger.settle(payment(1)).unwrap(),
        Settlement::New(_)
    ));
    let before = account(&ledger);
    drop(ledger);
    for _ in 0..3 {
        let ledger = books.open();
        for _ in 0..3 {
            assert_eq!(ledger.settle(payment(1)).unwrap(), Settlement::Known);
        }
        assert_eq!(account(&ledger), before);
        ledger.close().unwrap();
    }
    assert_eq!(before.1, totals(1, PRICE_MSAT));
}

#[test]
fn a_settlement_that_many_tell_at_once_is_one_sale() {
    let books = Books::new();
    let ledger = books.open();
    let news: usize = std::thread::scope(|scope| {
        let tell = || {
            usize::from(matches!(
                ledger.settle(payment(1)).unwrap(),
                Settlement::New(_)
            ))
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(tell)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(news, 1);
    assert_eq!(ledger.totals(), totals(1, PRICE_MSAT));
    assert_eq!(account(&ledger).0.len(), 1);
}

#[test]
fn sales_that_arrive_at_once_are_all_in_the_books() {
    let books = Books::new();
    let ledger = books.open();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let ledger = &ledger;
            scope.spawn(move || ledger.settle(payment(number)).unwrap());
        }
    });
    let (sales, sum) = account(&ledger);
    assert_eq!(sum, totals(16, 16 * PRICE_MSAT));
    let mut hashes: Vec<_> = sales.iter().map(|sale| sale.payment_hash[0]).collect();
    hashes.sort_unstable();
    assert_eq!(hashes, (0..16).collect::<Vec<_>>());
}

#[test]
fn a_sale_is_named_by_its_challenge_also_after_a_restart() {
    let books = Books::new();
    let ledger = books.open();
    ledger.challenge(challenge(1, &books.clock));
    ledger.challenge(challenge(2, &books.clock));
    let challenged_ms = books.clock.unix_ms();
    ledger.settle(payment(1)).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let ledger = books.open();
    assert_eq!(ledger.challenge_count(), 2);
    ledger.settle(payment(2)).unwrap();
    for number in [1, 2] {
        let sale = find_sale(&ledger, number);
        assert_eq!(sale.service.as_deref(), Some("chain"));
        assert_eq!(sale.route.as_deref(), Some("/chain/*"));
        assert_eq!(sale.price_msat, Some(PRICE_MSAT));
        assert_eq!(sale.token_id, Some([number; 32]));
        assert_eq!(sale.challenged_ms, Some(challenged_ms));
        assert_eq!(sale.redeemed_ms, None);
    }
}

#[tokio::test]
async fn a_settlement_whose_challenge_is_gone_is_a_sale_that_its_token_names() {
    let books = Books::new();
    let ledger = books.open();
    ledger.challenge(challenge(1, &books.clock));
    books.clock.advance(Duration::from_secs(600) + LATE_MAX);
    ledger.write_behind().unwrap();
    assert_eq!(ledger.challenge_count(), 0);
    let settled = ledger.settle(payment(1)).unwrap();
    let Settlement::New(sale) = settled else {
        panic!("{settled:?}")
    };
    assert_eq!((sale.service, sale.price_msat), (None, None));
    assert!(use_once(&ledger, &token(1, None)).await);
    ledger.write_behind().unwrap();
    let sale = find_sale(&ledger, 1);
    assert_eq!(sale.service.as_deref(), Some("chain"));
    assert_eq!(sale.token_id, Some([1; 32]));
    assert_eq!(sale.redeemed_ms, Some(books.clock.unix_ms()));
    assert_eq!(ledger.totals(), totals(1, PRICE_MSAT));
}

#[tokio::test]
async fn a_token_may_be_used_before_its_payment_is_known() {
    let books = Books::new();
    let ledger = books.open();
    assert!(use_once(&ledger, &token(1, Some(2))).await);
    let first_used_ms = books.clock.unix_ms();
    ledger.write_behind().unwrap();
    assert_eq!(ledger.totals(), totals(0, 0), "no sale without a payment");
    books.clock.advance(Duration::from_secs(5));
    let settled = ledger.settle(payment(1)).unwrap();
    let Settlement::New(sale) = settled else {
        panic!("{settled:?}")
    };
    assert_eq!(sale.redeemed_ms, Some(first_used_ms));
    assert_eq!(sale.service.as_deref(), Some("chain"));
    assert_eq!(sale.settled_ms, first_used_ms + 5_000);
    assert_eq!(uses_left(&ledger, &token(1, Some(2))).await, 1);
}

#[tokio::test]
async fn a_token_is_redeemed_once_however_often_it_is_used() {
    let books = Books::new();
    let ledger = books.open();
    ledger.challenge(challenge(1, &books.clock));
    ledger.settle(payment(1)).unwrap();
    let mut redeemed = Vec::new();
    for _ in 0..3 {
        books.clock.advance(Duration::from_secs(1));
        assert!(use_once(&ledger, &token(1, None)).await);
        ledger.write_behind().unwrap();
        redeemed.push(find_sale(&ledger, 1).redeemed_ms);
    }
    assert!(redeemed[0].is_some());
    assert_eq!(redeemed[0], redeemed[1]);
    assert_eq!(redeemed[0], redeemed[2]);
}

#[test]
fn a_second_payment_of_one_invoice_is_no_second_sale() {
    let books = Books::new();
    let ledger = books.open();
    ledger.challenge(challenge(1, &books.clock));
    ledger.settle(payment(1)).unwrap();
    // Within one run the node tells an event again only if it could not be handled: this is other money.
    let again = ledger.settle(payment(1)).unwrap();
    assert!(matches!(again, Settlement::Surplus(sale) if sale.surplus_msat == PRICE_MSAT));
    let twice = with_surplus(totals(1, PRICE_MSAT), PRICE_MSAT);
    assert_eq!(ledger.totals(), twice);
    assert_eq!(account(&ledger).0.len(), 1);
    drop(ledger);
    let ledger = books.open();
    assert_eq!(find_sale(&ledger, 1).surplus_msat, PRICE_MSAT);
    assert_eq!(ledger.totals(), twice);
}

#[test]
fn a_second_payment_after_a_restart_is_recorded_and_a_repeated_event_is_not() {
    let books = Books::new();
    let ledger = books.open();
    ledger.challenge(challenge(1, &books.clock));
    ledger.settle(payment(1)).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let ledger = books.open();
    assert_eq!(ledger.settle(payment(1)).unwrap(), Settlement::Known);
    for times in 1..=2 {
        let again = ledger.settle_told(payment(1), true).unwrap();
        let surplus_msat = times * PRICE_MSAT;
        assert!(matches!(again, Settlement::Surplus(sale) if sale.surplus_msat == surplus_msat));
        assert_eq!(
            ledger.totals(),
            with_surplus(totals(1, PRICE_MSAT), surplus_msat)
        );
    }
    assert_eq!(ledger.settle(payment(1)).unwrap(), Settlement::Known);
    // After a kill, with a store that is rebuilt from the journal.
    let killed = books.copy();
    std::fs::remove_dir_all(killed.file("store")).unwrap();
    for books in [killed, books.copy()] {
        assert_eq!(
            books.open().totals(),
            with_surplus(totals(1, PRICE_MSAT), 2 * PRICE_MSAT)
        );
    }
}

#[test]
fn events_repeated_by_a_node_that_is_restarted_in_the_program_are_no_second_payment() {
    let books = Books::new();
    let ledger = books.open();
    ledger.follow(Arc::new(Claims::default()));
    ledger.challenge(challenge(1, &books.clock));
    ledger.settle_told(payment(1), true).unwrap();
    assert_eq!(ledger.settle(payment(1)).unwrap(), Settlement::Known);
    assert_eq!(ledger.totals(), totals(1, PRICE_MSAT));
    ledger.settle_told(payment(1), true).unwrap();
    assert_eq!(
        ledger.totals(),
        with_surplus(totals(1, PRICE_MSAT), PRICE_MSAT)
    );
}

#[test]
fn an_amount_above_the_price_is_surplus() {
    let books = Books::new();
    let ledger = books.open();
    ledger.challenge(challenge(1, &books.clock));
    let more = Payment {
        amount_msat: PRICE_MSAT + 7,
        ..payment(1)
    };
    let Settlement::New(sale) = ledger.settle(more).unwrap() else {
        panic!("no new sale");
    };
    assert_eq!((sale.amount_msat, sale.surplus_msat), (PRICE_MSAT, 7));
    assert_eq!(ledger.totals(), with_surplus(totals(1, PRICE_MSAT), 7));
    // All of the second payment is surplus.
    ledger.settle(more).unwrap();
    assert_eq!(
        ledger.totals(),
        with_surplus(totals(1, PRICE_MSAT), PRICE_MSAT + 14)
    );
}

#[test]
fn pages_of_sales_are_the_newest_first_without_gap_or_repetition() {
    let books = Books::new();
    let ledger = books.open();
    for number in 0..10 {
        books.clock.advance(Duration::from_secs(1));
        ledger.settle(payment(number)).unwrap();
    }
    let mut seen = Vec::new();
    let mut before: Option<Vec<u8>> = None;
    loop {
        let page = ledger.sales(before.as_deref(), 3).unwrap();
        assert!(page.sales.len() <= 3);
        seen.extend(page.sales.iter().map(|sale| sale.payment_hash[0]));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..10).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn counts_outlive_a_clean_end() {
    let books = Books::new();
    let ledger = books.open();
    for _ in 0..3 {
        assert!(use_once(&ledger, &token(1, Some(5))).await);
    }
    assert_eq!(uses_left(&ledger, &token(2, Some(2))).await, 2);
    ledger.close().unwrap();
    drop(ledger);
    let ledger = books.open();
    assert_eq!(uses_left(&ledger, &token(2, Some(2))).await, 0);
    assert_eq!(uses_left(&ledger, &token(1, Some(5))).await, 2);
}

#[tokio::test]
async fn a_kill_gives_back_what_was_used_since_the_last_write_and_takes_nothing() {
    let books = Books::new();
    let ledger = books.open();
    for _ in 0..3 {
        assert!(use_once(&ledger, &token(1, Some(5))).await);
    }
    ledger.write_behind().unwrap();
    assert!(use_once(&ledger, &token(1, Some(5))).await);
    // Reserved and not yet delivered: it was not had.
    let in_flight = ledger
        .reserve(&token(1, Some(5)), "chain", Overrun::Serve, None)
        .await
        .unwrap();
    let killed = books.copy();
    drop(in_flight);
    let reopened = killed.open();
    assert_eq!(uses_left(&reopened, &token(1, Some(5))).await, 2);
}

#[tokio::test]
async fn returned_uses_are_remembered_while_the_token_is_valid_or_for_a_day() {
    let (minute, days) = (Duration::from_secs(61), Duration::from_secs(200_000));
    for (end_secs, used, pause) in [
        (None, 0, minute),
        (None, 1, minute),
        (Some(u64::MAX), 0, days),
        (Some(0), 0, minute),
    ] {
        let books = Books::new();
        let ledger = books.open();
        let mut sold = token(1, Some(used + 1));
        sold.allowance.valid_until_secs = end_secs;
        for _ in 0..used {
            assert!(use_once(&ledger, &sold).await);
        }
        for _ in 0..4 {
            let reserved = ledger.reserve(&sold, "chain", Overrun::Serve, None).await;
            reserved.unwrap().unwrap().leave();
            for _ in 0..2 {
                ledger.write_behind().unwrap();
                books.clock.advance(pause);
            }
            ledger.write_behind().unwrap();
        }
        assert_eq!(uses_left(&ledger, &sold).await, 0, "{end_secs:?} {used}");
    }
}

#[test]
fn a_lost_sale_is_marked_and_its_token_opens_nothing_even_after_a_rebuild() {
    let books = Books::new();
    let ledger = books.open();
    for number in [1, 2] {
        ledger.challenge(challenge(number, &books.clock));
        ledger.settle(payment(number)).unwrap();
    }
    assert_eq!(ledger.lose(&[9; 32]).unwrap(), None, "not a sale");
    let lost = ledger.lose(&[1; 32]).unwrap().unwrap();
    assert_eq!(lost.lost_ms, Some(books.clock.unix_ms()));
    assert_eq!(
        ledger.lose(&[1; 32]).unwrap(),
        None,
        "already recorded as lost"
    );
    let expected = tollhouse::account::ledger::record::Totals {
        lost_msat: PRICE_MSAT,
        ..totals(2, 2 * PRICE_MSAT)
    };
    let is_so = |ledger: &tollhouse::account::ledger::Ledger| {
        assert_eq!(ledger.totals(), expected);
        assert!(find_sale(ledger, 1).lost_ms.is_some());
        assert!(find_sale(ledger, 2).lost_ms.is_none());
        let is_revoked =
            |number| ledger.is_revoked(&tollhouse::protocol::l402::TokenId([number; 32]), "chain");
        assert!(is_revoked(1) && !is_revoked(2));
    };
    is_so(&ledger);
    drop(ledger);
    is_so(&books.open());
    std::fs::remove_dir_all(books.file("store")).unwrap();
    is_so(&books.open());
}
