//! The price hook: asked once for what many want, never waited for longer than its time, and never believed what cannot be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;
use tokio::task::JoinSet;
use tollhouse::base::amount::Msat;
use tollhouse::base::clock::Clock;
use tollhouse::sell::quote::{
    AskError, Hook, HookConfig, HookError, HookRequest, Hooks, OnFailure, Quoted, Unpriced,
};

use crate::support::{DEADLINE, NOW_SECS};

use crate::support::log::Log;
use crate::support::teller::{Manner, Teller, nobody};
use tracing::Level;

const CACHE: Duration = Duration::from_secs(60);

pub(super) const PRICE: &str = r#"{"price_msat": 2500}"#;

pub(super) fn config(address: SocketAddr) -> HookConfig {
    HookConfig {
        name: "pricer".into(),
        address: format!("http://{address}/price?key=secret")
            .parse()
            .unwrap(),
        timeout: DEADLINE,
        headers: vec![HeaderName::from_static("accept-language")],
        cache: CACHE,
        price_max: Msat::from_sat(1_000).unwrap(),
        on_failure: OnFailure::Refuse,
    }
}

/// Soon over where nothing answers, and long enough for a busy machine to answer.
pub(super) const IMPATIENCE: Duration = Duration::from_secs(2);

/// With an answer that is soon late.
pub(super) fn impatient(address: SocketAddr) -> HookConfig {
    HookConfig {
        timeout: IMPATIENCE,
        ..config(address)
    }
}

pub(super) fn hook(config: HookConfig) -> (Hook, Clock) {
    let clock = Clock::fixed(NOW_SECS);
    (Hook::new(config, clock.clone()), clock)
}

/// Asks for the price of this path.
pub(super) async fn quote(hook: &Hook, path: &str) -> Result<Quoted, Unpriced> {
    let headers = HeaderMap::new();
    let request = HookRequest {
        method: &Method::GET,
        path,
        query: None,
        headers: &headers,
        service: "s",
        route: "/*",
    };
    hook.quote(&request).await
}

