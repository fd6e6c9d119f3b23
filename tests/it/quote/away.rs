//! The fallback price of the settings applies only while the hook is away, never because of a client's request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tollhouse::base::amount::Msat;
use tollhouse::sell::quote::{AskError, Hook, HookConfig, HookError, OnFailure, QuotedGrant};

use super::hooks::{IMPATIENCE, PRICE, config, hook, impatient, quote, why, wrong};
use crate::support::log::Log;
use crate::support::teller::{Manner, Teller, nobody};
use tracing::Level;

/// Longer than the time after an unanswered request in which a hook does not count as away.
const OUT_OF_DOUBT: Duration = Duration::from_secs(601);

fn ten_sat() -> Msat {
    Msat::from_sat(10).unwrap()
}

/// The same hook with a fallback price of ten satoshi.
fn with_fallback(config: HookConfig) -> HookConfig {
    HookConfig {
        on_failure: OnFailure::Price(ten_sat()),
        ..config
    }
}

/// Whether this request is sold at the fallback price; panics at any other price.
async fn is_fallback(hook: &Hook, path: &str) -> bool {
    match quote(hook, path).await {
        Ok(quoted) => {
            assert_eq!(quoted.price, ten_sat());
            assert_eq!(quoted.grant, QuotedGrant::default());
            true
        }
        Err(_) => false,
    }
}

/// Every failure that a client could cause.
fn inducible() -> Vec<(Manner, &'static str)> {
    let says = |body: &str| Manner::Says(body.to_owned());
    let mut all = wrong();
    all.extend([
        (says("{\"price_sat\": 1000}"), "price_sat"),
        (says("{\"price_msat\": \"1000\"}"), "1000"),
        (says("{\"price_msat\": null}"), "null"),
        (says("{\"error\": \"no such model\"}"), "no such model"),
        (says("[1000]"), "1000"),
        (says("\u{1f}\u{8b}\u{8}"), "u{1f}"),
        (
            says("{\"price_msat\": 1000, \"grant\": {\"valid_secs\": 99999999999}}"),
            "valid_secs",
        ),
        (Manner::Refuses(400, String::new()), "status 400"),
        (Manner::Refuses(429, String::new()), "status 429"),
        (Manner::Refuses(502, String::new()), "status 502"),
        (Manner::Refuses(503, String::new()), "status 503"),
        (Manner::Refuses(204, String::new()), "status 204"),
    ]);
    all
}

#[tokio::test]
async fn a_failure_that_a_client_can_cause_never_gets_the_fallback_price() {
    for (manner, words) in inducible() {
        let (log, _listening) = Log::listen_at(Level::INFO);
        let teller = Teller::who(manner).await;
        let (hook, clock) = hook(with_fallback(config(teller.address)));
        for _ in 0..2 {
            let why = why(quote(&hook, "/a").await);
            assert!(!matches!(why, HookError::Busy), "{words}: {why}");
        }
        clock.advance(OUT_OF_DOUBT);
        assert!(quote(&hook, "/a").await.is_err(), "{words}");
        assert!(!log.lines_with(&["WARN", "pricer"]).is_empty(), "{words}");
        for number in 0..50 {
            assert!(quote(&hook, &format!("/{number}")).await.is_err());
        }
        let told = log.lines_with(&["WARN", "pricer"]).len();
        assert_eq!(told, 2, "{words}: the log repeats it only now and then");
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_gets_no_price() {
    for manner in [Manner::Lingers, Manner::Drips] {
        let teller = Teller::who(manner).await;
        let (hook, clock) = hook(with_fallback(impatient(teller.address)));
        let late = why(quote(&hook, "/a").await);
        assert_eq!(late, HookError::Ask(AskError::Late(IMPATIENCE)));
        assert!(
            !is_fallback(&hook, "/a").await,
            "nor while the failure is remembered"
        );
        teller.now_says(PRICE);
        clock.advance(Duration::from_secs(1));
        assert_eq!(quote(&hook, "/a").await.unwrap().price.msat(), 2_500);
    }
}

#[tokio::test]
async fn while_a_hook_is_away_the_fallback_price_applies() {
    for cache in [Duration::from_secs(60), Duration::ZERO] {
        let (log, _listening) = Log::listen_at(Level::INFO);
        let (hook, clock) = hook(HookConfig {
            cache,
            ..with_fallback(config(nobody()))
        });
        for _ in 0..3 {
            for path in ["/a", "/b"] {
                assert!(is_fallback(&hook, path).await);
            }
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(log.lines_with(&["WARN", "cannot be reached"]).len(), 1);
    }
    let nameless = HookConfig {
        address: "http://tollhouse.invalid/price".parse().unwrap(),
        ..with_fallback(config(nobody()))
    };
    assert!(is_fallback(&hook(nameless).0, "/a").await);
}

#[tokio::test]
async fn a_hook_that_was_reached_and_stops_is_away_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (hook, _) = hook(with_fallback(config(listener.local_addr().unwrap())));
    is_answered(&hook, &listener, "/a").await;
    drop(listener);
    assert!(is_fallback(&hook, "/b").await);
    let known = quote(&hook, "/a").await.unwrap();
    assert_eq!(
        known.price.msat(),
        2_500,
        "an earlier answer stays valid for its time"
    );
}

/// Lets the hook answer one request with a price, on a connection that is not reused.
async fn is_answered(hook: &Hook, listener: &TcpListener, path: &str) {
    let answering = async {
        let mut stream = accepts_a_request(listener).await;
        let length = PRICE.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{PRICE}"
        );
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes())
            .await
            .unwrap();
    };
    let (quoted, ()) = tokio::join!(quote(hook, path), answering);
    assert_eq!(quoted.unwrap().price.msat(), 2_500);
}

