//! Missing parts of the data folder. A lost node stops the start, so that a new node never replaces
//! one that had channels. A lost ledger is logged, and a new one begins.

use std::path::Path;

use crate::account::ledger::Ledger;
use crate::config::Config;
use crate::keys::NodeKeys;
use crate::node::made;
use crate::operate::backup;

use super::error::AppError;

/// Fails if the mark beside the node's folder says that a node existed, but the node is gone. This
/// check runs before anything is opened.
pub(crate) fn node_must_be_there(folder: &Path) -> Result<(), AppError> {
    let mark = made::mark(folder);
    if mark.exists() && !made::is_there(folder) {
        return Err(lost(folder, format!("{} says so", mark.display())));
    }
    Ok(())
}

/// Fails if the node is gone, but the ledger has an open channel or the data folder holds a backup
/// of the node. Backups outside the data folder do not stop the start: an operator who has only the
/// seed words starts a new node beside them.
pub(crate) fn node_must_fit(
    config: &Config,
    keys: &NodeKeys,
    ledger: &Ledger,
) -> Result<(), AppError> {
    let folder = &config.node.folder;
    if made::is_there(folder) {
        return Ok(());
    }
    let backups = Some(&config.backup.folder).filter(|it| it.starts_with(&config.data_dir));
    if let Some(backup) = backups.and_then(|folder| backup::newest(folder, keys)) {
        return Err(lost(
            folder,
            format!("{} is a backup of it", backup.display()),
        ));
    }
    if ledger.has_open_channel()? {
        return Err(lost(
            folder,
            "the books know a channel that is not closed".to_owned(),
        ));
    }
    Ok(())
}

fn lost(folder: &Path, shown_by: String) -> AppError {
    AppError::NodeLost {
        folder: folder.to_owned(),
        shown_by,
    }
}

/// Logs what the loss of the ledger means, if it is gone but the node that received its sales is
/// there. The start continues with a new ledger, because sold tokens are valid without it.
pub(crate) fn tell_of_books(config: &Config) {
    if !made::is_there(&config.node.folder) || Ledger::is_there(&config.ledger) {
        return;
    }
    tracing::error!(
        "The books in {} are gone and begin anew: what was sold is forgotten, and tokens that were used up or revoked are good again. \
         If you have the folder, stop the program and put it back. Every backup holds it as it was: restore the newest one with \
         --data-dir to another folder, and take `ledger` from there while the program is stopped (nothing else: its channels' state \
         is old). Otherwise, to have every token end that was sold until now, revoke each service: `tollhouse revoke --service NAME`",
        config.ledger.folder.display()
    );
}
