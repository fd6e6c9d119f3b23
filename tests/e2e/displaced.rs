//! Strangers' channels besides the merchant's own. They must not push its own channels out of the invoices, the
//! inbound liquidity or the reports to the operator.

use std::time::Duration;

use http::Method;
use ldk_node::bitcoin::secp256k1::PublicKey;
use regtest::hostile::{Ground, Stranger};
use regtest::wait::eventually;
use serde_json::{Value, json};

use crate::hostile::{CHEAP, HEIGHT, ground, log, status};

/// The size of the provider's channel.
const OWN_SAT: u64 = 1_000_000;
/// The size of a stranger's channel, and the coins that the stranger opens it with.
const LARGE_SAT: u64 = 4_000_000;
const LARGE_FUNDS_SAT: u64 = 4_200_000;
/// Enough coins for the provider's channels.
const FUNDS_SAT: u64 = 3_000_000;
/// The confirmations after which an announced channel counts as known, plus one.
const ANNOUNCED_BLOCKS: u32 = 8;
/// The time from a change of the channels to invoices that include it.
const REACH_DEADLINE: Duration = Duration::from_secs(20);

/// The settings that make this node the merchant's provider.
fn provides(provider: &Stranger) -> String {
    let (id, at) = (provider.peer.node_id, provider.peer.address);
    format!("node.liquidity.provider = {{ node_id = \"{id}\", address = \"{at}\" }}\n")
}

/// A ground with a provider in its settings, and that provider, which has a channel to the merchant.
async fn provided(settings: &str) -> (Ground, Stranger) {
    let mut ground = ground(CHEAP, "").await;
    let provider = ground.stranger("provider", FUNDS_SAT).await.unwrap();
    let settings = format!("{}{settings}", provides(&provider));
    ground.restart_merchant(&settings).await.unwrap();
    let opened = ground.open_channel(&provider, ground.peer, OWN_SAT).await;
    opened.unwrap();
    until_hinted(&ground, provider.peer.node_id).await;
    (ground, provider)
}

/// The last hops to the merchant that a challenge's invoice names.
async fn hinted(ground: &Ground) -> Result<Vec<PublicKey>, String> {
    let url = format!("{}{HEIGHT}", ground.merchant.url());
    let challenge = ground.client.challenge(&url).await;
    let challenge = challenge.map_err(|error| format!("{error:#}"))?;
    let invoice = challenge.invoice().map_err(|error| error.to_string())?;
    let hints = invoice.route_hints();
    Ok(hints.iter().map(|hint| hint.0[0].src_node_id).collect())
}

/// Waits until invoices name this node.
async fn until_hinted(ground: &Ground, node_id: PublicKey) {
    eventually(
        "a hint to the merchant's own peer",
        REACH_DEADLINE,
        || async {
            match hinted(ground).await? {
                hints if hints.contains(&node_id) => Ok(Some(())),
                others => Err(format!("{others:?}")),
            }
        },
    )
    .await
    .unwrap();
}

/// The inbound liquidity, in msat.
async fn inbound_msat(ground: &Ground) -> u64 {
    let status = status(ground).await;
    status["node"]["inbound_msat"].as_u64().unwrap()
}

/// Waits until the merchant shows this many usable channels, and makes invoices that include them.
async fn until_used(ground: &Ground, count: usize) {
    eventually("the channels to be used", REACH_DEADLINE, || async {
        let status = status(ground).await;
        let channels = status["node"]["channels"].as_array().unwrap();
        let used = channels.iter().filter(|channel| channel["usable"] == true);
        match used.count() {
            all if all == count => Ok(Some(())),
            some => {
                let looked = ground.merchant.admin().sync().await;
                looked.map_err(|error| format!("{error:#}"))?;
                Err(format!("{some} of {count}"))
            }
        }
    })
    .await
    .unwrap();
    // The merchant updates its reach after each event of the node, such as a payment.
    let _ = hinted(ground).await;
}

