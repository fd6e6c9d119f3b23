//! The end in good order.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::stream;
use http::Method;
use regtest::port;
use regtest::server::Server;
use regtest::wait::eventually;
use tokio::sync::Semaphore;

use crate::shop::Shop;

/// Chunks of the slow answer.
const CHUNKS: usize = 5;

/// An upstream that sends one chunk for each permit of the semaphore.
fn slow_upstream(permits: Arc<Semaphore>) -> Server {
    let answer = move || {
        let permits = Arc::clone(&permits);
        async move {
            let chunks = stream::unfold(0, move |sent| {
                let permits = Arc::clone(&permits);
                async move {
                    if sent == CHUNKS {
                        return None;
                    }
                    permits.acquire().await.unwrap().forget();
                    let chunk = Bytes::from(format!("chunk {sent}\n"));
                    Some((Ok::<_, Infallible>(chunk), sent + 1))
                }
            });
            Body::from_stream(chunks)
        }
    };
    let app = Router::new().route("/slow", get(answer));
    Server::start("slow upstream", port::free().unwrap(), app).unwrap()
}

#[tokio::test]
async fn a_response_that_streams_when_the_program_is_told_to_stop_is_completed() {
    let permits = Arc::new(Semaphore::new(0));
    let upstream = slow_upstream(Arc::clone(&permits));
    let route = format!(
        "[[route]]\npath = \"/slow\"\nservice = \"slow\"\nprice = \"3 sat\"\nupstream = \"http://{}\"\n",
        upstream.address()
    );
    let mut shop = Shop::open_with(&route, "").await;
    let url = format!("{}/slow", shop.network.gate_url());
    let challenge = shop.network.client().challenge(&url).await.unwrap();
    let paid = shop.network.payer.pay(&challenge.bolt11).await.unwrap();
    let request = shop.network.client().request(Method::GET, &url).header(
        http::header::AUTHORIZATION,
        challenge.credential(&paid).header(),
    );
    permits.add_permits(1);
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    // The first chunk is here before the last one is sent: it streams.
    assert_eq!(response.chunk().await.unwrap().unwrap(), "chunk 0\n");

    shop.network.merchant.signal("TERM").unwrap();
    let gate = shop.network.merchant.gate();
    eventually("the listener to close", Duration::from_secs(10), || async {
        match tokio::net::TcpStream::connect(gate).await {
            Ok(_) => Err("it still accepts"),
            Err(_) => Ok(Some(())),
        }
    })
    .await
    .unwrap();
    assert!(shop.network.merchant.admin().health().await.is_ok());

    permits.add_permits(CHUNKS - 1);
    let mut rest = Vec::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        rest.extend_from_slice(&chunk);
    }
    assert_eq!(rest, b"chunk 1\nchunk 2\nchunk 3\nchunk 4\n");
    let status = shop.network.merchant.wait_ended().await.unwrap();
    assert_eq!(status.code(), Some(0));

    // And the books were closed: the use is in them at the next start.
    shop.network.merchant.restart().await.unwrap();
    shop.network.merchant.wait_up().await.unwrap();
    let sales = shop.redeemed_sales(1).await;
    assert_eq!(sales[0]["service"], "slow");
}

#[tokio::test]
async fn told_to_stop_twice_it_cuts_what_is_in_flight_and_still_stops_its_node() {
    // Nobody ever lets the upstream go on.
    let upstream = slow_upstream(Arc::new(Semaphore::new(1)));
    let route = format!(
        "[[route]]\npath = \"/slow\"\naccess = \"free\"\nupstream = \"http://{}\"\n",
        upstream.address()
    );
    let mut shop = Shop::open_with(&route, "").await;
    let url = format!("{}/slow", shop.network.gate_url());
    let client = shop.network.client();
    let mut response = client.request(Method::GET, &url).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "chunk 0\n");

    let merchant = &mut shop.network.merchant;
    merchant.signal("TERM").unwrap();
    let gate = merchant.gate();
    eventually("the listener to close", Duration::from_secs(10), || async {
        match tokio::net::TcpStream::connect(gate).await {
            Ok(_) => Err("it still accepts"),
            Err(_) => Ok(Some(())),
        }
    })
    .await
    .unwrap();
    merchant.signal("TERM").unwrap();
    assert_eq!(merchant.wait_ended().await.unwrap().code(), Some(0));
    assert!(response.chunk().await.is_err(), "it was cut");
    let log = std::fs::read_to_string(merchant.log()).unwrap();
    assert!(log.contains("The node is stopped"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}
