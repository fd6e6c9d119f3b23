//! Seconds of work: by what the upstream says of it in a header or behind its answer, else by the time that passes.

use http::header::AUTHORIZATION;
use tollhouse::account::ledger::record::Revoked;

use crate::support::answers::assert_challenged;
use crate::support::upstream::Upstream;
use crate::support::{DEADLINE, Shop, Sold};

async fn metered(upstream: &Upstream, keys: &str) -> Shop {
    let route = "[[route]]\npath = \"/w/*\"\nservice = \"w\"\nprice = \"10 sat\"";
    let behind = upstream.address;
    Shop::selling(&format!(
        "{route}\nupstream = \"http://{behind}\"\n{keys}\n"
    ))
    .await
}

/// What is left before the next request, in seconds.
async fn left(shop: &Shop, sold: &Sold, path: &str) -> u64 {
    let answer = shop.get_with(path, sold).await;
    let left = answer.header("l402-remaining-seconds");
    left.expect("it is served").parse().unwrap()
}

/// An answer whose head has come and whose body runs.
async fn begin_stream(shop: &Shop, sold: &Sold) -> reqwest::Response {
    let request = reqwest::Client::new().get(shop.url("/w/stream"));
    let request = request.header(AUTHORIZATION, sold.header());
    request.send().await.unwrap()
}

#[tokio::test]
async fn what_the_upstream_says_of_its_work_is_what_counts() {
    let upstream = Upstream::start().await;
    for path in ["/w/worked", "/w/worked-behind"] {
        let keys = "grant = { seconds = 5 }\nmetered_by = \"x-work-seconds\"";
        let shop = metered(&upstream, keys).await;
        let sold = shop.buy(path).await;
        // Two and a half seconds each.
        assert_eq!(left(&shop, &sold, path).await, 5);
        assert_eq!(left(&shop, &sold, path).await, 3);
        let reached = upstream.count();
        assert_challenged(&shop.get_with(path, &sold).await);
        assert_eq!(upstream.count(), reached, "refused before it is forwarded");
    }
}

#[tokio::test]
async fn an_upstream_that_fails_takes_no_seconds() {
    let upstream = Upstream::start().await;
    let keys = "grant = { seconds = 5 }\nmetered_by = \"x-work-seconds\"";
    let shop = metered(&upstream, keys).await;
    let sold = shop.buy("/w/worked").await;
    for _ in 0..3 {
        let failed = shop.get_with("/w/fails", &sold).await;
        assert_eq!(failed.status, 503);
    }
    assert_eq!(left(&shop, &sold, "/w/worked").await, 5);
}

#[tokio::test]
async fn where_nobody_says_it_the_time_until_the_last_byte_counts_also_while_it_runs() {
    let upstream = Upstream::start().await;
    let shop = metered(&upstream, "grant = { seconds = 60 }").await;
    let sold = shop.buy("/w/stream").await;
    let running = begin_stream(&shop, &sold).await;
    upstream.is_streaming(true).await;
    shop.has_counted_a_second().await;
    upstream.end();
    running.text().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_runs_out_of_seconds_is_cut_where_the_route_says() {
    let upstream = Upstream::start().await;
    let shop = metered(&upstream, "grant = { seconds = 1 }\noverrun = \"cut\"").await;
    let sold = shop.buy("/w/stream").await;
    let running = begin_stream(&shop, &sold).await;
    upstream.send_chunk();
    let ended = tokio::time::timeout(DEADLINE, running.bytes()).await;
    assert!(ended.expect("it is cut in time").is_err());
    upstream.is_streaming(false).await;
    assert_challenged(&shop.get_with("/w/stream", &sold).await);
}

#[tokio::test]
async fn an_answer_that_runs_ends_when_its_token_is_revoked() {
    let upstream = Upstream::start().await;
    // Neither metered nor cut by its grant: only the revocation ends it.
    let shop = metered(&upstream, "grant = { requests = 9 }").await;
    let sold = shop.buy("/w/stream").await;
    let other = shop.buy("/w/stream").await;
    let (running, its_neighbour) = (
        begin_stream(&shop, &sold).await,
        begin_stream(&shop, &other).await,
    );
    let token_id = sold.identifier().token_id.0;
    shop.ledger
        .revoke(Revoked::Token(token_id), "shared in public")
        .unwrap();
    assert_cut_off(&upstream, running).await;
    upstream.end();
    its_neighbour.text().await.unwrap();
}

#[tokio::test]
async fn a_running_answer_ends_when_the_key_of_its_token_retires() {
    let upstream = Upstream::start().await;
    let shop = metered(&upstream, "grant = { requests = 9 }").await;
    let sold = shop.buy("/w/stream").await;
    let running = begin_stream(&shop, &sold).await;
    shop.keyring.rotate(shop.clock.unix_secs()).unwrap();
    assert_cut_off(&upstream, running).await;
}

/// The answer is cut off when one of the next pieces is sent. While nothing is sent, nothing has to be cut.
async fn assert_cut_off(upstream: &Upstream, running: reqwest::Response) {
    let ended = tokio::time::timeout(DEADLINE, running.bytes());
    let sending = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            every.tick().await;
            upstream.send_chunk();
        }
    };
    let ended = tokio::select! {
        ended = ended => ended,
        () = sending => unreachable!("it sends for ever"),
    };
    assert!(ended.expect("it is cut in time").is_err());
}
