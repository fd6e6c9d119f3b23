//! Rates: no price is ever made of an answer that cannot be right, or of an old one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use regtest::wait::eventually;
use tokio_util::sync::CancellationToken;
use tollhouse::base::clock::Clock;
use tollhouse::base::price::{Currency, Price, Rate};
use tollhouse::sell::quote::{RateConfig, RateOrigin, Rates, Source, Unpriced, Watched};

use crate::support::{DEADLINE, NOW_SECS};

use crate::support::log::Log;
use crate::support::teller::{Impostor, Manner, Teller, nobody};
use tracing::Level;

pub(super) const MAX_AGE: Duration = Duration::from_secs(600);

pub(super) fn usd() -> Currency {
    "USD".parse().unwrap()
}

pub(super) fn rate(number: &str) -> Rate {
    Rate::read(usd(), number).unwrap()
}

fn source(address: SocketAddr) -> Source {
    Source {
        address: format!("http://{address}/price?key=secret")
            .parse()
            .unwrap(),
        pointer: "/usd".parse().unwrap(),
    }
}

pub(super) fn watched(sources: &[SocketAddr], quorum: usize) -> Watched {
    Watched {
        sources: sources.iter().copied().map(source).collect(),
        quorum,
        refresh: Duration::from_secs(60),
        timeout: DEADLINE,
        max_age: MAX_AGE,
        at_least: None,
        at_most: None,
    }
}

pub(super) fn rates(watched: Watched, clock: &Clock) -> Rates {
    let config = RateConfig {
        currency: usd(),
        origin: RateOrigin::Watched(watched),
    };
    Rates::new(vec![config], clock.clone())
}

pub(super) fn clock() -> Clock {
    Clock::fixed(NOW_SECS)
}

