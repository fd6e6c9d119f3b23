//! Money that leaves a channel by itself or by a splice, while the channel stays in use.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use regtest::payer::Payer;
use regtest::wait::eventually;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::operations::{DEADLINE, done, lent, not_done, sat};
use crate::shop::{HEIGHT, Shop};

/// A server that gives invoices of the payer's, one wrong and then right ones.
async fn invoice_server(payer: Arc<Payer>) -> (SocketAddr, JoinSet<()>) {
    let asked = Arc::new(AtomicU64::new(0));
    let give = move |Path(msat): Path<u64>| {
        let (payer, asked) = (Arc::clone(&payer), Arc::clone(&asked));
        async move {
            let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            let msat = if is_first { msat + 1_000 } else { msat };
            let invoice = payer.invoice(msat, "withdrawal").await.unwrap();
            Json(json!({ "invoice": invoice }))
        }
    };
    let router = Router::new().route("/{msat}", get(give));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, serving)
}

#[tokio::test]
async fn what_is_above_a_threshold_is_withdrawn_to_invoices_that_ask_for_just_that() {
    let mut shop = Shop::open().await;
    not_done(&shop.network, &["withdraw"], 4, "[node.withdraw]").await;
    let (address, _serving) = invoice_server(Arc::clone(&shop.network.payer)).await;
    shop.network.merchant.settings_mut().extra = format!(
        "[node.withdraw]\nabove = \"60000 sat\"\nkeep = \"20000 sat\"\ninvoice_from = \"http://{address}/{{amount_msat}}\"\n"
    );
    shop.network.merchant.terminate().await.unwrap();
    shop.come_back().await;
    let network = &shop.network;
    assert_eq!(
        done(network, &["withdraw"]).await["withdrawn"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    lent(network).await;
    // The first invoice asks for more than was said.
    not_done(network, &["withdraw"], 4, "msat, not for").await;
    let withdrawn = done(network, &["withdraw"]).await;
    let withdrawn = withdrawn["withdrawn"].as_array().unwrap();
    assert_eq!(withdrawn.len(), 1);
    assert_eq!(withdrawn[0]["is_done"], true);
    // 100,000 less the channel's reserve of 20,000; 20,000 stay, and a hundredth for the way.
    assert_eq!(withdrawn[0]["amount_msat"], 59_400_000);
    assert_eq!(
        done(network, &["withdraw"]).await["withdrawn"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[tokio::test]
async fn what_is_above_a_threshold_on_the_chain_is_withdrawn_once_however_often_it_is_asked_for() {
    let mut shop = Shop::open().await;
    let elsewhere = shop.network.bitcoind.mining_address().to_string();
    shop.network.merchant.settings_mut().extra = format!(
        "[node.withdraw]\nabove = \"3000000 sat\"\nkeep = \"50000 sat\"\nto = \"{elsewhere}\"\n"
    );
    shop.network.merchant.terminate().await.unwrap();
    shop.come_back().await;
    let network = &shop.network;
    let (one, other) = tokio::join!(done(network, &["withdraw"]), done(network, &["withdraw"]));
    let count = |withdrawn: &Value| withdrawn["withdrawn"].as_array().unwrap().len();
    assert_eq!(count(&one) + count(&other), 1, "{one} {other}");
    network.mine(1).await.unwrap();
    let left = sat(&done(network, &["balance"]).await, "total_sat");
    // The fee does not reduce the amount kept. A channel with anchors also needs coins (node.reserve); the customer's channel
    // has anchors if the coins were seen before it was opened.
    let log = std::fs::read_to_string(network.merchant.log()).unwrap();
    let wanted = if log.contains("Accepting inbound Anchor channel") {
        25_000
    } else {
        0
    };
    assert!(
        (50_000..60_000).contains(&(left - wanted)),
        "{left}, {wanted}"
    );
}

#[tokio::test]
async fn money_is_spliced_into_and_out_of_a_channel_that_stays_in_use() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let channel = || async {
        let channels = done(network, &["channels", "list"]).await;
        channels["channels"][0].clone()
    };
    let id = channel().await["channel_id"].as_str().unwrap().to_owned();
    let too_much = ["channels", "splice-in", &id, "20000000"];
    not_done(network, &too_much, 4, "can be spent on chain now").await;
    let mainnet = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq";
    let abroad = ["channels", "splice-out", &id, mainnet, "50000"];
    not_done(network, &abroad, 4, "nothing was sent").await;
    done(network, &["channels", "splice-in", &id, "300000 sat"]).await;
    let is_size = |sat: u64| async move {
        eventually("the splice to be locked in", DEADLINE, || async {
            network
                .mine(1)
                .await
                .map_err(|error| format!("{error:#}"))?;
            let channel = channel().await;
            let is_there = channel["capacity_sat"] == sat && channel["usable"] == true;
            if is_there {
                Ok(Some(()))
            } else {
                Err(channel.to_string())
            }
        })
        .await
        .unwrap();
    };
    is_size(2_300_000).await;
    shop.buy(HEIGHT).await;
    let elsewhere = network.bitcoind.mining_address().to_string();
    not_done(
        network,
        &["channels", "splice-out", &id, &elsewhere, "2300000"],
        4,
        "can send now",
    )
    .await;
    done(
        network,
        &["channels", "splice-out", &id, &elsewhere, "100000 sat"],
    )
    .await;
    eventually("the channel to be smaller", DEADLINE, || async {
        network
            .mine(1)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let size = channel().await["capacity_sat"].as_u64().unwrap();
        // What goes out, and the fee for it.
        if (2_190_000..=2_200_000).contains(&size) {
            Ok(Some(()))
        } else {
            Err(size.to_string())
        }
    })
    .await
    .unwrap();
    shop.buy(HEIGHT).await;
}
