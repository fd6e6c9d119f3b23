//! An axum application that sells one of its handlers, with the Lightning node in the same process:
//!
//! ```text
//! cargo run --example jokes -- tollhouse.toml
//! curl -i http://127.0.0.1:8402/joke
//! ```
//!
//! The settings are those of `tollhouse run` without `[[route]]` tables; docs/embedding.md shows the least of them.

use std::error::Error;
use std::net::SocketAddr;

use axum::routing::get;
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tollhouse::Grant;
use tollhouse::Offer;
use tollhouse::Paid;
use tollhouse::Tollhouse;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,macaroon=off")
        .init();
    let settings = std::env::args().next_back().unwrap_or_default();
    let tollhouse = Tollhouse::start(settings).await?;

    // One payment, three jokes. `tollhouse.guard("jokes", "10 sat")?` would sell any number of them for a day.
    let three = Grant {
        requests: Some(3),
        ..Grant::default()
    };
    let app = Router::new()
        .route("/joke", get(joke))
        .route_layer(tollhouse.guard_with(Offer::new("jokes", "10 sat".parse()?, three))?)
        .route("/", get("Jokes are at /joke, 10 sat for three.\n"));

    let listener = TcpListener::bind(tollhouse.listen()).await?;
    let serving = axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    );
    serving
        .with_graceful_shutdown(tollhouse.stop_signal())
        .await?;
    // Last, so that no answer is cut and no payment is caught in the middle.
    tollhouse.stop().await?;
    Ok(())
}

/// Only called when it was paid for.
async fn joke(Extension(paid): Extension<Paid>) -> String {
    let left = paid.left.requests.unwrap_or_default();
    format!("Why did the invoice cross the road? It found a path.\n({left} left.)\n")
}
