//! The coins of the on-chain wallet: each is spent once, and what is said to be sent is on its way.

use bitcoin::Amount;
use regtest::esplora::Manner;
use regtest::network::Network;
use regtest::rpc::RpcError;
use regtest::wait::eventually;
use serde_json::{Value, json};

use crate::operations::{DEADLINE, done, not_done, sat, tollhouse};
use crate::shop::Shop;

async fn mempool(network: &Network) -> Result<Vec<String>, RpcError> {
    network
        .bitcoind
        .rpc()
        .call("getrawmempool", json!([]))
        .await
}

#[tokio::test]
async fn no_coin_is_spent_twice_however_soon_the_next_one_is_sent() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let (one, other) = (
        network.bitcoind.mining_address().to_string(),
        done(network, &["address"]).await["address"]
            .as_str()
            .unwrap()
            .to_owned(),
    );
    // There is one coin. The next one pays more for the way, and would replace the one before.
    let mut sent = Vec::new();
    for (address, rate) in [(&one, "2"), (&other, "20"), (&one, "40")] {
        let arguments = ["send", address, "50000 sat", "--fee-rate", rate];
        let txid = done(network, &arguments).await["txid"]
            .as_str()
            .unwrap()
            .to_owned();
        sent.push(txid);
    }
    let peer = network.payer.node_id().to_string();
    done(network, &["channels", "open", &peer, "1000000 sat"]).await;
    let last = ["send", &one, "60000 sat", "--fee-rate", "60"];
    let last = eventually("the funding to be seen", DEADLINE, || async {
        let output = tollhouse(network, &last).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => Ok(Some(said)),
            // The peer has not answered yet.
            Some(4) if said.contains("being opened") || said.contains("sent before") => Err(said),
            _ => panic!("{said}"),
        }
    })
    .await
    .unwrap();
    let mempool = mempool(network).await.unwrap();
    assert_eq!(mempool.len(), 5, "{mempool:?}");
    assert!(
        sent.iter().all(|txid| mempool.contains(txid)),
        "{sent:?} {mempool:?}"
    );
    assert!(mempool.iter().any(|txid| last.contains(txid)));
}

#[tokio::test]
async fn a_transaction_that_nobody_takes_is_not_said_to_be_sent() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let elsewhere = network.bitcoind.mining_address().to_string();
    done(network, &["send", &elsewhere, "40000 sat"]).await;
    done(network, &["sync"]).await;
    let arguments = ["send", &elsewhere, "50000 sat", "--fee-rate", "2"];
    network.esplora.answers(Manner::Refuses(400));
    not_done(network, &arguments, 4, "nothing was sent").await;
    network.esplora.answers(Manner::Refuses(503));
    not_done(network, &arguments, 5, "not known whether it is on its way").await;
    // Nothing is made of the same coins until it is seen, which takes no hand.
    network.esplora.answers(Manner::Well);
    eventually("it to be sent again", DEADLINE, || async {
        let found = mempool(network).await.map_err(|error| error.to_string())?;
        if found.len() == 2 {
            Ok(Some(()))
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
    .unwrap();
    network.mine(1).await.unwrap();
    let balance = done(network, &["balance"]).await;
    let left = 10_000_000 - sat(&balance, "total_sat");
    assert!((90_000..92_000).contains(&left), "{left}");
    done(network, &arguments).await;
}

#[tokio::test]
async fn a_replaced_deposit_does_not_stay_pending() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let address = done(network, &["address"]).await["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let to = regtest::bitcoind::parse_address(&address).unwrap();
    let money = [(to, Amount::from_sat(70_000))];
    let first = network.bitcoind.send(&money).await.unwrap();
    let first = first.to_string();
    let status_of = || async {
        network.sync().await.map_err(|error| format!("{error:#}"))?;
        let listed = done(network, &["payments"]).await;
        let payments = listed["payments"].as_array().unwrap().clone();
        let found = payments.into_iter().find(|it| it["hash"] == first.as_str());
        Ok::<_, String>(found.map(|it| it["status"].clone()))
    };
    eventually("the deposit to be seen", DEADLINE, || async {
        let status = status_of().await?;
        Ok::<_, String>((status == Some("pending".into())).then_some(()))
    })
    .await
    .unwrap();
    let rpc = network.bitcoind.rpc();
    let bumped: Value = rpc.call("bumpfee", json!([first])).await.unwrap();
    network.mine(1).await.unwrap();
    eventually("the first one to have ended", 4 * DEADLINE, || async {
        match status_of().await? {
            None => Ok(Some(())),
            Some(status) => Err(format!("{status}, and {bumped} has replaced it")),
        }
    })
    .await
    .unwrap();
    let balance = done(network, &["balance"]).await;
    assert_eq!(sat(&balance, "total_sat"), 10_070_000, "{balance}");
}
