//! The relay in front of Esplora APIs, against real little servers that fail in every way and come back.

mod chains;
mod oracle;
mod strangers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Network;
use bitcoin::hashes::{Hash as _, sha256};
use http::StatusCode;
use regtest::wait::eventually;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tollhouse::base::clock::Clock;
use tollhouse::chain::esplora::{Config, Relay, Waits};

use crate::support::DEADLINE;
use oracle::{Manner, Oracle, block, transaction};

/// A relay that is asked as ldk-node asks it.
struct Asked {
    relay: Arc<Relay>,
    http: reqwest::Client,
    stop: CancellationToken,
    _running: JoinSet<()>,
}

impl Asked {
    async fn open(config: Config) -> Self {
        let (relay, listener) = Relay::open(config, Clock::system()).await.unwrap();
        let stop = CancellationToken::new();
        let (runs, its_stop) = (Arc::clone(&relay), stop.clone());
        let mut running = JoinSet::new();
        running.spawn(async move { match runs.run(listener, its_stop).await {} });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            relay,
            http,
            stop,
            _running: running,
        }
    }

    /// In front of these, with a budget that is no hindrance.
    async fn before(oracles: &[&Oracle]) -> Self {
        let urls = oracles.iter().map(|oracle| oracle.url());
        Self::open(config(urls.collect(), &missing())).await
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let url = format!("{}{path}", self.relay.url());
        let answer = self.http.get(url).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn good(&self, path: &str) -> String {
        let (status, text) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        text
    }

    async fn broadcast(&self, hex: &str) -> (StatusCode, String) {
        let url = format!("{}/tx", self.relay.url());
        let answer = self.http.post(url).body(hex.to_owned()).send();
        let answer = answer.await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// The complaint about the endpoint at this place.
    fn complaint(&self, index: usize) -> String {
        let endpoint = self.relay.status().endpoints.swap_remove(index);
        endpoint.last_complaint.unwrap_or_default()
    }
}

fn config(endpoints: Vec<String>, kept: &Path) -> Config {
    Config {
        network: Network::Regtest,
        endpoints,
        requests_per_hour: 100_000,
        kept: kept.to_owned(),
        needs_fees: false,
        waits: Waits::default(),
    }
}

/// A file that nobody can write.
fn missing() -> PathBuf {
    PathBuf::from("/nonexistent/chain.json")
}

const TIP: &str = "/blocks/tip/hash";

#[tokio::test]
async fn whatever_way_an_endpoint_fails_the_next_one_answers() {
    let mut asking = JoinSet::new();
    for (manner, complaint) in [
        (Manner::Refuses(429, None), "429"),
        (Manner::Refuses(500, None), "500"),
        (Manner::Refuses(503, Some(9)), "503"),
        (Manner::Refuses(404, None), "404"),
        (Manner::Says("<html>Welcome</html>"), "no block hash"),
        (Manner::Says(""), "no block hash"),
        (Manner::Floods, "more than"),
        (Manner::Never, "did not answer"),
        (Manner::BreaksOff, "cannot be reached"),
    ] {
        asking.spawn(async move {
            let (bad, good) = (Oracle::start(110).await, Oracle::start(110).await);
            bad.now(manner);
            let asked = Asked::before(&[&bad, &good]).await;
            let tip = block(110).block_hash().to_string();
            assert_eq!(asked.good(TIP).await, tip, "{manner:?}");
            let status = asked.relay.status();
            assert!(!status.endpoints[0].is_in_use && status.endpoints[1].is_in_use);
            assert_eq!(status.degraded_since_secs, None);
            let said = asked.complaint(0);
            assert!(said.contains(complaint), "{manner:?}: {said}");
            // It stays with who answers, also when the first one is well again.
            bad.now(Manner::Well);
            let before = bad.count();
            asked.relay.look_afresh();
            asked.good(TIP).await;
            assert_eq!(bad.count(), before, "{manner:?}");
        });
    }
    asking.join_all().await;
}

#[tokio::test]
async fn without_any_endpoint_there_are_fee_estimates_and_it_recovers_without_a_hand() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("chain.json");
    let oracle = Oracle::start(110).await;
    oracle.now(Manner::Refuses(500, None));
    let needing = |urls| Config {
        needs_fees: true,
        ..config(urls, &kept)
    };
    let asked = Asked::open(needing(vec![oracle.url()])).await;
    // The first start ever.
    let built_in = asked.good("/fee-estimates").await;
    assert!(built_in.contains("\"6\":20.0"), "{built_in}");
    assert_eq!(asked.relay.status().fees_heard_secs, None);
    let (status, why) = asked.get(TIP).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(why.contains("500") && why.contains(&oracle.url()), "{why}");
    assert!(asked.relay.status().degraded_since_secs.is_some());
    // On the main network, to say nothing of fees is no answer.
    oracle.now(Manner::Says("{}"));
    assert_eq!(asked.good("/fee-estimates").await, built_in);

    oracle.now(Manner::Well);
    let answer = eventually("an answer", DEADLINE * 2, || async {
        let (status, text) = asked.get("/fee-estimates").await;
        assert_eq!(status, StatusCode::OK);
        if text == built_in {
            Err(text)
        } else {
            Ok(Some(text))
        }
    });
    assert_eq!(answer.await.unwrap(), oracle::FEES);
    assert_eq!(asked.relay.status().degraded_since_secs, None);

    // The next start, again without anybody.
    let next = Asked::open(needing(vec![oracle::NOBODY.to_owned()])).await;
    let fees: serde_json::Value = serde_json::from_str(&next.good("/fee-estimates").await).unwrap();
    assert_eq!(
        fees,
        serde_json::from_str::<serde_json::Value>(oracle::FEES).unwrap()
    );
    assert!(next.relay.status().fees_heard_secs.is_some());
    // Off the main network nothing is built in, as ldk-node wants it.
    let test = Asked::open(config(vec![oracle::NOBODY.to_owned()], &missing())).await;
    assert_eq!(test.good("/fee-estimates").await, "{}");
}

