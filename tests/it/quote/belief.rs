//! The rate that new ones are compared with: the last known one, also across a start, and one that several sources
//! confirm.

use std::path::Path;
use std::time::Duration;

use tollhouse::base::clock::Clock;
use tollhouse::sell::quote::{Rates, Source, Unpriced, Watched};

use super::rates::{MAX_AGE, clock, rate, rates, usd, watched};
use crate::support::log::Log;
use crate::support::teller::{Manner, Teller};
use tracing::Level;

const MINUTE: Duration = Duration::from_secs(60);

async fn tellers(units: &[u64]) -> Vec<Teller> {
    let mut tellers = Vec::new();
    for units in units {
        tellers.push(Teller::who_says(&says(*units)).await);
    }
    tellers
}

fn says(units: u64) -> String {
    format!("{{\"usd\": {units}}}")
}

fn of(tellers: &[Teller], quorum: usize) -> Watched {
    let addresses: Vec<_> = tellers.iter().map(|teller| teller.address).collect();
    watched(&addresses, quorum)
}

/// Refreshes once a minute, this many times. Returns the first minute in which the rate was this one.
async fn taken_after(rates: &Rates, clock: &Clock, units: &str, minutes: u64) -> Option<u64> {
    for minute in 0..minutes {
        rates.refresh().await;
        if rates.rate(usd()) == Ok(rate(units)) {
            return Some(minute);
        }
        clock.advance(MINUTE);
    }
    None
}

#[tokio::test]
async fn a_real_doubling_is_believed_once_several_servers_confirm_it_for_minutes() {
    let (log, _listening) = Log::listen_at(Level::INFO);
    let tellers = tellers(&[97_000, 97_000, 97_000]).await;
    let clock = clock();
    let rates = rates(of(&tellers, 2), &clock);
    rates.refresh().await;
    for teller in &tellers {
        teller.now_says(&says(250_000));
    }
    assert_eq!(
        taken_after(&rates, &clock, "250000", 60).await,
        Some(10),
        "{log:?}"
    );
    assert_eq!(
        log.lines_with(&[
            "WARN",
            "250000.00 USD after 97000.00 USD",
            "confirmed the change"
        ])
        .len(),
        1,
        "{log:?}"
    );
    assert_eq!(rates.status()[0].doubt, None);
}

#[tokio::test]
async fn one_server_alone_cannot_confirm_itself_within_a_day() {
    let (_log, _listening) = Log::listen_at(Level::INFO);
    let tellers = tellers(&[97_000]).await;
    // A second address of the same server does not count as a second server.
    let twice = |tellers: &[Teller]| {
        let mut watched = of(tellers, 2);
        let other = format!("http://{}/other", tellers[0].address);
        watched.sources.push(Source {
            address: other.parse().unwrap(),
            ..watched.sources[0].clone()
        });
        watched
    };
    for watched in [of(&tellers, 1), twice(&tellers)] {
        tellers[0].now_says(&says(97_000));
        let clock = clock();
        let rates = rates(watched, &clock);
        rates.refresh().await;
        tellers[0].now_says(&says(9_700_000));
        let day = 24 * 60;
        assert_eq!(
            taken_after(&rates, &clock, "9700000", day + 10).await,
            Some(day)
        );
    }
}

#[tokio::test]
async fn a_rate_that_grows_with_each_answer_is_not_followed() {
    let (_log, _listening) = Log::listen_at(Level::INFO);
    let tellers = tellers(&[97_000]).await;
    let clock = clock();
    let rates = rates(of(&tellers, 1), &clock);
    let mut units = 97_000;
    for _ in 0..20 {
        tellers[0].now_says(&says(units));
        rates.refresh().await;
        clock.advance(MINUTE);
        units += units / 2;
    }
    match rates.rate(usd()) {
        Ok(taken) => assert!(taken.micros_per_btc <= 2 * rate("97000").micros_per_btc),
        Err(error) => assert!(matches!(error, Unpriced::RateTooOld { .. }), "{error}"),
    }
    // A rate lowered step by step would only raise the price in bitcoin; it is not followed either.
    for _ in 0..20 {
        tellers[0].now_says(&says(units.max(2)));
        rates.refresh().await;
        clock.advance(MINUTE);
        units -= units / 3;
    }
    if let Ok(taken) = rates.rate(usd()) {
        assert!(2 * taken.micros_per_btc >= rate("97000").micros_per_btc);
    }
}

