//! Why the node ended, and why it cannot be asked.

use std::path::PathBuf;

use crate::account::ledger::LedgerError;
use crate::chain::esplora::RelayError;
use crate::channel_state::{ChannelStateError, StateError};

/// Why the node ended when nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its state cannot be written. Whatever LDK was about to do it has not done.
    #[error(
        "the node's state {path} cannot be written ({why}), so the node does nothing more. Make room on its disk, or look what \
         is wrong with it, and start the program again: payments that were under way are claimed or go back then"
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system said.
        why: String,
    },
    /// What the server keeps of this node cannot be read.
    #[error(
        "what the server of node.vss keeps of this node cannot be read ({why}), which no other try mends: it was changed there, or a \
         newer program has written it. Nothing was changed. Start the newest program that it was used with. If it is damaged, have the \
         server put back what it kept last, never anything older: an old state can cost all that is in the channels. If that is lost for \
         good, ask the peers to force-close; the words alone restore what is on the chain"
    )]
    StateUnreadable {
        /// What ldk-node said of it.
        why: String,
        /// What it failed with.
        #[source]
        source: ldk_node::BuildError,
    },
    /// Its folder cannot be made.
    #[error("failed to make the node's folder")]
    Folder(#[source] std::io::Error),
    /// Its channels' state cannot be used.
    #[error(transparent)]
    ChannelState(#[from] ChannelStateError),
    /// Its state cannot be read or changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is nothing that stands between it and its chain source.
    #[error("failed to open the relay to the chain source")]
    Relay(#[source] RelayError),
    /// A recovery looks for scripts, which only an index of the chain knows.
    #[error(
        "recovering from a backup takes an Esplora API: until it is over, put node.chain.esplora into the settings in place of the \
         bitcoind or the Electrum server"
    )]
    RecoveryNeedsEsplora,
    /// The wallet is not one of these words, or cannot be read.
    #[error(
        "failed to open the on-chain wallet. If the words in data_dir are not those that this data was made with, put those back: \
         nothing was changed. Otherwise the log says before this what is wrong with it"
    )]
    Wallet(#[source] ldk_node::BuildError),
    /// Money of one network is none on another.
    #[error(
        "the data in data_dir was made for another network than node.network: name that one in the settings again, or another \
         data_dir. Nothing was changed"
    )]
    OtherNetwork(#[source] ldk_node::BuildError),
    /// ldk-node cannot be put together from what is on the disk.
    #[error("failed to build the node")]
    Build(#[source] ldk_node::BuildError),
    /// The wallet gives no address to sweep to.
    #[error("failed to draw an address to sweep to")]
    Sweep(#[source] ldk_node::NodeError),
    /// A settlement could not be entered, so it was not acknowledged.
    #[error("failed to enter what the node received")]
    Ledger(#[from] LedgerError),
    /// ldk-node could not note that an event was handled.
    #[error("failed to acknowledge an event of the node")]
    Acknowledge(#[source] ldk_node::NodeError),
    /// It does not start for a reason that waiting does not mend.
    #[error(
        "failed to start the node (is something else listening on node.listen, or the disk full?)"
    )]
    Start(#[source] ldk_node::NodeError),
    /// Peers cannot connect where the settings say.
    #[error("failed to listen for Lightning peers on {address} (node.listen)")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its threads cannot be started.
    #[error("failed to start the node's runtime")]
    Runtime(#[source] std::io::Error),
    /// A step of it panicked.
    #[error("the node panicked")]
    Panicked(#[source] tokio::task::JoinError),
    /// One of ldk-node's own tasks panicked and is gone.
    #[error("a task of the node panicked and is gone: {0}. Start the program again")]
    TaskGone(String),
}

/// Why the operator's request to the node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeUnavailable {
    /// It is not running.
    #[error("the node is not running")]
    NotRunning,
    /// Its channels are what it recovers from.
    #[error(
        "the node recovers from a backup: until that is over no channel is opened and no payment is made (see the status)"
    )]
    Recovering,
    /// The chain could not be read.
    #[error("the chain source {named} could not be read ({why})")]
    ChainUnread {
        /// Which one.
        named: String,
        /// What it said last, or what the node says of it.
        why: String,
    },
    /// It refused.
    #[error("the node refused")]
    Refused(#[from] ldk_node::NodeError),
    /// It panicked.
    #[error("the node panicked")]
    Panicked(#[source] tokio::task::JoinError),
}
