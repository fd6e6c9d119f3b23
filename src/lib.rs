//! Tollhouse: a Lightning node with a paywall built in.
//!
//! Two streams meet in one process. HTTP requests come in through [`sell::http`] and find their
//! [`route`]. The [`sell::gate`] answers each with a permit or with a challenge that holds an
//! invoice. Payments come in through the [`node`], and the [`account::ledger`] records them. The
//! modules below are called wings, and their submodules are called rooms. A room imports only rooms
//! that rank below it; `tests/it/tidy.rs` checks this.
//!
//! As a library, Tollhouse guards the handlers of another program, with the node in the same
//! process (`examples/jokes.rs`). The interface for this is [`Tollhouse`], [`Guard`] and [`Paid`],
//! with the parts of an [`Offer`]: [`route`], [`price`] and [`amount`]. All other modules are
//! public only for the program, its tests and its benchmarks, and may change with any version. They
//! are not hidden, because the lints that require a doc line on each item skip hidden items.
//!
//! ```no_run
//! use std::net::SocketAddr;
//!
//! use axum::routing::get;
//! use axum::{Extension, Router};
//! use tollhouse::{Paid, Tollhouse};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tollhouse = Tollhouse::start("tollhouse.toml").await?;
//! let app = Router::new()
//!     .route("/joke", get(joke))
//!     .route_layer(tollhouse.guard("jokes", "10 sat")?)
//!     .route("/", get("Jokes are at /joke."));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8402").await?;
//! axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
//!     .with_graceful_shutdown(tollhouse.stop_signal())
//!     .await?;
//! tollhouse.stop().await?;
//! # Ok(())
//! # }
//!
//! async fn joke(Extension(paid): Extension<Paid>) -> String {
//!     format!("It found a path. (For {}.)", paid.token_id)
//! }
//! ```

pub mod account;
pub mod app;
pub mod base;
pub mod chain;
pub mod channel_state;
pub mod cli;
pub mod config;
pub mod keys;
pub mod node;
pub mod operate;
pub mod protocol;
pub mod sell;

pub use app::{AppError, Tollhouse};
pub use base::{amount, price};
pub use sell::layer::{Guard, GuardError, Paid};
pub use sell::route;
pub use sell::route::{FreeQuota, Grant, Offer};
