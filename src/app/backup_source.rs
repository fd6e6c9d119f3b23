//! The files, keys and settings from which backups are made.

use std::path::Path;

use crate::config::Config;
use crate::keys::NodeKeys;
use crate::operate::backup::Source;

/// The files, keys and settings from which backups are made.
pub(crate) fn source(config: &Config, file: &Path, keys: NodeKeys) -> Source {
    Source {
        data_dir: config.data_dir.clone(),
        settings: file.to_owned(),
        node_folder: config.node.folder.clone(),
        ledger: config.ledger.clone(),
        network: config.node.network,
        vss: config.node.vss.clone(),
        keys,
    }
}
