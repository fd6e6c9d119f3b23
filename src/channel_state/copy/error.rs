//! Why the channel state cannot be read or changed.

use std::path::PathBuf;

use super::tables::SCHEMA_VERSION;

/// Why the channel state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file does not exist: the node was never started.
    #[error("there is no channel state in {0}: the node was never started")]
    Missing(PathBuf),
    /// SQLite returned an error.
    #[error("failed to use the channel state {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite finds the file damaged.
    #[error("the channel state is damaged: {0}")]
    Damaged(String),
    /// Another version of ldk-node wrote the file.
    #[error(
        "the channel state has schema {found}, this program knows {SCHEMA_VERSION}: use the program that wrote it"
    )]
    Schema {
        /// The version in the file.
        found: u32,
    },
    /// The content of a row is invalid.
    #[error("the channel state holds no {0} that can be read")]
    Unreadable(&'static str),
    /// The monitors cannot be read.
    #[error("failed to read the channel monitors (are the words those of this node?)")]
    Monitors(#[source] lightning::io::Error),
}