#[tokio::test]
async fn a_rate_is_known_once_a_source_has_given_it_and_not_before() {
    let teller = Teller::who_says(r#"{"usd": 97123.45}"#).await;
    let rates = rates(watched(&[teller.address], 1), &clock());
    assert_eq!(rates.rate(usd()), Err(Unpriced::RateUnknown(usd())));
    rates.refresh().await;
    assert_eq!(rates.rate(usd()), Ok(rate("97123.45")));
    let euro = "EUR".parse().unwrap();
    assert_eq!(rates.rate(euro), Err(Unpriced::NoRate(euro)));
    assert_eq!(teller.count(), 1, "a look at the rate asks nobody");
}

#[tokio::test]
async fn an_amount_is_converted_with_the_rate_that_the_books_keep() {
    let teller = Teller::who_says(r#"{"usd": 100000}"#).await;
    let rates = rates(watched(&[teller.address], 1), &clock());
    let fiat = |text: &str| match text.parse() {
        Ok(Price::Fiat(fiat)) => fiat,
        other => panic!("{other:?}"),
    };
    let cent = fiat("0.01 USD");
    assert_eq!(rates.convert(cent), Err(Unpriced::RateUnknown(usd())));
    rates.refresh().await;
    let converted = rates.convert(cent).unwrap();
    assert_eq!(
        (converted.price.msat(), converted.rate),
        (10_000, rate("100000"))
    );
    let fortune = fiat("9000000000000 USD");
    assert_eq!(rates.convert(fortune), Err(Unpriced::TooLarge(fortune)));
}

#[tokio::test]
async fn a_rate_of_the_settings_is_always_known() {
    let config = RateConfig {
        currency: usd(),
        origin: RateOrigin::Fixed(rate("100000")),
    };
    let clock = clock();
    let rates = Rates::new(vec![config], clock.clone());
    clock.advance(MAX_AGE * 100);
    assert_eq!(rates.rate(usd()), Ok(rate("100000")));
    rates.refresh().await;
    assert!(rates.status()[0].is_usable);
}

/// What a source does wrong, and a word of what the log and the status say of it.
fn wrong() -> Vec<(Manner, &'static str)> {
    let says = |body: &str| Manner::Says(body.to_owned());
    vec![
        (says(""), "said: nothing"),
        (
            says("<html>down for maintenance</html>"),
            "down for maintenance",
        ),
        (says("{\"eur\":97123}"), "nothing at `/usd`"),
        (says("{\"usd\":\"soon\"}"), "soon"),
        (says("{\"usd\":-97123.45}"), "-97123.45"),
        (says("{\"usd\":0}"), "gave 0 "),
        (says("{\"usd\":0.00001}"), "less than one unit"),
        (says("{\"usd\":1e300}"), "e+300"),
        (says("{\"usd\":NaN}"), "NaN"),
        (Manner::Refuses(500, "{\"usd\":97000}".into()), "status 500"),
        (
            Manner::Refuses(429, "too many requests".into()),
            "too many requests",
        ),
        (Manner::Refuses(203, "{\"usd\":97000}".into()), "status 203"),
        (Manner::Floods, "more than 65536 bytes"),
        (Manner::BreaksOff, "broke off"),
    ]
}

#[tokio::test]
async fn what_cannot_be_right_is_never_a_rate_and_the_log_says_who_said_what() {
    for (manner, words) in wrong() {
        let (log, _listening) = Log::listen_at(Level::INFO);
        let teller = Teller::who(manner).await;
        let rates = rates(watched(&[teller.address], 1), &clock());
        rates.refresh().await;
        rates.refresh().await;
        assert_eq!(
            rates.rate(usd()),
            Err(Unpriced::RateUnknown(usd())),
            "{words}"
        );
        let address = teller.address.to_string();
        let told = log.lines_with(&["WARN", &address, words]);
        assert_eq!(
            told.len(),
            1,
            "{words}: once, and not at every look: {log:?}"
        );
        assert_eq!(
            log.lines_with(&["ERROR", "USD"]).len(),
            1,
            "nothing can be sold"
        );
        assert_eq!(log.lines_with(&["secret"]), Vec::<String>::new());
        let status = rates.status();
        let error = status[0].sources[0].error.as_ref().unwrap();
        assert!(error.contains(words), "{error}");
        assert!(!status[0].is_usable);
    }
}

#[tokio::test]
async fn a_source_that_is_late_is_not_waited_for() {
    for manner in [Manner::Lingers, Manner::Drips] {
        let (log, _listening) = Log::listen_at(Level::INFO);
        let teller = Teller::who(manner).await;
        let late = Watched {
            timeout: Duration::from_millis(200),
            ..watched(&[teller.address], 1)
        };
        let rates = rates(late, &clock());
        tokio::time::timeout(DEADLINE, rates.refresh())
            .await
            .unwrap();
        assert!(rates.rate(usd()).is_err());
        assert_eq!(log.lines_with(&["WARN", "200ms"]).len(), 1, "{log:?}");
    }
}

#[tokio::test]
async fn a_source_that_is_not_there_gives_no_rate() {
    let (log, _listening) = Log::listen_at(Level::INFO);
    let rates = rates(watched(&[nobody()], 1), &clock());
    rates.refresh().await;
    assert!(rates.rate(usd()).is_err());
    assert_eq!(
        log.lines_with(&["WARN", "127.0.0.1:1", "cannot be reached"])
            .len(),
        1,
        "{log:?}"
    );
}

#[tokio::test]
async fn nobody_waits_for_a_source_that_is_being_asked() {
    let teller = Teller::who_says(r#"{"usd": 97000}"#).await;
    let rates = rates(watched(&[teller.address], 1), &clock());
    rates.refresh().await;
    teller.now(Manner::SaysWhenTold(r#"{"usd": 97500}"#.into()));
    let mut refreshing = std::pin::pin!(rates.refresh());
    tokio::select! {
        () = &mut refreshing => panic!("it was not told to answer"),
        () = teller.is_asked(2) => {}
    }
    assert_eq!(rates.rate(usd()), Ok(rate("97000")));
    teller.tell(1);
    refreshing.await;
    assert_eq!(rates.rate(usd()), Ok(rate("97500")));
}

#[tokio::test]
async fn a_source_that_cannot_prove_who_it_is_gives_no_rate() {
    let (log, _listening) = Log::listen_at(Level::INFO);
    let impostor = Impostor::start().await;
    let mut watched = watched(&[impostor.address], 1);
    let url = format!("https://{}/price", impostor.address);
    watched.sources[0].address = url.parse().unwrap();
    let rates = rates(watched, &clock());
    rates.refresh().await;
    assert!(rates.rate(usd()).is_err());
    let told = log.lines_with(&["WARN", "cannot be reached", "certificate"]);
    assert_eq!(told.len(), 1, "{log:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let honest = Teller::who_says(r#"{"usd": 97000}"#).await;
    let elsewhere = Manner::Redirects(format!("http://{}/", honest.address));
    let teller = Teller::who(elsewhere).await;
    let rates = rates(watched(&[teller.address], 1), &clock());
    rates.refresh().await;
    assert!(rates.rate(usd()).is_err());
    assert_eq!((teller.count(), honest.count()), (1, 0));
}

#[tokio::test]
async fn one_liar_among_three_changes_nothing() {
    let honest = [
        Teller::who_says(r#"{"usd": 97000}"#).await,
        Teller::who_says(r#"{"usd": "97100"}"#).await,
    ];
    let liar = Teller::who_says(r#"{"usd": 1}"#).await;
    let sources = [liar.address, honest[0].address, honest[1].address];
    for lie in ["1", "97050", "999999999", "\"garbage\""] {
        liar.now_says(&format!("{{\"usd\": {lie}}}"));
        let rates = rates(watched(&sources, 2), &clock());
        rates.refresh().await;
        let micros = rates.rate(usd()).unwrap().micros_per_btc;
        let honest = rate("97000").micros_per_btc..=rate("97100").micros_per_btc;
        assert!(honest.contains(&micros), "{lie}: {micros}");
    }
}

#[tokio::test]
async fn a_liar_does_not_win_when_an_honest_source_falls_silent() {
    let (log, _listening) = Log::listen_at(Level::INFO);
    let honest = Teller::who_says(r#"{"usd": 97000}"#).await;
    let silent = Teller::who_says(r#"{"usd": 97000}"#).await;
    let liar = Teller::who_says(r#"{"usd": 60000}"#).await;
    let sources = [liar.address, honest.address, silent.address];
    let clock = clock();
    let rates = rates(watched(&sources, 2), &clock);
    rates.refresh().await;
    silent.now(Manner::Refuses(503, String::new()));
    clock.advance(MAX_AGE);
    rates.refresh().await;
    assert_eq!(
        rates.rate(usd()),
        Ok(rate("97000")),
        "what was known, as long as it is good"
    );
    assert_eq!(
        log.lines_with(&["WARN", "disagree", "60000.00 USD"]).len(),
        1,
        "{log:?}"
    );
    clock.advance(Duration::from_secs(1));
    assert!(matches!(
        rates.rate(usd()),
        Err(Unpriced::RateTooOld { .. })
    ));
}

#[tokio::test]
async fn an_old_rate_is_refused_and_a_new_one_ends_that() {
    let (log, _listening) = Log::listen_at(Level::INFO);
    let teller = Teller::who_says(r#"{"usd": 97000}"#).await;
    let clock = clock();
    let rates = rates(watched(&[teller.address], 1), &clock);
    rates.refresh().await;
    teller.now(Manner::Refuses(500, String::new()));
    clock.advance(MAX_AGE);
    rates.refresh().await;
    assert_eq!(rates.rate(usd()), Ok(rate("97000")));
    clock.advance(Duration::from_secs(1));
    rates.refresh().await;
    let too_old = Unpriced::RateTooOld {
        currency: usd(),
        age_secs: 601,
    };
    assert_eq!(rates.rate(usd()), Err(too_old));
    assert_eq!(log.lines_with(&["ERROR", "601 s"]).len(), 1, "{log:?}");
    assert!(!rates.status()[0].is_usable);
    teller.now_says(r#"{"usd": 98000}"#);
    rates.refresh().await;
    assert_eq!(rates.rate(usd()), Ok(rate("98000")));
    assert_eq!(log.lines_with(&["INFO", "again"]).len(), 1, "{log:?}");
    assert_eq!(rates.status()[0].sources[0].error, None);
}

#[tokio::test]
async fn a_clock_that_goes_back_makes_no_rate_young() {
    let teller = Teller::who_says(r#"{"usd": 97000}"#).await;
    let later = Clock::fixed(NOW_SECS + 86_400);
    let before = rates(watched(&[teller.address], 1), &later);
    before.refresh().await;
    let same = RateConfig {
        currency: usd(),
        origin: RateOrigin::Watched(watched(&[teller.address], 1)),
    };
    let rates = Rates::new(vec![same], clock()).after(&before);
    assert!(matches!(
        rates.rate(usd()),
        Err(Unpriced::RateTooOld { .. })
    ));
    rates.refresh().await;
    assert_eq!(rates.rate(usd()), Ok(rate("97000")));
}

#[tokio::test]
async fn a_rate_that_jumps_is_not_taken_until_it_comes_back_or_the_operator_says_so() {
    let (log, _listening) = Log::listen_at(Level::INFO);
    let teller = Teller::who_says(r#"{"usd": 97000}"#).await;
    let clock = clock();
    let before = rates(watched(&[teller.address], 1), &clock);
    before.refresh().await;
    teller.now_says(r#"{"usd": 9700000}"#);
    for _ in 0..3 {
        clock.advance(MAX_AGE);
        before.refresh().await;
    }
    assert!(before.rate(usd()).is_err());
    assert_eq!(
        log.lines_with(&["WARN", "9700000.00 USD after 97000.00 USD"])
            .len(),
        1,
        "{log:?}"
    );
    // The same settings read again are not the operator's word.
    let same = rates(watched(&[teller.address], 1), &clock).after(&before);
    same.refresh().await;
    assert!(same.rate(usd()).is_err());
    let other = Watched {
        max_age: MAX_AGE * 2,
        ..watched(&[teller.address], 1)
    };
    let changed = rates(other, &clock).after(&before);
    changed.refresh().await;
    assert_eq!(changed.rate(usd()), Ok(rate("9700000")));
    teller.now_says(r#"{"usd": 97500}"#);
    before.refresh().await;
    assert_eq!(before.rate(usd()), Ok(rate("97500")));
}

#[tokio::test]
async fn the_settings_bounds_hold_for_the_first_rate() {
    let teller = Teller::who_says(r#"{"usd": 9700000}"#).await;
    let bounded = Watched {
        at_most: Some(rate("1000000")),
        ..watched(&[teller.address], 1)
    };
    let rates = rates(bounded, &clock());
    rates.refresh().await;
    assert!(rates.rate(usd()).is_err());
    assert!(
        rates.status()[0]
            .doubt
            .as_ref()
            .unwrap()
            .contains("at_most")
    );
}

#[tokio::test]
async fn new_settings_keep_what_is_known_of_a_currency_that_stays() {
    let teller = Teller::who_says(r#"{"usd": 97000}"#).await;
    let clock = clock();
    let before = rates(watched(&[teller.address], 1), &clock);
    before.refresh().await;
    let after = rates(watched(&[teller.address], 1), &clock).after(&before);
    assert_eq!(after.rate(usd()), Ok(rate("97000")));
    assert_eq!(teller.count(), 1);
}

#[tokio::test]
async fn rates_are_asked_again_and_again_until_told_to_stop() {
    let teller = Teller::who(Manner::Refuses(503, String::new())).await;
    let often = Watched {
        refresh: Duration::from_millis(20),
        ..watched(&[teller.address], 1)
    };
    let rates = Arc::new(rates(often, &clock()));
    let stop = CancellationToken::new();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(Arc::clone(&rates).run(stop.clone()));
    let known = |wanted: &'static str| {
        let rates = Arc::clone(&rates);
        async move {
            eventually("the rate", DEADLINE, || async {
                let known = rates.rate(usd());
                if known == Ok(rate(wanted)) {
                    Ok(Some(()))
                } else {
                    Err(format!("{known:?}"))
                }
            })
            .await
            .unwrap();
        }
    };
    // After a failure, too.
    teller.is_asked(1).await;
    teller.now_says(r#"{"usd": 97000}"#);
    known("97000").await;
    teller.now_says(r#"{"usd": 97500}"#);
    known("97500").await;
    // Also in the middle of a question.
    teller.now(Manner::Lingers);
    teller.is_asked(teller.count() + 1).await;
    stop.cancel();
    tokio::time::timeout(DEADLINE, running.join_all())
        .await
        .expect("it ends when told to");
}
