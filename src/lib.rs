//! Tollhouse: a Lightning node with a paywall built in.
//!
//! Two streams meet in one process. HTTP requests come in through [`http`], find their [`route`], and are decided on by the
//! [`gate`]: a permit, or a challenge with an invoice. Payments come in through the [`node`] and are entered in the
//! [`ledger`]. Rooms import only rooms below them; `tests/it/tidy.rs` holds the line.

pub mod admin;
pub mod amount;
pub mod app;
pub mod causes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod gate;
pub mod http;
pub mod invoice;
pub mod l402;
pub mod ledger;
pub mod live;
pub mod node;
pub mod pace;
pub mod price;
pub mod quote;
pub mod resource;
pub mod route;
pub mod secret_file;
pub mod store;