#[tokio::test]
async fn an_answer_that_takes_its_time_is_waited_for_and_a_short_failure_is_not_seen() {
    let oracle = Oracle::start(110).await;
    oracle.now(Manner::Slowly(Duration::from_millis(1_500)));
    let asked = Asked::before(&[&oracle]).await;
    asked.good("/blocks/tip/height").await;
    // Whoever has no other endpoint waits for this one, as long as the node does.
    oracle.now(Manner::FailsOnce);
    asked.relay.look_afresh();
    asked.good("/blocks/tip/height").await;
    assert!(asked.complaint(0).contains("500"));
}

#[tokio::test]
async fn the_budget_is_kept_as_the_server_counts_it_and_broadcasts_always_have_room() {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("chain.json");
    let oracle = Oracle::start(110).await;
    let short = || Config {
        requests_per_hour: 100,
        ..config(vec![oracle.url()], &kept)
    };
    let asked = Asked::open(short()).await;
    let txid = block(1).merkle_root;
    let mut answers = Vec::new();
    for vout in 0..200 {
        let (status, _) = asked.get(&format!("/tx/{txid}/outspend/{vout}")).await;
        answers.push(status);
    }
    let refused = answers.iter().filter(|status| **status != StatusCode::OK);
    // One of them to see that it is of our network.
    assert_eq!((oracle.count(), refused.count()), (95, 106));
    let status = asked.relay.status();
    assert_eq!(status.endpoints[0].requests_last_hour, 95);
    assert_eq!(status.endpoints[0].budget_left, 5);
    assert!(status.degraded_since_secs.is_some());
    // The wallet had to stop before.
    assert_eq!(
        asked.get("/block-height/7").await.0,
        StatusCode::BAD_GATEWAY
    );
    assert_eq!(oracle.count(), 95);
    assert_eq!(asked.broadcast(&transaction(1)).await.0, StatusCode::OK);
    assert_eq!(oracle.count(), 96);

    // A program that is started again and again has no other budget.
    asked.relay.keep().await;
    let again = Asked::open(short()).await;
    assert_eq!(again.get(TIP).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(oracle.count(), 96);
}

#[tokio::test]
async fn what_lies_deep_in_the_chain_is_asked_for_once() {
    let oracle = Oracle::start(300).await;
    let asked = Asked::before(&[&oracle]).await;
    asked.good(TIP).await;
    let (deep, shallow) = (block(200).block_hash(), block(201).block_hash());
    let once = [
        format!("/block/{deep}/header"),
        format!("/block/{deep}/status"),
        "/block-height/200".to_owned(),
        format!("/block/{shallow}/header"),
    ];
    let always = [
        TIP.to_owned(),
        format!("/block/{shallow}/status"),
        "/block-height/201".to_owned(),
        format!("/tx/{}/outspend/0", block(1).merkle_root),
    ];
    for _ in 0..3 {
        for path in once.iter().chain(&always) {
            asked.good(path).await;
        }
        asked.relay.look_afresh();
    }
    let asked_for = |path: &str| oracle.paths().iter().filter(|seen| *seen == path).count();
    for path in &once {
        assert_eq!(asked_for(path), 1, "{path}");
    }
    // Once more before the loop.
    assert_eq!(asked_for(TIP), 3);
    for path in &always[1..] {
        assert_eq!(asked_for(path), 3, "{path}");
    }
    // What the tip's own height is was asked for with it, and not again.
    let tip = block(300).block_hash();
    assert_eq!(asked_for(&format!("/block/{tip}/status")), 1);
}

#[tokio::test]
async fn the_chain_never_goes_backwards() {
    let (first, behind, level) = (
        Oracle::start(110).await,
        Oracle::start(108).await,
        Oracle::start(111).await,
    );
    let asked = Asked::before(&[&first, &behind, &level]).await;
    asked.good(TIP).await;
    first.now(Manner::Refuses(500, None));
    asked.relay.look_afresh();
    let tip = block(111).block_hash().to_string();
    assert_eq!(asked.good(TIP).await, tip, "the one that is level");
    assert!(asked.complaint(1).contains("lacks: 2"));
    assert_eq!(behind.paths(), ["/blocks/tip/height"]);

    // The same endpoint, of which another machine answers now.
    level.is_at(110);
    asked.relay.look_afresh();
    assert_eq!(asked.get(TIP).await.0, StatusCode::BAD_GATEWAY);
    assert!(asked.complaint(2).contains("lacks: 1"));

    // Nor does it begin below what the node knows.
    let alone = Asked::before(&[&behind]).await;
    alone.relay.seen(109);
    for path in [TIP, "/blocks/tip/height"] {
        assert_eq!(alone.get(path).await.0, StatusCode::BAD_GATEWAY, "{path}");
    }
}

#[tokio::test]
async fn an_empty_script_rests_until_it_is_paid_but_not_for_a_search() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("chain.json");
    let oracle = Oracle::start(110).await;
    let asked = Asked::open(config(vec![oracle.url()], &kept)).await;
    // The script to which `transaction` pays, which is empty, and another one.
    let hash = |script: &[u8]| sha256::Hash::hash(script);
    let paid = format!("/scripthash/{}/txs", hash(b""));
    let other = format!("/scripthash/{}/txs", hash(b"other"));
    let times = |path: &str| oracle.paths().iter().filter(|it| *it == path).count();
    let looks = async || {
        for _ in 0..3 {
            asked.relay.look_afresh();
            assert_eq!(asked.good(&paid).await, "[]");
            assert_eq!(asked.good(&other).await, "[]");
        }
    };
    looks().await;
    assert_eq!((times(&paid), times(&other)), (1, 1));
    asked.relay.look_afresh();
    let search = format!("{}{other}", asked.relay.url_for_searches());
    let found = asked.http.get(search).send().await.unwrap();
    assert_eq!(found.text().await.unwrap(), "[]");
    assert_eq!(times(&other), 2);
    assert_eq!(asked.broadcast(&transaction(7)).await.0, StatusCode::OK);
    looks().await;
    assert_eq!((times(&paid), times(&other)), (4, 2));
}