/// Starts three strangers, each with a channel to the merchant that is larger than its own.
async fn larger(ground: &Ground) -> Vec<Stranger> {
    let mut strangers = Vec::new();
    for number in 0..3 {
        let name = format!("stranger-{number}");
        let stranger = ground.stranger(&name, LARGE_FUNDS_SAT).await.unwrap();
        let opened = ground.open_channel(&stranger, ground.peer, LARGE_SAT).await;
        opened.unwrap();
        strangers.push(stranger);
    }
    until_used(ground, 4).await;
    strangers
}

#[tokio::test]
async fn strangers_with_larger_channels_leave_the_providers_hint_in_the_invoices() {
    let (ground, provider) = provided("").await;
    let _strangers = larger(&ground).await;
    stays_hinted(&ground, provider.peer.node_id).await;
}

#[tokio::test]
async fn a_peer_that_the_operator_dialled_stays_in_the_invoices_too() {
    let ground = ground(CHEAP, "").await;
    let chosen = ground.stranger("chosen", FUNDS_SAT).await.unwrap();
    dials(&ground, &chosen).await;
    let opened = ground.open_channel(&chosen, ground.peer, OWN_SAT).await;
    opened.unwrap();
    until_hinted(&ground, chosen.peer.node_id).await;
    let _strangers = larger(&ground).await;
    stays_hinted(&ground, chosen.peer.node_id).await;
}

#[tokio::test]
async fn a_customer_who_has_paid_stays_in_the_invoices_beside_strangers_who_have_not() {
    let ground = ground(CHEAP, "").await;
    let customer = ground.stranger("customer", FUNDS_SAT).await.unwrap();
    let opened = ground.open_channel(&customer, ground.peer, OWN_SAT).await;
    opened.unwrap();
    until_hinted(&ground, customer.peer.node_id).await;
    let url = format!("{}{HEIGHT}", ground.merchant.url());
    let bought = ground.client.buy(&customer.node, &url).await.unwrap();
    assert_eq!(bought.answer.status, 200, "{}", bought.answer.text());
    let _strangers = larger(&ground).await;
    stays_hinted(&ground, customer.peer.node_id).await;
}

