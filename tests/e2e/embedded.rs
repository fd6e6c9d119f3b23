//! A program of somebody else's that has the node in it, `examples/jokes.rs`, sells for real money.

use std::path::{Path, PathBuf};
use std::time::Duration;

use regtest::network::{Network, NetworkOptions};
use regtest::wait::eventually;

/// How long what is written behind may take to show.
const WRITTEN_DEADLINE: Duration = Duration::from_secs(15);

fn example() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_tollhouse")).with_file_name("examples/jokes");
    assert!(
        program.exists(),
        "build it first: cargo build --locked --bins --examples"
    );
    program
}

#[tokio::test]
async fn an_application_sells_its_handler_and_its_books_show_the_sale() {
    let options = NetworkOptions::new(example(), "route = []");
    let mut network = Network::start(options).await.unwrap();
    let purchase = network.buy("/joke").await.unwrap();
    assert_eq!(purchase.challenge.problem["price_msat"], 10_000);
    assert_eq!(purchase.answer.status, 200, "{}", purchase.answer.text());
    assert!(purchase.answer.text().ends_with("(2 left.)\n"));

    let client = network.client().clone();
    let url = format!("{}/joke", network.gate_url());
    let ask = || client.get(&url, Some(&purchase.credential));
    assert!(ask().await.unwrap().text().ends_with("(1 left.)\n"));
    // What is left stays left over a restart.
    let status = network.merchant.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    network.merchant.restart().await.unwrap();
    network.merchant.wait_up().await.unwrap();
    assert!(ask().await.unwrap().text().ends_with("(0 left.)\n"));
    assert_eq!(network.ensure_channel().await.unwrap(), 0);
    assert_eq!(ask().await.unwrap().status, 402);
    let free = format!("{}/", network.gate_url());
    assert_eq!(client.get(&free, None).await.unwrap().status, 200);

    let sale = eventually("the sale to be written", WRITTEN_DEADLINE, || async {
        let sales = network.merchant.admin().sales(10).await;
        let sales = sales.map_err(|error| format!("{error:#}"))?;
        match sales.as_slice() {
            [sale] if sale["redeemed_ms"].is_u64() => Ok(Some(sale.clone())),
            _ => Err(format!("{sales:?}")),
        }
    });
    let sale = sale.await.unwrap();
    assert_eq!(sale["service"], "jokes");
    assert_eq!(sale["route"], "jokes");
    assert_eq!(sale["amount_msat"], 10_000);
    assert!(network.stop().await.unwrap().success());
}
