//! Backups: one encrypted file with everything that must not be lost. Backups are made while the
//! program runs, verified, and restored.
//!
//! Only the node's seed words decrypt a backup. Each payment makes an earlier channel state
//! obsolete, and an obsolete state must never be used. A restored folder therefore begins with a
//! recovery, in which the node signs nothing for the old channels (`node/recovery.rs`).

mod create;
mod folder;
mod keeper;
mod made;
mod manifest;
mod newer;
mod open;
mod remote;
mod restore;
mod seal;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bitcoin::Network;

use crate::account::ledger::{self, LedgerError};
use crate::channel_state::copy::StateError;
use crate::channel_state::vss::Vss;
use crate::keys::{NodeKeys, SeedError};

pub use create::Created;
pub use keeper::{BackupStatus, Backups, RemoteStatus, at_rest};
pub use manifest::{Manifest, PartEntry};
pub use remote::S3;
pub use restore::{How, Restored, restore};
pub use verify::{Verified, room_wanted, verify};

/// The file in the data folder that marks a clean shutdown.
pub const CLEAN_STOP: &str = "clean-stop";

/// The list of valid access tokens. A backup may list tokens that were revoked later, so a restore
/// that begins with a recovery deletes the list.
pub const ACCESS_LIST: &str = "access.made";

/// The results of verified backups, in the data folder. They are of no use in another folder.
const CHECKS: &str = "backup.checks";

/// When backups are made and where they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder that backups are written to.
    pub folder: PathBuf,
    /// The maximum age of the newest backup.
    pub every: Duration,
    /// The number of newest backups to keep, in addition to one for each of the last days.
    pub keep: usize,
    /// The store that backups are also sent to.
    pub s3: Option<S3>,
}

/// The sources that a backup is made from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The data folder.
    pub data_dir: PathBuf,
    /// The settings file.
    pub settings: PathBuf,
    /// The node's folder in the data folder.
    pub node_folder: PathBuf,
    /// The ledger's configuration.
    pub ledger: ledger::Config,
    /// The Bitcoin network.
    pub network: Network,
    /// The keys of the node and of the backup.
    pub keys: NodeKeys,
    /// The server that keeps the channel state, if the node's folder does not.
    pub vss: Option<Vss>,
}

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

/// The newest backup of this node in a folder, by the time in its name.
pub fn newest(folder: &Path, keys: &NodeKeys) -> Option<PathBuf> {
    let node_id = keys.payment_keys().node_id().to_string();
    let kept = folder::of(folder, &node_id).ok()?;
    kept.into_iter().next().map(|newest| newest.path)
}

/// Adds the operation and the path to an I/O error.
fn io_at<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BackupError + use<'a> {
    move |source| BackupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}
