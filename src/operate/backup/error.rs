//! Why a backup or a restore failed.

use std::io;
use std::path::{Path, PathBuf};

use bitcoin::Network;

use crate::account::ledger::LedgerError;
use crate::channel_state::copy::StateError;
use crate::keys::SeedError;

/// Why a backup cannot be made or used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The settings name a server for the channel state, but the server does not hold this node's
    /// state.
    #[error(
        "the settings name a server for the channels' state (node.vss), and that of the node in {path} is not kept there: take \
         [node.vss] out of the settings, or start the program once if it is a new node", path = .0.display()
    )]
    NotOnServer(PathBuf),
    /// A file operation failed.
    #[error("failed to {what} {path}", path = .path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The channel state could not be copied or read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ledger could not be copied or read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The seed words could not be read.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The node is recovering, so a backup of its channel state would be useless.
    #[error(
        "the node recovers from a backup: keep that one, the next is made when the recovery is over"
    )]
    Recovering,
    /// The backup is in the folder but could not be sent to the store.
    #[error("failed to send the backup to the store (backup.s3): {0}")]
    NotSent(String),
    /// The file is not a backup.
    #[error("{0} is no backup of tollhouse")]
    NoBackup(PathBuf),
    /// A newer program wrote the backup.
    #[error("{path} has format {found}, this program knows formats up to {known}: use the newer program", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format of the backup.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The seed words are not the ones that the backup was made with.
    #[error(
        "the words do not open {0}: they are those of another node, or the file's first bytes were changed. Nothing was written"
    )]
    OtherWords(PathBuf),
    /// The content differs from what was written.
    #[error("{path} is damaged ({why}): nothing of it is used. Take another backup, or another copy of this one", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The damage that was found.
        why: String,
    },
    /// The backup is for another network than the settings.
    #[error("{path} is a backup of a node on {found}, and the settings say {wanted}: set node.network, or take another file", path = .path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The network of the backup.
        found: String,
        /// The network of the settings.
        wanted: Network,
    },
    /// The folder to restore to is not empty.
    #[error(
        "{0} is not empty: restore to a new folder, and put it in the old one's place when that is moved away"
    )]
    NotEmpty(PathBuf),
    /// The backup was made while the program ran, so it cannot be restored as the newest state.
    #[error(
        "{0} was made while the program ran, so it cannot be its newest state: restore it without that assurance, and the node has its \
         old channels closed and swept"
    )]
    NotNewest(PathBuf),
    /// A newer backup of this node exists.
    #[error(
        "{path} is not the newest backup of this node: there is {newest} in {place}. Fetch that one, and restore it instead",
        path = .path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// The name of the newer backup.
        newest: String,
        /// The place of the newer backup.
        place: String,
    },
    /// The store could not be asked for a newer backup.
    #[error(
        "whether there is a newer backup in the store at {place} is not known ({why}): mend that, or leave --config away if you have looked \
         there yourself"
    )]
    NotAsked {
        /// The place of the store.
        place: String,
        /// Why the store did not answer.
        why: String,
    },
}

/// Adds the operation and the path to an I/O error.
pub(super) fn io_at<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> BackupError + use<'a> {
    move |source| BackupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}
