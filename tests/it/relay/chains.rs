//! Endpoints of other chains, and such as hang: what they show must not be taken for our chain, for LDK closes a channel whose
//! funding transaction is not in it.

use std::time::Duration;

use bitcoin::Network;
use http::StatusCode;
use tollhouse::chain::esplora::{Config, Waits};
use tollhouse::chain::{ChainSource, seen};

use super::oracle::{Manner, Oracle, block};
use super::{Asked, TIP, config, missing};

/// Gone for longer than a test takes.
const GONE: Manner = Manner::Refuses(503, Some(3_600));

/// A whole look: what the channels watch for, and what the wallet does.
async fn look(asked: &Asked) {
    asked.relay.look_afresh();
    asked.good(TIP).await;
    asked.good("/blocks").await;
}

/// What is asked next finds no answer.
async fn is_refused(asked: &Asked) {
    asked.relay.look_afresh();
    for path in [TIP, "/blocks/tip/height", "/blocks"] {
        assert_eq!(asked.get(path).await.0, StatusCode::BAD_GATEWAY, "{path}");
    }
}

/// In front of these, believing at once what otherwise takes an hour.
async fn hasty(oracles: &[&Oracle]) -> Asked {
    let urls = oracles.iter().map(|oracle| oracle.url());
    let waits = Waits {
        lower: Duration::ZERO,
        still: Duration::ZERO,
    };
    let config = Config {
        waits,
        ..config(urls.collect(), &missing())
    };
    Asked::open(config).await
}

#[tokio::test]
async fn an_endpoint_of_another_network_is_asked_for_its_first_block_and_nothing_else() {
    let (ours, other) = (
        Oracle::start(110).await,
        Oracle::start_elsewhere(0, 500).await,
    );
    let asked = Asked::before(&[&other, &ours]).await;
    assert_eq!(asked.good(TIP).await, block(110).block_hash().to_string());
    assert!(
        asked.complaint(0).contains("another chain"),
        "{}",
        asked.complaint(0)
    );
    assert_eq!(asked.relay.status().height, 110);
    // Nor for fees, which are another network's.
    asked.good("/fee-estimates").await;
    assert_eq!(other.paths(), ["/block-height/0"]);

    ours.now(GONE);
    is_refused(&asked).await;
    // What the other one shows is not taken for the height of our chain.
    ours.now(Manner::Well);
    let asked = Asked::before(&[&ours, &other]).await;
    ours.now(Manner::FailsOnce);
    asked.good(TIP).await;
    assert_eq!(asked.relay.status().height, 110);
    assert!(asked.relay.status().endpoints[0].is_in_use);
}

#[tokio::test]
async fn an_endpoint_is_proven_once_and_again_when_it_comes_into_use() {
    let (first, second) = (Oracle::start(110).await, Oracle::start(110).await);
    let asked = Asked::before(&[&first, &second]).await;
    for _ in 0..3 {
        look(&asked).await;
    }
    let proofs = |oracle: &Oracle| {
        let paths = oracle.paths();
        paths
            .iter()
            .filter(|path| path.starts_with("/block-height/"))
            .count()
    };
    assert_eq!((proofs(&first), second.count()), (1, 0));
    first.now(GONE);
    asked.relay.look_afresh();
    // All at once, as a look of the wallet asks.
    let asking = ["/blocks", "/fee-estimates", TIP, "/blocks/tip/height"];
    let [blocks, fees, tip, height] = asking.map(|path| asked.good(path));
    tokio::join!(blocks, fees, tip, height);
    let of_second = second.paths();
    let count = |path: &str| of_second.iter().filter(|seen| *seen == path).count();
    assert_eq!(count("/block-height/104"), 1, "{of_second:?}");
    assert_eq!(proofs(&second), 1);
}