async fn accepts_a_request(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut question = [0; 4_096];
    assert!(stream.read(&mut question).await.unwrap() > 0);
    stream
}

#[tokio::test]
async fn a_request_that_crashes_the_hook_makes_the_next_one_no_cheaper() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (hook, clock) = hook(with_fallback(config(listener.local_addr().unwrap())));
    let dying = async { drop(accepts_a_request(&listener).await) };
    let (quoted, ()) = tokio::join!(quote(&hook, "/poison"), dying);
    let why = why(quoted);
    assert!(
        matches!(why, HookError::Ask(AskError::BrokeOff { .. })),
        "{why}"
    );
    drop(listener);
    for step in 0..60 {
        assert!(!is_fallback(&hook, &format!("/{step}")).await, "{step}");
        clock.advance(Duration::from_secs(10));
    }
    assert!(is_fallback(&hook, "/later").await, "it stays away");
}

#[tokio::test]
async fn a_hook_that_answers_long_after_an_unanswered_request_is_away_when_it_stops() {
    // An answer soon after may come before the other request crashes the hook.
    for (secs, is_away) in [(0, false), (29, false), (30, true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (hook, clock) = hook(with_fallback(config(listener.local_addr().unwrap())));
        let dying = async { drop(accepts_a_request(&listener).await) };
        let (quoted, ()) = tokio::join!(quote(&hook, "/poison"), dying);
        assert!(quoted.is_err());
        clock.advance(Duration::from_secs(secs));
        is_answered(&hook, &listener, "/a").await;
        drop(listener);
        assert_eq!(is_fallback(&hook, "/b").await, is_away, "{secs}");
        clock.advance(Duration::from_secs(31));
        assert_eq!(is_fallback(&hook, "/c").await, is_away, "{secs}");
        clock.advance(OUT_OF_DOUBT);
        assert!(is_fallback(&hook, "/d").await, "{secs}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_before_its_request_crashes_the_hook_gains_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (hook, clock) = hook(with_fallback(config(listener.local_addr().unwrap())));
    let hook = Arc::new(hook);
    let mut asking = JoinSet::new();
    let asked = Arc::clone(&hook);
    asking.spawn(async move { quote(&asked, "/poison").await });
    let stream = accepts_a_request(&listener).await;
    asking.abort_all();
    let ended = asking.join_next().await.unwrap();
    assert!(ended.unwrap_err().is_cancelled());
    drop((stream, listener));
    assert!(!is_fallback(&hook, "/a").await);
    clock.advance(Duration::from_secs(599));
    assert!(!is_fallback(&hook, "/c").await);
    clock.advance(OUT_OF_DOUBT);
    assert!(is_fallback(&hook, "/b").await);
}

/// A listener with a full backlog, which accepts no further connection.
async fn full_listener() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    loop {
        let connecting = TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(200), connecting).await {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_) => return (listener, address, waiting),
        }
    }
}

#[tokio::test]
async fn a_hook_that_is_too_busy_to_accept_a_connection_is_not_away() {
    let (listener, address, mut waiting) = full_listener().await;
    let short = HookConfig {
        timeout: Duration::from_millis(300),
        cache: Duration::ZERO,
        ..with_fallback(config(address))
    };
    let (hook, clock) = hook(short);
    // The hook was never connected to, so it counts as away.
    assert!(is_fallback(&hook, "/a").await);
    // Makes room for one request, which is not answered, and for no other.
    drop(waiting.pop());
    while let Ok(accepted) =
        tokio::time::timeout(Duration::from_millis(200), listener.accept()).await
    {
        drop(accepted.unwrap());
    }
    assert!(!is_fallback(&hook, "/slow").await);
    let mut again = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        again.push(stream.unwrap());
    }
    assert!(!is_fallback(&hook, "/dear").await);
    clock.advance(OUT_OF_DOUBT);
    assert!(is_fallback(&hook, "/b").await);
}
