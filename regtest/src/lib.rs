//! The harness: a real `bitcoind` on regtest, an Esplora server over it, real LDK nodes that pay, and the shipped
//! `tollhouse` program as a child process. Nothing is mocked.
//!
//! It does not depend on the root crate: it drives the program by its path, its settings file and its HTTP listeners, as an
//! operator and a customer would.
//!
//! [`network::Network`] is the whole of it; the other modules are its parts, which can be used alone. Nothing outlives the
//! value that stands for it: processes, ports and folders go when it is dropped, and the processes also when the harness
//! itself is killed. (After a kill -9 the temporary folder stays; it can be told by its name.)

pub mod admin;
pub mod bitcoind;
pub mod client;
pub mod environment;
pub mod esplora;
pub mod folder;
pub mod fuzz;
pub mod hostile;
pub mod merchant;
pub mod network;
pub mod newcomer;
mod parent;
pub mod payer;
mod payer_api;
pub mod port;
pub mod rpc;
pub mod seller;
pub mod server;
pub mod settings;
pub mod soak;
pub mod token;
pub mod vss;
pub mod wait;