#[tokio::test]
async fn an_endpoint_of_another_signet_is_not_switched_to_nor_begun_with_once_ours_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("chain.json");
    let (ours, other) = (
        Oracle::start(110).await,
        Oracle::start_elsewhere(1, 500).await,
    );
    let asked = Asked::open(config(vec![ours.url(), other.url()], &kept)).await;
    look(&asked).await;
    asked.relay.keep().await;
    ours.now(GONE);
    is_refused(&asked).await;
    let why = asked.complaint(1);
    assert!(
        why.contains("another chain") && why.contains("104"),
        "{why}"
    );
    assert_eq!(asked.relay.status().height, 110);

    // Somebody changes the settings.
    let again = Asked::open(config(vec![other.url()], &kept)).await;
    is_refused(&again).await;
    assert!(again.complaint(0).contains("another chain"));
    ours.now(Manner::Well);
    let right = Asked::open(config(vec![other.url(), ours.url()], &kept)).await;
    look(&right).await;
    assert!(right.relay.status().endpoints[1].is_in_use);
}

#[tokio::test]
async fn an_endpoint_that_only_has_other_newest_blocks_is_switched_to() {
    let (ours, other) = (
        Oracle::start(110).await,
        Oracle::start_elsewhere(109, 111).await,
    );
    let asked = Asked::before(&[&ours, &other]).await;
    look(&asked).await;
    ours.now(GONE);
    look(&asked).await;
    let status = asked.relay.status();
    assert!(status.endpoints[1].is_in_use);
    assert_eq!(status.height, 111);
}

#[tokio::test]
async fn a_server_that_hangs_is_not_believed_however_long_it_is_alone_and_a_reorganisation_is() {
    let (ours, hangs) = (Oracle::start(110).await, Oracle::start(107).await);
    let asked = hasty(&[&ours, &hangs]).await;
    look(&asked).await;
    ours.now(GONE);
    is_refused(&asked).await;
    assert!(
        asked.complaint(1).contains("lacks: 3"),
        "{}",
        asked.complaint(1)
    );

    // The one in use, of which another machine answers that hangs; then one of which we know no block.
    ours.now(Manner::Well);
    for height in [108, 60] {
        ours.is_at(110);
        let alone = hasty(&[&ours]).await;
        look(&alone).await;
        ours.is_at(height);
        is_refused(&alone).await;
    }

    ours.is_at(110);
    let branch = Oracle::start_elsewhere(106, 108).await;
    let patient = Asked::before(&[&ours, &branch]).await;
    let asked = hasty(&[&ours, &branch]).await;
    for asked in [&patient, &asked] {
        look(asked).await;
    }
    ours.now(GONE);
    is_refused(&patient).await;
    look(&asked).await;
    assert_eq!(asked.relay.status().height, 108);
}

#[tokio::test]
async fn whoever_seems_to_be_ahead_is_switched_to_only_if_it_is_of_our_chain() {
    let (still, other, ahead) = (
        Oracle::start(110).await,
        Oracle::start_elsewhere(50, 500).await,
        Oracle::start(113).await,
    );
    let asked = hasty(&[&still, &other]).await;
    look(&asked).await;
    look(&asked).await;
    assert!(asked.relay.status().endpoints[0].is_in_use);
    assert_eq!(asked.relay.status().height, 110);
    assert!(
        asked.complaint(1).contains("another chain"),
        "{}",
        asked.complaint(1)
    );

    let asked = hasty(&[&still, &other, &ahead]).await;
    look(&asked).await;
    look(&asked).await;
    assert!(asked.relay.status().endpoints[2].is_in_use);
    assert_eq!(asked.relay.status().height, 113);
}

#[tokio::test]
async fn the_doctor_tells_an_endpoint_of_another_chain_from_a_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("chain.json");
    let ours = Oracle::start(110).await;
    let (network, signet) = (
        Oracle::start_elsewhere(0, 500).await,
        Oracle::start_elsewhere(1, 500).await,
    );
    let source = ChainSource::Esplora {
        urls: vec![ours.url(), network.url(), signet.url()],
        requests_per_hour: 600,
    };
    let all = seen(&source, Network::Regtest, dir.path()).await;
    assert_eq!(all[0].newest, Ok((110, 110)));
    let why = all[1].newest.clone().unwrap_err();
    assert!(why.contains("another chain"), "{why}");
    // Nobody knows yet.
    assert_eq!(all[2].newest, Ok((500, 500)));

    let asked = Asked::open(config(vec![ours.url()], &kept)).await;
    look(&asked).await;
    asked.relay.keep().await;
    let all = seen(&source, Network::Regtest, dir.path()).await;
    assert!(all[0].newest.is_ok());
    assert!(all[1].newest.is_err() && all[2].newest.is_err());
}
