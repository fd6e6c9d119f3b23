//! Tollhouse: a Lightning node with a paywall built in.
//!
//! Two streams meet in one process. HTTP requests come in through [`sell::http`], find their [`route`], and are decided on by the
//! [`sell::gate`]: a permit, or a challenge with an invoice. Payments come in through the [`node`] and are entered in the
//! [`account::ledger`]. The modules below are the wings of the house, and theirs are its rooms. Rooms import only rooms below them;
//! `tests/it/tidy.rs` holds the line.
//!
//! As a library it guards the handlers of another program, with the node in the same process (`examples/jokes.rs`). For that there are
//! [`Tollhouse`], [`Guard`] and [`Paid`], and what an [`Offer`] is made of: [`route`], [`price`] and [`amount`]. All other modules are
//! public only for the program itself and for its tests and benchmarks (hidden ones would escape the lints that ask for a line of
//! documentation on each item): they may change with any version.
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