#[tokio::test]
async fn a_claim_that_changes_or_is_withdrawn_starts_over() {
    let (_log, _listening) = Log::listen_at(Level::INFO);
    let tellers = tellers(&[97_000, 97_000]).await;
    let clock = clock();
    let rates = rates(of(&tellers, 2), &clock);
    rates.refresh().await;
    let say = |units: &[u64; 2]| {
        for (teller, units) in tellers.iter().zip(units) {
            teller.now_says(&says(*units));
        }
    };
    for between in [
        // Another rate, the old one again, and a disagreement.
        [900_000, 900_000],
        [97_000, 97_000],
        [250_000, 97_000],
    ] {
        say(&[250_000, 250_000]);
        assert_eq!(taken_after(&rates, &clock, "250000", 9).await, None);
        say(&between);
        rates.refresh().await;
        clock.advance(MINUTE);
        say(&[250_000, 250_000]);
        assert_eq!(taken_after(&rates, &clock, "250000", 9).await, None);
        say(&[97_000, 97_000]);
        rates.refresh().await;
    }
    // A missing answer does not contradict the claim.
    say(&[250_000, 250_000]);
    assert_eq!(taken_after(&rates, &clock, "250000", 6).await, None);
    tellers[0].now(Manner::Refuses(500, String::new()));
    assert_eq!(taken_after(&rates, &clock, "250000", 3).await, None);
    say(&[250_000, 250_000]);
    assert_eq!(taken_after(&rates, &clock, "250000", 9).await, Some(1));
}

fn remembering(watched: Watched, clock: &Clock, folder: &Path) -> Rates {
    rates(watched, clock).remembering(&folder.join("rates.json"))
}

#[tokio::test]
async fn the_first_answer_after_a_start_is_compared_with_the_last_good_rate() {
    let (_log, _listening) = Log::listen_at(Level::INFO);
    let folder = tempfile::tempdir().unwrap();
    let tellers = tellers(&[97_000]).await;
    let first = remembering(of(&tellers, 1), &clock(), folder.path());
    first.refresh().await;
    for (units, later, is_taken) in [
        (100_000_000_000, MINUTE, false),
        (1, MINUTE, false),
        (9_700_000, 20 * 24 * 60 * MINUTE, false),
        (120_000, MINUTE, true),
    ] {
        tellers[0].now_says(&says(units));
        let clock = clock();
        clock.advance(later);
        let started = remembering(of(&tellers, 1), &clock, folder.path());
        let before = started.rate(usd());
        if later <= MAX_AGE {
            assert_eq!(before, Ok(rate("97000")), "not too old to be used");
        } else {
            assert!(
                matches!(before, Err(Unpriced::RateTooOld { .. })),
                "{before:?}"
            );
        }
        started.refresh().await;
        let is_new = started.rate(usd()) == Ok(rate(&units.to_string()));
        assert_eq!(is_new, is_taken, "{units}");
        if !is_taken {
            let doubt = started.status().remove(0).doubt.unwrap();
            assert!(doubt.contains("97000.00 USD"), "{doubt}");
        }
    }
}

#[tokio::test]
async fn an_old_rate_or_one_of_other_settings_is_not_compared_with() {
    let (_log, _listening) = Log::listen_at(Level::INFO);
    let folder = tempfile::tempdir().unwrap();
    let tellers = tellers(&[97_000]).await;
    let first = remembering(of(&tellers, 1), &clock(), folder.path());
    first.refresh().await;
    tellers[0].now_says(&says(300_000));
    let later = clock();
    later.advance(31 * 24 * 60 * MINUTE);
    // The operator accepts a rate by changing the settings.
    let other = Watched {
        max_age: MAX_AGE * 2,
        ..of(&tellers, 1)
    };
    for (watched, clock) in [(of(&tellers, 1), later), (other, clock())] {
        let started = remembering(watched, &clock, folder.path());
        assert_eq!(started.rate(usd()), Err(Unpriced::RateUnknown(usd())));
        started.refresh().await;
        assert_eq!(started.rate(usd()), Ok(rate("300000")));
        std::fs::remove_file(folder.path().join("rates.json")).unwrap();
        tellers[0].now_says(&says(97_000));
        remembering(of(&tellers, 1), &super::rates::clock(), folder.path())
            .refresh()
            .await;
        tellers[0].now_says(&says(300_000));
    }
}

#[tokio::test]
async fn a_confirmed_change_survives_a_start_too() {
    let (_log, _listening) = Log::listen_at(Level::INFO);
    let folder = tempfile::tempdir().unwrap();
    let tellers = tellers(&[97_000, 97_000]).await;
    let clock = clock();
    let first = remembering(of(&tellers, 2), &clock, folder.path());
    first.refresh().await;
    for teller in &tellers {
        teller.now_says(&says(250_000));
    }
    assert_eq!(taken_after(&first, &clock, "250000", 60).await, Some(10));
    let started = remembering(of(&tellers, 2), &clock, folder.path());
    assert_eq!(started.rate(usd()), Ok(rate("250000")));
}
