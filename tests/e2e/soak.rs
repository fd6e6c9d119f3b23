//! Killed with -9 in the middle of many payments, again and again.

use std::sync::atomic::AtomicBool;

use regtest::soak::{SoakOptions, random_seed, soak};

/// The number of kills next to a hostile peer.
const HOSTILE_CYCLES: u32 = 4;

/// Kills in all. `scripts/regtest soak` does as many as one likes.
const CYCLES: u32 = 20;

#[tokio::test]
async fn killed_twenty_times_with_payments_in_flight_every_sale_is_in_the_books_once_and_the_money_adds_up()
 {
    let options = SoakOptions {
        tollhouse_exe: env!("CARGO_BIN_EXE_tollhouse").into(),
        cycles: CYCLES,
        in_flight: 4,
        seed: random_seed(),
        kills: true,
        hostile: false,
        tell: |line| println!("{line}"),
    };
    let outcome = soak(options, &AtomicBool::new(false)).await.unwrap();
    // Shown, not hidden: what kill -9 costs is a channel now and then (ldk-node writes monitor and manager in two steps).
    println!("{outcome:?}");
    assert!(outcome.is_clean(), "{outcome:?}");
    assert_eq!(outcome.cycles, CYCLES);
    assert!(outcome.payments >= u64::from(CYCLES), "{outcome:?}");
    assert_eq!(
        outcome.channels_closed, outcome.channels_reopened,
        "every closed channel is shown"
    );
}

#[tokio::test]
async fn a_hostile_peer_next_to_the_buyers_changes_nothing_in_the_books() {
    let options = SoakOptions {
        tollhouse_exe: env!("CARGO_BIN_EXE_tollhouse").into(),
        cycles: HOSTILE_CYCLES,
        in_flight: 4,
        seed: random_seed(),
        kills: true,
        hostile: true,
        tell: |line| println!("{line}"),
    };
    let outcome = soak(options, &AtomicBool::new(false)).await.unwrap();
    println!("{outcome:?}");
    assert!(outcome.is_clean(), "{outcome:?}");
    assert_eq!(outcome.cycles, HOSTILE_CYCLES);
    assert!(outcome.payments >= u64::from(HOSTILE_CYCLES), "{outcome:?}");
    assert!(
        outcome.nuisances >= u64::from(HOSTILE_CYCLES),
        "{outcome:?}"
    );
    assert_eq!(outcome.channels_closed, outcome.channels_reopened);
}
