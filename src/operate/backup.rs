//! Backups: everything that must not be lost in one encrypted file, taken while the program runs; looked through; restored.
//!
//! The node's words alone open it. Channel state gets old with the next payment, and an old one must never be used: a
//! restored folder begins with a recovery, in which nothing is signed for the old channels (`node/recovery.rs`).

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

/// The mark of a program that has ended in good order, in the data folder.
pub const CLEAN_STOP: &str = "clean-stop";

/// Which access tokens are good. An old one knows tokens that were revoked since, so that it is not restored.
pub const ACCESS_LIST: &str = "access.made";

/// What is known of backups that were looked through, in the data folder; of no use elsewhere.
const CHECKS: &str = "backup.checks";

/// Where and when backups are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder that they are written to.
    pub folder: PathBuf,
    /// How old the newest may get.
    pub every: Duration,
    /// How many are kept, besides one of each of the last days.
    pub keep: usize,
    /// Where they are sent to besides.
    pub s3: Option<S3>,
}

/// What a backup is made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// The data folder.
    pub data_dir: PathBuf,
    /// The settings file.
    pub settings: PathBuf,
    /// The node's part of the data folder.
    pub node_folder: PathBuf,
    /// The ledger's.
    pub ledger: ledger::Config,
    /// The network.
    pub network: Network,
    /// The keys of the node, and of the backup.
    pub keys: NodeKeys,
    /// The server that keeps the channels' state, if it is not in the node's folder.
    pub vss: Option<Vss>,
}

/// Why there is no backup, or why it cannot be used; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The settings name a server for the channels' state, and it is not there.
    #[error(
        "the settings name a server for the channels' state (node.vss), and that of the node in {path} is not kept there: take \
         [node.vss] out of the settings, or start the program once if it is a new node", path = .0.display()
    )]
    NotOnServer(PathBuf),
    /// The operating system.
    #[error("failed to {what} {path}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The channel state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The words.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// Its channel state is of no use to anybody.
    #[error(
        "the node recovers from a backup: keep that one, the next is made when the recovery is over"
    )]
    Recovering,
    /// It is in the folder only.
    #[error("failed to send the backup to the store (backup.s3): {0}")]
    NotSent(String),
    /// Something else.
    #[error("{0} is no backup of tollhouse")]
    NoBackup(PathBuf),
    /// Written by a newer program.
    #[error("{path} has format {found}, this program knows formats up to {known}: use the newer program", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The words are not those that it was made with.
    #[error(
        "the words do not open {0}: they are those of another node, or the file's first bytes were changed. Nothing was written"
    )]
    OtherWords(PathBuf),
    /// It is not what was written.
    #[error("{path} is damaged ({why}): nothing of it is used. Take another backup, or another copy of this one", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Its chain is not the one of the settings.
    #[error("{path} is a backup of a node on {found}, and the settings say {wanted}: set node.network, or take another file", path = .path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The backup's network.
        found: String,
        /// The settings' network.
        wanted: Network,
    },
    /// There is something already.
    #[error(
        "{0} is not empty: restore to a new folder, and put it in the old one's place when that is moved away"
    )]
    NotEmpty(PathBuf),
    /// Nobody can be sure of that.
    #[error(
        "{0} was made while the program ran, so it cannot be its newest state: restore it without that assurance, and the node has its \
         old channels closed and swept"
    )]
    NotNewest(PathBuf),
    /// There is a newer one.
    #[error(
        "{path} is not the newest backup of this node: there is {newest} in {place}. Fetch that one, and restore it instead",
        path = .path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// The name of the newer one.
        newest: String,
        /// Where it is.
        place: String,
    },
    /// Nobody knows whether there is a newer one.
    #[error(
        "whether there is a newer backup in the store at {place} is not known ({why}): mend that, or leave --config away if you have looked \
         there yourself"
    )]
    NotAsked {
        /// The store.
        place: String,
        /// Why it gave no answer.
        why: String,
    },
}

/// The newest backup of this node in a folder, by its name.
pub fn newest(folder: &Path, keys: &NodeKeys) -> Option<PathBuf> {
    let node_id = keys.payment_keys().node_id().to_string();
    let kept = folder::of(folder, &node_id).ok()?;
    kept.into_iter().next().map(|newest| newest.path)
}

/// Names what was tried on which file.
fn io_at<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BackupError + use<'a> {
    move |source| BackupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}
