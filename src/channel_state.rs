//! Storage of the channels' state: ldk-node's database in the node's folder or a server in its place, and copies of it. It does
//! not know the node.

pub mod copy;
pub mod database;
mod error;
pub(crate) mod kv_store;
pub mod vss;

pub use copy::StateError;
pub use error::ChannelStateError;