pub(super) fn why(quoted: Result<Quoted, Unpriced>) -> HookError {
    match quoted {
        Err(Unpriced::Hook { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hook_is_told_the_request_and_says_its_price() {
    let answer = r#"{"price_msat": 2500, "description": "a page", "grant": {"requests": 2}}"#;
    let teller = Teller::who_says(answer).await;
    let (hook, _) = hook(config(teller.address));
    let mut headers = HeaderMap::new();
    headers.insert("accept-language", HeaderValue::from_static("de"));
    headers.insert("cookie", HeaderValue::from_static("private"));
    let request = HookRequest {
        method: &Method::POST,
        path: "/translate/a%20b",
        query: Some("to=fr&fast"),
        headers: &headers,
        service: "translate",
        route: "/translate/*",
    };
    let quoted = hook.quote(&request).await.unwrap();
    assert_eq!(quoted.price.msat(), 2_500);
    assert_eq!(quoted.description.as_deref(), Some("a page"));
    assert_eq!(quoted.grant.requests, Some(2));
    let told = json!({
        "method": "POST", "path": "/translate/a%20b", "query": "to=fr&fast",
        "headers": { "accept-language": "de" }, "service": "translate", "route": "/translate/*",
    });
    assert_eq!(teller.asked(), [told]);
}

#[tokio::test]
async fn the_same_question_is_asked_once_while_its_answer_is_good() {
    let teller = Teller::who_says(PRICE).await;
    let (hook, clock) = hook(config(teller.address));
    for _ in 0..3 {
        assert_eq!(quote(&hook, "/a").await.unwrap().price.msat(), 2_500);
    }
    assert_eq!(teller.count(), 1);
    assert!(quote(&hook, "/b").await.is_ok());
    assert_eq!(teller.count(), 2, "another path is another question");
    teller.now_says(r#"{"price_msat": 2600}"#);
    clock.advance(CACHE - Duration::from_millis(1));
    assert_eq!(quote(&hook, "/a").await.unwrap().price.msat(), 2_500);
    clock.advance(Duration::from_millis(1));
    assert_eq!(quote(&hook, "/a").await.unwrap().price.msat(), 2_600);
    assert_eq!(teller.count(), 3);
}

#[tokio::test]
async fn only_what_the_hook_is_told_makes_another_question() {
    let teller = Teller::who_says(PRICE).await;
    let (hook, _) = hook(config(teller.address));
    let mut headers = HeaderMap::new();
    let ask = async |headers: &HeaderMap| {
        let request = HookRequest {
            method: &Method::GET,
            path: "/a",
            query: None,
            headers,
            service: "s",
            route: "/*",
        };
        hook.quote(&request).await.unwrap();
        teller.count()
    };
    assert_eq!(ask(&headers).await, 1);
    headers.insert("x-random", HeaderValue::from_static("1"));
    headers.insert("authorization", HeaderValue::from_static("L402 AgEE:00"));
    assert_eq!(ask(&headers).await, 1);
    headers.insert("accept-language", HeaderValue::from_static("de"));
    assert_eq!(ask(&headers).await, 2);
}

#[tokio::test]
async fn without_a_cache_every_request_is_asked_for() {
    let teller = Teller::who_says(PRICE).await;
    let (hook, _) = hook(HookConfig {
        cache: Duration::ZERO,
        ..config(teller.address)
    });
    for count in 1..4 {
        assert!(quote(&hook, "/a").await.is_ok());
        assert_eq!(teller.count(), count);
    }
}

/// So many clients at once, each with this path.
fn crowd(
    hook: &Arc<Hook>,
    count: usize,
    path: fn(usize) -> String,
) -> JoinSet<Result<Quoted, Unpriced>> {
    let mut clients = JoinSet::new();
    for n in 0..count {
        let hook = Arc::clone(hook);
        clients.spawn(async move { quote(&hook, &path(n)).await });
    }
    clients
}

#[tokio::test]
async fn fifty_who_want_the_same_price_at_once_are_one_question() {
    let teller = Teller::who(Manner::SaysWhenTold(PRICE.into())).await;
    let hook = Arc::new(hook(config(teller.address)).0);
    let clients = crowd(&hook, 50, |_| "/a".to_owned());
    teller.is_asked(1).await;
    teller.tell(50);
    for quoted in clients.join_all().await {
        assert_eq!(quoted.unwrap().price.msat(), 2_500);
    }
    assert_eq!(teller.count(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_nobody_elses_price_with_it() {
    let teller = Teller::who(Manner::SaysWhenTold(PRICE.into())).await;
    let hook = Arc::new(hook(config(teller.address)).0);
    let mut first = crowd(&hook, 1, |_| "/a".to_owned());
    teller.is_asked(1).await;
    let second = crowd(&hook, 1, |_| "/a".to_owned());
    first.abort_all();
    assert!(first.join_next().await.unwrap().unwrap_err().is_cancelled());
    teller.is_asked(2).await;
    teller.tell(2);
    assert!(second.join_all().await.remove(0).is_ok());
}

#[tokio::test]
async fn a_flood_of_questions_does_not_become_a_flood_at_the_hook() {
    let teller = Teller::who(Manner::SaysWhenTold(PRICE.into())).await;
    let hook = Arc::new(hook(config(teller.address)).0);
    let clients = crowd(&hook, 100, |n| format!("/{n}"));
    teller.is_asked(64).await;
    teller.tell(100);
    let quoted = clients.join_all().await;
    let busy = quoted.into_iter().filter_map(Result::err);
    let busy: Vec<_> = busy.map(|unpriced| why(Err(unpriced))).collect();
    assert_eq!(busy, vec![HookError::Busy; 36]);
    assert_eq!(teller.count(), 64);
    // Whoever was turned away is welcome a moment later.
    for n in 0..100 {
        assert!(quote(&hook, &format!("/{n}")).await.is_ok());
    }
    assert_eq!(teller.count(), 100);
}

/// What a hook does wrong, and a word of what the log says of it.
pub(super) fn wrong() -> Vec<(Manner, &'static str)> {
    let says = |body: &str| Manner::Says(body.to_owned());
    vec![
        (says(""), ": nothing"),
        (says("<html>out of order</html>"), "out of order"),
        (says("{\"price_msat\": -5}"), "-5"),
        (says("{\"price_msat\": 0}"), "price of zero"),
        (says("{\"price_msat\": 2.5}"), "2.5"),
        (says("{\"price_msat\": 1000001}"), "1000001 msat"),
        (
            says("{\"price_msat\": 18446744073709551615}"),
            "18446744073709551615 msat",
        ),
        (says("{\"price_msat\": 1e99}"), "1e99"),
        (says("{\"price\": 2500}"), "price_msat"),
        (
            says("{\"price_msat\": 5, \"grant\": {\"request\": 1}}"),
            "request",
        ),
        (
            says("{\"price_msat\": 5, \"grant\": {\"requests\": 0}}"),
            "requests",
        ),
        (Manner::Refuses(500, PRICE.into()), "status 500"),
        (
            Manner::Refuses(404, "no such price".into()),
            "no such price",
        ),
        (
            Manner::Redirects("http://127.0.0.1:1/".into()),
            "status 302",
        ),
        (Manner::Floods, "more than 65536 bytes"),
        (Manner::BreaksOff, "broke off"),
    ]
}

#[tokio::test]
async fn what_cannot_be_a_price_is_refused_and_the_log_says_which_hook_said_what() {
    for (manner, words) in wrong() {
        let (log, _listening) = Log::listen_at(Level::INFO);
        let teller = Teller::who(manner).await;
        let (hook, _) = hook(config(teller.address));
        let unpriced = quote(&hook, "/a").await.unwrap_err();
        assert!(unpriced.to_string().contains("pricer"), "{unpriced}");
        let detail = unpriced.detail();
        assert!(
            !detail.contains(words) && !detail.contains("pricer"),
            "{detail}"
        );
        let address = teller.address.to_string();
        let told = log.lines_with(&["WARN", "pricer", &address, "GET /a", words]);
        assert_eq!(told.len(), 1, "{words}: {log:?}");
        assert_eq!(log.lines_with(&["secret"]), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_hook_that_is_late_is_not_waited_for() {
    for manner in [Manner::Lingers, Manner::Drips] {
        let teller = Teller::who(manner).await;
        let hook = Arc::new(hook(impatient(teller.address)).0);
        let begun = Instant::now();
        let clients = crowd(&hook, 20, |_| "/a".to_owned());
        for quoted in clients.join_all().await {
            let late = HookError::Ask(AskError::Late(IMPATIENCE));
            assert_eq!(why(quoted), late);
        }
        assert!(begun.elapsed() < DEADLINE, "not one after the other");
        assert_eq!(teller.count(), 1);
    }
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_moment_and_no_longer() {
    let teller = Teller::who(Manner::Refuses(500, String::new())).await;
    let (hook, clock) = hook(config(teller.address));
    for _ in 0..5 {
        assert!(quote(&hook, "/a").await.is_err());
    }
    assert_eq!(teller.count(), 1);
    assert!(quote(&hook, "/b").await.is_err());
    assert_eq!(
        teller.count(),
        2,
        "what is wrong with one path may not be with another"
    );
    teller.now_says(PRICE);
    assert!(quote(&hook, "/a").await.is_err());
    clock.advance(Duration::from_secs(1));
    assert!(quote(&hook, "/a").await.is_ok());
}

#[tokio::test]
async fn who_had_to_wait_for_a_turn_speaks_for_nobody_else() {
    let teller = Teller::who(Manner::Lingers).await;
    let hook = Arc::new(hook(impatient(teller.address)).0);
    let mut first = crowd(&hook, 1, |_| "/a".to_owned());
    teller.is_asked(1).await;
    let second = crowd(&hook, 1, |_| "/a".to_owned());
    tokio::task::yield_now().await;
    first.abort_all();
    while first.join_next().await.is_some() {}
    let HookError::Ask(AskError::Late(time)) = why(second.join_all().await.remove(0)) else {
        panic!("late");
    };
    assert!(time <= IMPATIENCE, "{time:?}");
    teller.now_says(PRICE);
    assert!(
        quote(&hook, "/a").await.is_ok(),
        "the hook had less than its time"
    );
}

#[tokio::test]
async fn a_hook_that_is_not_there_is_not_knocked_at_by_every_request() {
    let (log, _listening) = Log::listen_at(Level::INFO);
    for cache in [CACHE, Duration::ZERO] {
        let clock = Clock::fixed(NOW_SECS);
        let config = HookConfig {
            cache,
            ..config(nobody())
        };
        let hooks = Hooks::new(vec![config], &clock);
        let hook = hooks.named("pricer").unwrap();
        for asked in 1..3 {
            for path in ["/a", "/b", "/c"] {
                let why = why(quote(hook, path).await);
                assert!(
                    matches!(why, HookError::Ask(AskError::Unreachable { .. })),
                    "{why}"
                );
            }
            assert_eq!(hooks.status()[0].asked, asked);
            clock.advance(Duration::from_secs(1));
        }
    }
    let told = log.lines_with(&["WARN", "cannot be reached"]);
    assert_eq!(told.len(), 2, "once a hook: {told:?}");
}

#[tokio::test]
async fn the_log_is_told_now_and_then_and_when_all_is_well_again() {
    let (log, _listening) = Log::listen_at(Level::INFO);
    let teller = Teller::who(Manner::Refuses(500, String::new())).await;
    let clock = Clock::fixed(NOW_SECS);
    let hooks = Hooks::new(vec![config(teller.address)], &clock);
    let hook = hooks.named("pricer").unwrap();
    for n in 0..5 {
        assert!(quote(hook, &format!("/{n}")).await.is_err());
    }
    assert_eq!(log.lines_with(&["WARN", "/0"]).len(), 1, "{log:?}");
    clock.advance(Duration::from_secs(10));
    assert!(quote(hook, "/x").await.is_err());
    let told = log.lines_with(&["WARN"]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[1].contains("/x") && told[1].contains("and 4 more"),
        "{told:?}"
    );
    teller.now_says(PRICE);
    clock.advance(Duration::from_secs(10));
    for path in ["/y", "/z"] {
        assert!(quote(hook, path).await.is_ok());
    }
    assert_eq!(
        log.lines_with(&["INFO", "pricer", "again"]).len(),
        1,
        "{log:?}"
    );
    let status = hooks.status().remove(0);
    assert_eq!((status.asked, status.failed), (8, 6));
    assert!(status.last_failure.unwrap().contains("status 500"));
    assert_eq!(status.last_failure_age_secs, Some(10));
}

#[tokio::test]
async fn new_settings_keep_what_a_hook_has_said_that_stays() {
    let teller = Teller::who_says(PRICE).await;
    let clock = Clock::fixed(NOW_SECS);
    let before = Hooks::new(vec![config(teller.address)], &clock);
    assert!(quote(before.named("pricer").unwrap(), "/a").await.is_ok());
    let after = Hooks::new(vec![config(teller.address)], &clock).after(&before);
    assert!(quote(after.named("pricer").unwrap(), "/a").await.is_ok());
    assert_eq!(teller.count(), 1);
    let changed = HookConfig {
        price_max: Msat::new(1).unwrap(),
        ..config(teller.address)
    };
    let after = Hooks::new(vec![changed], &clock).after(&after);
    assert!(quote(after.named("pricer").unwrap(), "/a").await.is_err());
    assert!(after.named("other").is_none());
}