#[tokio::test]
async fn a_transaction_goes_to_every_endpoint_once_a_block() {
    let (first, second, failing) = (
        Oracle::start(110).await,
        Oracle::start(110).await,
        Oracle::start(110).await,
    );
    failing.now(Manner::Refuses(503, Some(600)));
    let asked = Asked::before(&[&first, &second, &failing]).await;
    asked.good(TIP).await;
    let sent = |oracle: &Oracle| oracle.paths().iter().filter(|path| *path == "/tx").count();
    let hex = transaction(7);
    for _ in 0..3 {
        assert_eq!(asked.broadcast(&hex).await.0, StatusCode::OK);
    }
    assert_eq!((sent(&first), sent(&second)), (1, 1));
    assert_eq!(sent(&failing), 1, "and is left alone then");
    assert_eq!(asked.broadcast(&transaction(8)).await.0, StatusCode::OK);
    assert_eq!((sent(&first), sent(&second)), (2, 2));
    // A block came, and it is not in it.
    first.is_at(111);
    asked.relay.look_afresh();
    asked.good(TIP).await;
    assert_eq!(asked.broadcast(&hex).await.0, StatusCode::OK);
    assert_eq!((sent(&first), sent(&second)), (3, 3));

    assert_eq!(asked.broadcast("garbage").await.0, StatusCode::BAD_REQUEST);
    first.now(Manner::Refuses(400, None));
    second.now(Manner::Refuses(400, None));
    let (status, words) = asked.broadcast(&transaction(9)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(words, "on purpose");
    // All of them are left alone, and a broadcast goes out all the same.
    for oracle in [&first, &second] {
        oracle.now(Manner::Refuses(503, Some(600)));
    }
    asked.relay.look_afresh();
    assert_eq!(asked.get(TIP).await.0, StatusCode::BAD_GATEWAY);
    let (status, _) = asked.broadcast(&transaction(10)).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert_eq!((sent(&first), sent(&second)), (5, 5));
}

#[tokio::test]
async fn who_says_when_to_come_again_is_left_alone_until_then() {
    let (busy, good) = (Oracle::start(110).await, Oracle::start(110).await);
    busy.now(Manner::Refuses(429, Some(1_800)));
    let asked = Asked::before(&[&busy, &good]).await;
    asked.good(TIP).await;
    let status = asked.relay.status();
    let pause = status.endpoints[0].paused_until_secs.unwrap() - Clock::system().unix_secs();
    assert!((1_790..=1_801).contains(&pause), "{pause}");
    good.now(Manner::Refuses(500, None));
    asked.relay.look_afresh();
    assert_eq!(asked.get(TIP).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(busy.count(), 1);
}

#[tokio::test]
async fn who_does_not_know_its_path_is_told_nothing_and_asks_nobody() {
    let oracle = Oracle::start(110).await;
    let asked = Asked::before(&[&oracle]).await;
    let (base, _) = asked.relay.url().rsplit_once('/').unwrap();
    for url in [
        format!("{base}{TIP}"),
        format!("{base}/{}{TIP}", "0".repeat(32)),
        format!("{}/mempool", asked.relay.url()),
    ] {
        let answer = asked.http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(oracle.count(), 0);
}

#[tokio::test]
async fn nothing_waits_for_the_chain_once_the_program_stops() {
    let oracle = Oracle::start(110).await;
    oracle.now(Manner::Never);
    let asked = Asked::before(&[&oracle]).await;
    let begun = std::time::Instant::now();
    asked.stop.cancel();
    assert_eq!(asked.get(TIP).await.0, StatusCode::BAD_GATEWAY);
    assert!(begun.elapsed() < Duration::from_secs(6));
}
