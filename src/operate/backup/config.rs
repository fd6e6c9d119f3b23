//! The settings of backups, the files they are made from, and the names of marks in the data folder.

use std::path::PathBuf;
use std::time::Duration;

use bitcoin::Network;

use crate::account::ledger;
use crate::channel_state::vss::Vss;
use crate::keys::NodeKeys;

use super::remote::S3;

/// The file in the data folder that marks a clean shutdown.
pub const CLEAN_STOP: &str = "clean-stop";

/// The list of valid access tokens. A backup may list tokens that were revoked later, so a restore
/// that begins with a recovery deletes the list.
pub const ACCESS_LIST: &str = "access.made";

/// The results of verified backups, in the data folder. They are of no use in another folder.
pub(super) const CHECKS: &str = "backup.checks";

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