/// Makes the operator connect to a node and keep it as a peer.
async fn dials(ground: &Ground, whom: &Stranger) {
    let admin = ground.merchant.admin();
    let (id, at) = (whom.peer.node_id, whom.peer.address);
    let asked = json!({ "peer": format!("{id}@{at}"), "keep": true });
    let request = ground
        .client
        .request(Method::POST, &format!("{}/peers", admin.url()))
        .bearer_auth(admin.token().unwrap())
        .json(&asked);
    let answer = ground.client.send(request).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// Checks that invoices contain the hint now and for the next seconds, because they are made from the last known
/// state.
async fn stays_hinted(ground: &Ground, node_id: PublicKey) {
    let lost = eventually("the hint to be gone", Duration::from_secs(8), || async {
        match hinted(ground).await {
            Ok(hints) if !hints.contains(&node_id) => Ok(Some(hints)),
            Ok(_) => Err("still there".to_owned()),
            Err(why) => Err(why),
        }
    });
    if let Ok(others) = lost.await {
        panic!("{node_id} is no longer in the invoices, only {others:?}");
    }
}

#[tokio::test]
async fn an_announced_channel_of_a_stranger_hides_nothing() {
    let (ground, provider) = provided("").await;
    let before_msat = inbound_msat(&ground).await;
    let stranger = ground.announced_stranger("announced", FUNDS_SAT);
    let stranger = stranger.await.unwrap();
    let announced = stranger.node.announce_channel(ground.peer, 21_000).await;
    announced.unwrap();
    let funding = eventually("the funding", REACH_DEADLINE, || async {
        stranger
            .fundings()
            .first()
            .copied()
            .map(Some)
            .ok_or("none yet")
    });
    let funding = funding.await.unwrap();
    ground.bitcoind.wait_for_mempool(funding).await.unwrap();
    ground.mine(ANNOUNCED_BLOCKS, &[&stranger]).await.unwrap();
    ground.wait_usable(&stranger, funding).await.unwrap();
    until_used(&ground, 2).await;
    let status = status(&ground).await;
    let channels = status["node"]["channels"].as_array().unwrap();
    assert!(
        channels.iter().any(|channel| channel["announced"] == true),
        "{channels:?}"
    );

    stays_hinted(&ground, provider.peer.node_id).await;
    let after_msat = inbound_msat(&ground).await;
    assert!(
        after_msat >= before_msat,
        "{before_msat} msat could arrive, and now {after_msat}"
    );
}

#[tokio::test]
async fn an_offline_channel_of_a_stranger_counts_as_no_channel() {
    let ground = ground(CHEAP, "").await;
    let none = eventually("no channel", REACH_DEADLINE, || async {
        let readiness = ground.merchant.admin().ready().await;
        match readiness.map_err(|error| format!("{error:#}"))?.reason {
            Some(why) if why.contains("no channel") => Ok(Some(Some(why))),
            other => Err(format!("{other:?}")),
        }
    });
    let none = none.await.unwrap();
    let stranger = ground.stranger("stranger", FUNDS_SAT).await.unwrap();
    let opened = ground.open_channel(&stranger, ground.peer, OWN_SAT).await;
    opened.unwrap();
    until_used(&ground, 1).await;
    stranger.node.stop();
    let unready = eventually("the stranger to be away", REACH_DEADLINE, || async {
        let readiness = ground.merchant.admin().ready().await;
        let readiness = readiness.map_err(|error| format!("{error:#}"))?;
        let status = status(&ground).await;
        let is_away = status["node"]["channels"][0]["usable"] == false;
        match (is_away, readiness.ready) {
            (true, false) => Ok(Some(readiness.reason)),
            _ => Err(status["node"]["channels"].to_string()),
        }
    });
    assert_eq!(unready.await.unwrap(), none);
    assert_eq!(status(&ground).await["node"]["unready"], Value::from(none));
}

#[tokio::test]
async fn an_offline_channel_of_the_provider_is_reported_as_such() {
    let (ground, provider) = provided("").await;
    provider.node.stop();
    eventually("the provider to be away", REACH_DEADLINE, || async {
        let readiness = ground.merchant.admin().ready().await;
        let readiness = readiness.map_err(|error| format!("{error:#}"))?;
        match readiness.reason {
            Some(why) if why.contains("not connected") => Ok(Some(())),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_stranger_uses_up_no_reserve_that_a_bought_channel_needs() {
    let (ground, provider) = reserved().await;
    let stranger = ground.stranger("stranger", FUNDS_SAT).await.unwrap();
    // This test does not depend on whether this channel is accepted.
    let _ = ground.open_channel(&stranger, ground.peer, OWN_SAT).await;
    let opened = ground.open_channel(&provider, ground.peer, OWN_SAT).await;
    opened.unwrap();
    let said = format!(
        "channel of {OWN_SAT}sats from trusted peer {}",
        provider.peer.node_id
    );
    let log = log(&ground);
    let taken = log.lines().find(|line| line.contains(&said));
    let taken = taken.unwrap_or_else(|| panic!("`{said}` is not in the log"));
    assert!(taken.contains("Anchor"), "{taken}");
}

/// A ground with a merchant that has the reserve for one channel, and a provider without a channel.
async fn reserved() -> (Ground, Stranger) {
    let mut ground = ground(CHEAP, "").await;
    let provider = ground.stranger("provider", FUNDS_SAT).await.unwrap();
    let settings = format!("{}node.reserve = \"25000 sat\"\n", provides(&provider));
    ground.restart_merchant(&settings).await.unwrap();
    ground.fund_merchant(40_000).await.unwrap();
    (ground, provider)
}
