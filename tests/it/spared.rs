//! A limit on the log lines that any client can cause.

use std::time::Duration;

use tokio::net::TcpListener;
use tollhouse::base::sparing::{LINES_MAX, PERIOD};

use crate::support::log::Log;
use crate::support::server::Server;
use crate::support::{Closed, Setup, Shop};

const REQUESTS: u64 = 200;

/// The lines that the default log level shows.
fn lines(log: &Log) -> Vec<String> {
    let text = log.text();
    let is_seen = |line: &&str| {
        [" INFO ", " WARN ", "ERROR "]
            .iter()
            .any(|level| line.contains(level))
    };
    text.lines().filter(is_seen).map(str::to_owned).collect()
}

/// Sends many requests, and one more after a while. All run on one thread, so that every line is in this test's
/// log.
async fn assert_spared(shop: &Shop, log: &Log, path: &str, what: &str) {
    for _ in 0..REQUESTS {
        shop.get(path).await;
    }
    let said = lines(log);
    let about: Vec<_> = said.iter().filter(|line| line.contains(what)).collect();
    assert_eq!(about.len() as u64, LINES_MAX, "{what} in {said:#?}");
    assert!(said.len() as u64 <= 3 * LINES_MAX, "{said:#?}");
    shop.clock.advance(PERIOD);
    shop.get(path).await;
    let said = lines(log);
    let more = format!("{} more lines like this", REQUESTS - LINES_MAX);
    assert!(said.iter().any(|line| line.contains(&more)), "{said:#?}");
    let about = said.iter().filter(|line| line.contains(what)).count();
    assert!(about as u64 > LINES_MAX, "{said:#?}");
}

fn route(keys: &str) -> String {
    format!("[[route]]\npath = \"/a/*\"\nservice = \"a\"\n{keys}\n")
}

#[tokio::test]
async fn a_dry_run_is_logged_a_few_times_and_then_counted() {
    let shop = Shop::selling(&route(
        "price = \"10 sat\"\ndry_run = true\nfiles = \"shop\"",
    ))
    .await;
    let (log, _listening) = Log::listen();
    assert_spared(&shop, &log, "/a/page.txt", "Dry run: GET").await;
    assert_eq!(shop.gate.dry_run().requests, REQUESTS + 1);
}

#[tokio::test]
async fn an_upstream_that_is_away_is_logged_a_few_times_and_then_counted() {
    let closed = Closed::new();
    let shop = Shop::before(closed.address).await;
    let (log, _listening) = Log::listen();
    assert_spared(&shop, &log, "/open/x", "does not answer").await;
}

#[tokio::test]
async fn one_of_two_servers_that_is_away_is_logged_a_few_times_and_then_counted() {
    let (a, b) = (Closed::new(), Closed::new());
    let servers = format!(
        "[[route]]\npath = \"/a/*\"\naccess = \"free\"\nupstream = {{ urls = [\"http://{}\", \"http://{}\"] }}\n",
        a.address, b.address
    );
    let shop = Shop::selling(&servers).await;
    let (log, _listening) = Log::listen();
    assert_spared(&shop, &log, "/a/x", "The upstream of /a/* does not answer").await;
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_logged_a_few_times_and_then_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut setup = Setup {
        upstream: Some(listener.local_addr().unwrap()),
        ..Setup::default()
    };
    setup.resource.upstream_timeout = Duration::from_millis(1);
    let shop = Shop::with(setup).await;
    let (log, _listening) = Log::listen();
    assert_spared(&shop, &log, "/open/x", "took too long").await;
}

#[tokio::test]
async fn answers_that_break_off_are_logged_a_few_times_and_then_counted() {
    let broken = "HTTP/1.1 200 OK
content-length: 1000

only this";
    let upstream = Server::saying(broken).await;
    let shop = Shop::before(upstream.address).await;
    let (log, _listening) = Log::listen();
    let request = format!(
        "GET /open/x HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        shop.address
    );
    for _ in 0..REQUESTS {
        crate::support::raw::exchange(shop.address, request.as_bytes()).await;
    }
    let said = lines(&log);
    let about = said.iter().filter(|line| line.contains("broke off"));
    assert_eq!(about.count() as u64, LINES_MAX, "{said:#?}");
}

#[tokio::test]
async fn a_hook_that_is_away_is_logged_a_few_times_and_then_counted() {
    let closed = Closed::new();
    let hook = format!(
        "[[hook]]\nname = \"h\"\nurl = \"http://{}/price\"\nprice_max = \"10 sat\"\n{}",
        closed.address,
        route("price = { by = \"hook:h\" }\nfiles = \"shop\"")
    );
    let shop = Shop::selling(&hook).await;
    let (log, _listening) = Log::listen();
    for number in 0..REQUESTS {
        // A failure is remembered for a moment.
        shop.clock.advance(Duration::from_millis(10));
        shop.get(&format!("/a/{number}")).await;
    }
    let said = lines(&log);
    assert!(said.len() as u64 <= 2 * LINES_MAX, "{said:#?}");
    assert!(
        said.iter().any(|line| line.contains("gave no price")),
        "{said:#?}"
    );
}

#[tokio::test]
async fn refused_requests_log_nothing() {
    let shop = Shop::open().await;
    let (log, _listening) = Log::listen();
    for broken in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /../.. HTTP/1.1\r\nhost: a\r\n\r\n",
        "\x16\x03\x01 a handshake",
        "GET /counted/page.txt HTTP/1.1\r\nhost: a\r\nauthorization: L402 AAAA:00\r\n\r\n",
    ] {
        for _ in 0..20 {
            crate::support::raw::exchange(shop.address, broken.as_bytes()).await;
        }
    }
    assert_eq!(lines(&log), [""; 0]);
}
