//! The reasons why the program ended or failed to start.

use std::io;
use std::path::PathBuf;

use crate::account::ledger::LedgerError;
use crate::account::store::LockError;
use crate::base::secret_file::SecretFileError;
use crate::config::Complaints;
use crate::keys::SeedError;
use crate::node::NodeError;
use crate::operate::api::SpendingError;
use crate::sell::gate::KeyringError;
use crate::sell::http::TlsError;
use crate::sell::layer::GuardError;

/// A reason why the program ended or failed to start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder could not be created or changed.
    #[error("failed to make the data folder {path}")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Other users of this machine can access the data folder.
    #[error("the data folder {path} is open to others (mode {mode:03o}): run `chmod 700 {path}`", path = .path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The disk of the data folder has too little free space for a start.
    #[error(
        "the disk of the data folder {path} is full ({left_mb} MB are left, and {wanted_mb} are wanted): make room, then start \
         again. Nothing was opened",
        path = .path.display()
    )]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// The free space, MB.
        left_mb: u64,
        /// The free space that a start needs, MB.
        wanted_mb: u64,
    },
    /// The disk has free bytes but too few free inodes.
    #[error(
        "the disk of {path} has space for {left} more files (inodes), and a start needs {wanted}: delete files there, then start again",
        path = .path.display()
    )]
    NoFiles {
        /// The folder.
        path: PathBuf,
        /// Files that can still be created.
        left: u64,
        /// Files that a start needs.
        wanted: u64,
    },
    /// A secret file is missing, but data made with the secret exists.
    #[error(
        "{secret} is missing, and {made} was made with it: put it back from a backup (a new one would make what was sold, or \
         the channels, worthless), or move {made} away to begin anew",
        secret = .secret.display(),
        made = .made.display()
    )]
    Lost {
        /// The secret's file.
        secret: PathBuf,
        /// The data made with the secret.
        made: PathBuf,
    },
    /// The data folder had a node before, but the node's folder is gone or empty.
    #[error(
        "the node's folder {folder} is gone or empty, and there was a node ({shown_by}): a new one in its place would forget its \
         channels, and what is in them. Put the folder back as it was, or restore the newest backup; the words of the seed alone \
         bring back the money on chain, not channels. To begin anew all the same, name another data_dir, or move this one away, with its \
         books and backups",
        folder = .folder.display()
    )]
    NodeLost {
        /// The node's folder.
        folder: PathBuf,
        /// The evidence that there was a node.
        shown_by: String,
    },
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] Complaints),
    /// The settings contain a key of the public listener, but an embedding program serves the
    /// public.
    #[error(
        "{0}: only `tollhouse run` does that, and this program serves the public itself: take it out"
    )]
    OnlyRun(&'static str),
    /// The settings cannot sell what a guard of the embedding program offers.
    #[error("what this program guards could not be sold")]
    Guard(#[from] GuardError),
    /// A task panicked, which is a bug.
    #[error("a part of the program panicked")]
    Panicked(#[from] tokio::task::JoinError),
    /// Another program uses the data folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A secret file could not be read or written.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The file with the amounts spent by access tokens could not be opened.
    #[error(transparent)]
    Spending(#[from] SpendingError),
    /// The root keys of the tokens could not be opened.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The seed could not be opened.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The address of a listener could not be bound.
    #[error("failed to listen on {address} ({key} in the settings)")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The key of the address in the settings.
        key: &'static str,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A TLS certificate or its key could not be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The node failed.
    #[error(transparent)]
    Node(#[from] NodeError),
}
