//! Why the program ended, or never began.

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

/// Why the program ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder.
    #[error("failed to make the data folder {path}")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Others on this machine can look into it.
    #[error("the data folder {path} is open to others (mode {mode:03o}): run `chmod 700 {path}`", path = .path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no room for what it would write.
    #[error(
        "the disk of the data folder {path} is full ({left_mb} MB are left, and {wanted_mb} are wanted): make room, then start \
         again. Nothing was opened",
        path = .path.display()
    )]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// What is left, MB.
        left_mb: u64,
        /// What a start wants, MB.
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
    /// A secret is gone, and what was made with it is there.
    #[error(
        "{secret} is missing, and {made} was made with it: put it back from a backup (a new one would make what was sold, or \
         the channels, worthless), or move {made} away to begin anew",
        secret = .secret.display(),
        made = .made.display()
    )]
    Lost {
        /// The secret's file.
        secret: PathBuf,
        /// What was made with it.
        made: PathBuf,
    },
    /// There was a node, and its folder is gone.
    #[error(
        "the node's folder {folder} is gone or empty, and there was a node ({shown_by}): a new one in its place would forget its \
         channels, and what is in them. Put the folder back as it was, or restore the newest backup; the words of the seed alone \
         bring back the money on chain, not channels. To begin anew all the same, name another data_dir, or move this one away, with its \
         books and backups",
        folder = .folder.display()
    )]
    NodeLost {
        /// Where it was.
        folder: PathBuf,
        /// How that is known.
        shown_by: String,
    },
    /// They do not hold.
    #[error(transparent)]
    Settings(#[from] Complaints),
    /// They speak of the public listener, which another program has of its own.
    #[error(
        "{0}: only `tollhouse run` does that, and this program serves the public itself: take it out"
    )]
    OnlyRun(&'static str),
    /// A guard of this program could not sell by them.
    #[error("what this program guards could not be sold")]
    Guard(#[from] GuardError),
    /// A bug.
    #[error("a part of the program panicked")]
    Panicked(#[from] tokio::task::JoinError),
    /// Another program has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// What access tokens have spent.
    #[error(transparent)]
    Spending(#[from] SpendingError),
    /// The keys of the tokens.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The seed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The account.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A listener.
    #[error("failed to listen on {address} ({key} in the settings)")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The settings' key.
        key: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The node.
    #[error(transparent)]
    Node(#[from] NodeError),
}
