//! The errors that end the node, and the errors of requests to it.

use std::path::PathBuf;

use crate::account::ledger::LedgerError;
use crate::chain::esplora::RelayError;
use crate::channel_state::{ChannelStateError, StateError};

/// The reasons why the node ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The node's state cannot be written. LDK has not done the step that needed the write.
    #[error(
        "the node's state {path} cannot be written ({why}), so the node does nothing more. Make room on its disk, or look what \
         is wrong with it, and start the program again: payments that were under way are claimed or go back then"
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error of SQLite or of the system.
        why: String,
    },
    /// The state that the server keeps of this node cannot be read.
    #[error(
        "what the server of node.vss keeps of this node cannot be read ({why}), which no other try mends: it was changed there, or a \
         newer program has written it. Nothing was changed. Start the newest program that it was used with. If it is damaged, have the \
         server put back what it kept last, never anything older: an old state can cost all that is in the channels. If that is lost for \
         good, ask the peers to force-close; the words alone restore what is on the chain"
    )]
    StateUnreadable {
        /// The message of ldk-node.
        why: String,
        /// The error of ldk-node.
        #[source]
        source: ldk_node::BuildError,
    },
    /// The node's folder cannot be made.
    #[error("failed to make the node's folder")]
    Folder(#[source] std::io::Error),
    /// Its channels' state cannot be used.
    #[error(transparent)]
    ChannelState(#[from] ChannelStateError),
    /// The node's state cannot be read or changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The relay to the chain source cannot be opened.
    #[error("failed to open the relay to the chain source")]
    Relay(#[source] RelayError),
    /// A recovery looks up scripts, which needs an index of the chain: an Esplora API.
    #[error(
        "recovering from a backup takes an Esplora API: until it is over, put node.chain.esplora into the settings in place of the \
         bitcoind or the Electrum server"
    )]
    RecoveryNeedsEsplora,
    /// The wallet was made with other seed words, or cannot be read.
    #[error(
        "failed to open the on-chain wallet. If the words in data_dir are not those that this data was made with, put those back: \
         nothing was changed. Otherwise the log says before this what is wrong with it"
    )]
    Wallet(#[source] ldk_node::BuildError),
    /// The data in the folder belongs to another network than the settings name.
    #[error(
        "the data in data_dir was made for another network than node.network: name that one in the settings again, or another \
         data_dir. Nothing was changed"
    )]
    OtherNetwork(#[source] ldk_node::BuildError),
    /// ldk-node cannot be built from the data on the disk.
    #[error("failed to build the node")]
    Build(#[source] ldk_node::BuildError),
    /// The wallet gives no address for a sweep.
    #[error("failed to draw an address to sweep to")]
    Sweep(#[source] ldk_node::NodeError),
    /// A settlement could not be recorded, so its event was not acknowledged.
    #[error("failed to enter what the node received")]
    Ledger(#[from] LedgerError),
    /// ldk-node could not store that an event was handled.
    #[error("failed to acknowledge an event of the node")]
    Acknowledge(#[source] ldk_node::NodeError),
    /// The node does not start, for a reason that waiting does not fix.
    #[error(
        "failed to start the node (is something else listening on node.listen, or the disk full?)"
    )]
    Start(#[source] ldk_node::NodeError),
    /// The node cannot listen for peers at an address of the settings.
    #[error("failed to listen for Lightning peers on {address} (node.listen)")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The node's threads cannot be started.
    #[error("failed to start the node's runtime")]
    Runtime(#[source] std::io::Error),
    /// A step of the node panicked.
    #[error("the node panicked")]
    Panicked(#[source] tokio::task::JoinError),
    /// One of ldk-node's own tasks panicked and no longer runs.
    #[error("a task of the node panicked and is gone: {0}. Start the program again")]
    TaskGone(String),
}

/// The reasons why the operator's request to the node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeUnavailable {
    /// The node is not running.
    #[error("the node is not running")]
    NotRunning,
    /// The node recovers from a backup, so its channels cannot be used.
    #[error(
        "the node recovers from a backup: until that is over no channel is opened and no payment is made (see the status)"
    )]
    Recovering,
    /// The chain could not be read.
    #[error("the chain source {named} could not be read ({why})")]
    ChainUnread {
        /// The chain source.
        named: String,
        /// The last complaint of the chain source, or the node's error.
        why: String,
    },
    /// The node refused the request.
    #[error("the node refused")]
    Refused(#[from] ldk_node::NodeError),
    /// The node panicked.
    #[error("the node panicked")]
    Panicked(#[source] tokio::task::JoinError),
}
