//! Channels that strangers open and never fund. They are few, end within the configured time, and do not delay the
//! syncs that guard real channels.

use std::time::Duration;

use bitcoin::Txid;
use regtest::esplora::Manner;
use regtest::hostile::{Flow, Ground, Stranger, Wire};
use regtest::payer::Peer;
use regtest::wait::eventually;

use crate::hostile::{CHEAP, ground, log, status};

/// The settings of these tests: how long channels may wait for their funding.
const SETTINGS: &str = "[node.peers]\npending_timeout = \"5s\"\n";
/// The most channels that may wait for their funding, by default.
const PENDING_MAX: usize = 10;
/// Longer than a channel may wait for its funding, with the syncs in between.
const GIVEN_UP_DEADLINE: Duration = Duration::from_secs(40);
/// The most unfunded channels that LDK accepts from one peer.
const PENDING_OF_A_PEER: usize = 4;
/// A channel that is large enough to be accepted.
const CHANNEL_SAT: u64 = 100_000;
/// A stranger's coins.
const FUNDS_SAT: u64 = 1_000_000;
/// The time from a change of the channels to its backup: some seconds without another change, and the making of it.
const BACKUP_DEADLINE: Duration = Duration::from_secs(20);
/// The merchant's coins, if its wallet is not empty.
const MERCHANT_SAT: u64 = 200_000;
/// The time in which a slow chain source answers a request.
const SLOW: Duration = Duration::from_millis(1_200);

/// Starts strangers, each of which opens as many channels as the merchant accepts and funds none. Also returns the
/// funding transactions, which are never broadcast.
async fn pending(ground: &Ground, strangers: usize) -> (Vec<Stranger>, Vec<Txid>) {
    let mut all = Vec::new();
    for number in 0..strangers {
        let name = format!("stranger-{number}");
        all.push(ground.stranger(&name, FUNDS_SAT).await.unwrap());
    }
    ground.swallow_broadcasts();
    let mut fundings = Vec::new();
    for stranger in &all {
        for _ in 0..PENDING_OF_A_PEER {
            // The merchant may refuse the channel.
            let opened = stranger.node.open_channel(ground.peer, CHANNEL_SAT).await;
            fundings.extend(opened.ok());
        }
    }
    (all, fundings)
}

/// The number of channels in the operator's status.
async fn channels(ground: &Ground) -> usize {
    let status = status(ground).await;
    status["node"]["channels"].as_array().unwrap().len()
}

/// The requests about these transactions in one sync.
async fn asked_for(ground: &Ground, fundings: &[Txid]) -> Result<Vec<String>, String> {
    let _before = ground.esplora.record_paths();
    let looked = ground.merchant.admin().sync().await;
    looked.map_err(|error| format!("{error:#}"))?;
    let names: Vec<String> = fundings.iter().map(ToString::to_string).collect();
    let mut paths = ground.esplora.record_paths();
    paths.retain(|path| names.iter().any(|name| path.contains(name.as_str())));
    Ok(paths)
}

#[tokio::test]
async fn unfunded_channels_are_few_and_are_given_up_and_no_longer_queried() {
    let ground = ground(CHEAP, SETTINGS).await;
    let (strangers, fundings) = pending(&ground, 4).await;
    assert!(!fundings.is_empty(), "no stranger's channel was taken");
    let waiting = channels(&ground).await;
    assert!(
        waiting <= PENDING_MAX,
        "{waiting} channels wait for their funding"
    );
    let asked = asked_for(&ground, &fundings).await.unwrap();
    assert!(asked.len() <= 2 * PENDING_MAX, "{}: {asked:?}", asked.len());

    eventually("the channels to end", GIVEN_UP_DEADLINE, || async {
        match channels(&ground).await {
            0 => Ok(Some(())),
            left => Err(format!("{left} left")),
        }
    })
    .await
    .unwrap();
    eventually("syncs without them", GIVEN_UP_DEADLINE, || async {
        match asked_for(&ground, &fundings).await? {
            none if none.is_empty() => Ok(Some(())),
            some => Err(format!("{} requests: {some:?}", some.len())),
        }
    })
    .await
    .unwrap();
    drop(strangers);
}

