//! Why the node ended, and why it cannot be asked.

use std::path::PathBuf;

use crate::account::ledger::LedgerError;

use super::StateError;
use super::relay::RelayError;

/// Why the node ended when nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its database cannot be made ready.
    #[error("failed to prepare the node's database {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Its database is damaged.
    #[error(
        "the node's database {path} is damaged ({why}): the node is not started, and nothing was changed. Its channels cannot \
         be made up, and an old copy must not be used as if it were the newest: keep the folder as it is, and restore the \
         newest backup. (The words of the seed alone bring back the money on chain, not channels.)"
    )]
    DatabaseDamaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        why: String,
    },
    /// There was a node in this folder, and its database is gone or empty.
    #[error(
        "the node's database {path} is gone or empty, and there was a node: a new one in its place would forget its channels. \
         Put the file back, its -wal included, or restore the newest backup; or, to begin anew, move all of data_dir away"
    )]
    DatabaseLost {
        /// The file.
        path: PathBuf,
    },
    /// Its database has a shape that this program does not know.
    #[error("the node's database {path} has shape {found}: start the program that wrote it")]
    DatabaseShape {
        /// The file.
        path: PathBuf,
        /// Its number.
        found: u32,
    },
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
    /// The settings name a server for the channels' state, which is in the folder.
    #[error(
        "the channels' state of this node is in {path}, and the settings name a server for it (node.vss), where it is not: a node \
         that begins anew would forget its channels. Take [node.vss] out of the settings; it is for a node that never had a channel"
    )]
    StateHere {
        /// The file.
        path: PathBuf,
    },
    /// The channels' state is kept by a server that the settings do not name.
    #[error(
        "the channels' state of this node is kept as {place}, and the settings say otherwise (node.vss): a node that begins anew \
         would forget its channels. Put that back into the settings; if the server has moved with all that it kept, write the new place into {mark}"
    )]
    StateElsewhere {
        /// The store and its server.
        place: String,
        /// Where that is noted.
        mark: PathBuf,
    },
    /// Another program uses the same channels.
    #[error(
        "another program uses the channels that the server of node.vss keeps for this node: it ends before this one may begin, or the \
         money in them would be lost. If this one was moved here, stop the other"
    )]
    StateTaken,
    /// The server knows nothing of this node, or less than it did.
    #[error(
        "the server of node.vss has lost what it kept of this node, or was set back to an older state (or the headers name another \
         account): a node that begins anew would forget its channels, and an old state can cost all that is in them. Put the server in \
         order. If what it had is lost for good, ask the peers to force-close; the words alone restore what is on the chain"
    )]
    StateGone,
    /// The server was away for too long, and LDK has given up.
    #[error(
        "the node's state could not be written, so the node does nothing more; with [node.vss] its server was away for too long. Start the \
         program again: payments that were under way are claimed or go back then"
    )]
    StateAway,
    /// The store holds something, and nothing of this node.
    #[error(
        "what is kept as {0} is not the state of a node with the words in data_dir: a node that begins beside it would forget its \
         channels. Put the words back that this node was made with; for another node, write a name that no node has into \
         node.vss.store_id. Nothing was changed"
    )]
    StateOfOthers(String),
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
