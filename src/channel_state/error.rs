//! Why the channels' state cannot be used.

use std::path::PathBuf;

/// Why the channels' state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelStateError {
    /// The node's database cannot be prepared.
    #[error("failed to prepare the node's database {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// The error of SQLite.
        #[source]
        source: rusqlite::Error,
    },
    /// The node's database is damaged.
    #[error(
        "the node's database {path} is damaged ({why}): the node is not started, and nothing was changed. Its channels cannot \
         be made up, and an old copy must not be used as if it were the newest: keep the folder as it is, and restore the \
         newest backup. (The words of the seed alone bring back the money on chain, not channels.)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The problem that SQLite found.
        why: String,
    },
    /// This folder had a node, and its database is missing or empty.
    #[error(
        "the node's database {path} is gone or empty, and there was a node: a new one in its place would forget its channels. \
         Put the file back, its -wal included, or restore the newest backup; or, to begin anew, move all of data_dir away"
    )]
    Lost {
        /// The file.
        path: PathBuf,
    },
    /// The node's database has a schema version that this program does not know.
    #[error("the node's database {path} has shape {found}: start the program that wrote it")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The version number.
        found: u32,
    },
    /// The settings name a server for the channels' state, but the state is in the folder.
    #[error(
        "the channels' state of this node is in {path}, and the settings name a server for it (node.vss), where it is not: a node \
         that begins anew would forget its channels. Take [node.vss] out of the settings; it is for a node that never had a channel"
    )]
    Here {
        /// The file.
        path: PathBuf,
    },
    /// A server that the settings do not name keeps the channels' state.
    #[error(
        "the channels' state of this node is kept as {place}, and the settings say otherwise (node.vss): a node that begins anew \
         would forget its channels. Put that back into the settings; if the server has moved with all that it kept, write the new place into {mark}"
    )]
    Elsewhere {
        /// The store and its server.
        place: String,
        /// The file that names the store.
        mark: PathBuf,
    },
    /// Another program uses the same channels.
    #[error(
        "another program uses the channels that the server of node.vss keeps for this node: it ends before this one may begin, or the \
         money in them would be lost. If this one was moved here, stop the other"
    )]
    Taken,
    /// The server has no state of this node, or an older one than before.
    #[error(
        "the server of node.vss has lost what it kept of this node, or was set back to an older state (or the headers name another \
         account): a node that begins anew would forget its channels, and an old state can cost all that is in them. Put the server in \
         order. If what it had is lost for good, ask the peers to force-close; the words alone restore what is on the chain"
    )]
    Gone,
    /// The server was away for too long, and LDK has given up.
    #[error(
        "the node's state could not be written, so the node does nothing more; with [node.vss] its server was away for too long. Start the \
         program again: payments that were under way are claimed or go back then"
    )]
    Away,
    /// The store holds data, but not of this node.
    #[error(
        "what is kept as {0} is not the state of a node with the words in data_dir: a node that begins beside it would forget its \
         channels. Put the words back that this node was made with; for another node, write a name that no node has into \
         node.vss.store_id. Nothing was changed"
    )]
    OfOthers(String),
    /// The node's folder cannot be used.
    #[error("failed to use the node's folder")]
    Folder(#[source] std::io::Error),
}