#[tokio::test]
async fn unfunded_channels_are_not_queried_after_a_restart_either() {
    let mut ground = ground(CHEAP, SETTINGS).await;
    let (strangers, fundings) = pending(&ground, 1).await;
    assert!(!fundings.is_empty(), "no stranger's channel was taken");
    eventually("the channels to end", GIVEN_UP_DEADLINE, || async {
        match channels(&ground).await {
            0 => Ok(Some(())),
            left => Err(format!("{left} left")),
        }
    })
    .await
    .unwrap();
    drop(strangers);
    ground.restart_merchant(SETTINGS).await.unwrap();
    eventually("syncs without them", GIVEN_UP_DEADLINE, || async {
        match asked_for(&ground, &fundings).await? {
            none if none.is_empty() => Ok(Some(())),
            some => Err(format!("{} requests: {some:?}", some.len())),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn syncs_with_a_slow_chain_source_go_on_with_unfunded_channels() {
    let ground = ground(CHEAP, SETTINGS).await;
    let friend = ground.stranger("friend", FUNDS_SAT).await.unwrap();
    let opened = ground.open_channel(&friend, ground.peer, CHANNEL_SAT).await;
    opened.unwrap();
    ground.esplora.answers(Manner::Slowly(SLOW));
    let looked = ground.merchant.admin().sync().await;
    looked.expect("a sync with a slow chain source, before the strangers");
    ground.esplora.answers(Manner::Well);

    let (_strangers, _) = pending(&ground, 2).await;
    ground.bitcoind.mine(1).await.unwrap();
    ground.esplora.answers(Manner::Slowly(SLOW));
    let height = ground
        .bitcoind
        .rpc()
        .call::<u64>("getblockcount", serde_json::json!([]));
    let height = height.await.unwrap();
    eventually("a sync that ends", GIVEN_UP_DEADLINE, || async {
        let looked = ground.merchant.admin().sync().await;
        looked.map_err(|error| format!("{error:#}"))?;
        let seen = status(&ground).await["node"]["block_height"].as_u64();
        if seen >= Some(height) {
            Ok(Some(()))
        } else {
            Err(format!("{seen:?} of {height}"))
        }
    })
    .await
    .unwrap();
}

/// The number of files in the merchant's backup folder.
fn backups(ground: &Ground) -> usize {
    let folder = ground.merchant.data_dir().join("backups");
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Waits until there are more backups than `than`.
async fn until_more_backups(ground: &Ground, than: usize) -> anyhow::Result<()> {
    eventually("another backup", BACKUP_DEADLINE, || async {
        match backups(ground) {
            some if some > than => Ok(Some(())),
            some => Err(format!("{some} backups")),
        }
    })
    .await
}

/// Waits until the merchant has logged this text.
async fn logs(ground: &Ground, what: &str) {
    eventually(what, GIVEN_UP_DEADLINE, || async {
        Ok::<_, String>(log(ground).contains(what).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_channel_that_is_opened_and_given_up_at_once_causes_no_backup() {
    let ground = ground(CHEAP, "").await;
    until_more_backups(&ground, 0).await.unwrap();
    // With these coins the merchant accepts the channel type that the stranger asks for.
    ground.fund_merchant(MERCHANT_SAT).await.unwrap();
    let stranger = ground.stranger("stranger", FUNDS_SAT).await.unwrap();
    let before = backups(&ground);
    let wire = Wire::to(ground.merchant.p2p()).unwrap();
    let at = Peer {
        address: wire.address(),
        ..ground.peer
    };
    stranger.node.connect(at).await.unwrap();
    // The merchant's `accept_channel` does not arrive, so the stranger never names the funding.
    wire.to_dialler(Flow::Held);
    stranger.begins_channel(at, CHANNEL_SAT).await.unwrap();
    logs(&ground, "Accepting inbound").await;
    stranger.hangs_up(at).await.unwrap();
    logs(&ground, "disconnected prior to the channel being funded").await;
    let made = until_more_backups(&ground, before).await;
    assert!(made.is_err(), "a stranger caused a backup");

    // A channel that is funded gets a backup.
    let customer = ground.stranger("customer", FUNDS_SAT).await.unwrap();
    let opened = ground
        .open_channel(&customer, ground.peer, CHANNEL_SAT)
        .await;
    opened.unwrap();
    until_more_backups(&ground, before).await.unwrap();
}

/// The most channels that a stranger begins before it hangs up, if the merchant accepts all of them.
const GIVEN_UP_MAX: u8 = 40;
/// The time in which the merchant accepts a channel, if it does.
const ACCEPTED_DEADLINE: Duration = Duration::from_secs(3);
/// The scripts about which the merchant asks in one sync.
async fn scripts(ground: &Ground) -> Vec<String> {
    let _before = ground.esplora.record_paths();
    ground.merchant.admin().sync().await.unwrap();
    let mut paths = ground.esplora.record_paths();
    paths.retain(|path| path.contains("/scripthash/"));
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// Begins a channel from a new address of one network, and hangs up once it is accepted; `false` if it is not.
async fn begins_and_hangs_up(ground: &Ground, stranger: &Stranger, number: u8) -> bool {
    let accepted = || log(ground).matches("Accepting inbound").count();
    let before = accepted();
    let from = std::net::Ipv4Addr::new(127, 0, 9, number);
    let wire = Wire::from(from, ground.merchant.p2p()).unwrap();
    let at = Peer {
        address: wire.address(),
        ..ground.peer
    };
    if stranger.node.connect(at).await.is_err() {
        return false;
    }
    wire.to_dialler(Flow::Held);
    if stranger.begins_channel(at, CHANNEL_SAT).await.is_err() {
        return false;
    }
    let taken = eventually("a channel to be accepted", ACCEPTED_DEADLINE, || async {
        Ok::<_, String>((accepted() > before).then_some(()))
    });
    let is_taken = taken.await.is_ok();
    let _ = stranger.hangs_up(at).await;
    is_taken
}

/// Waits for a sync that asks about these scripts. One that joins a sync under way asks about fewer.
async fn syncs_as(ground: &Ground, before: &[String]) {
    eventually("syncs as before", GIVEN_UP_DEADLINE, || async {
        match scripts(ground).await {
            asked if asked == before => Ok(Some(())),
            asked => Err(format!("{} scripts", asked.len())),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn abandoned_channels_add_no_requests_to_later_syncs() {
    let mut ground = ground(CHEAP, "").await;
    ground.fund_merchant(MERCHANT_SAT).await.unwrap();
    let stranger = ground.stranger("stranger", FUNDS_SAT).await.unwrap();
    let before = scripts(&ground).await;

    let mut taken = 0;
    while taken < GIVEN_UP_MAX && begins_and_hangs_up(&ground, &stranger, taken + 1).await {
        taken += 1;
    }
    assert!(taken > 0, "the merchant accepted no channel");
    assert!(taken < GIVEN_UP_MAX, "the merchant accepted every channel");
    syncs_as(&ground, &before).await;
    ground.restart_merchant("").await.unwrap();
    syncs_as(&ground, &before).await;
}
