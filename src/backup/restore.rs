//! Restoring a backup to a new data folder, which is there whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use bitcoin::Network;

use crate::node::NodeKeys;
use crate::node::state;

use super::create::{Staging, make_private, sync_folder};
use super::manifest::{Manifest, NODE};
use super::open::Opened;
use super::verify::is_of;
use super::{ACCESS_LIST, BackupError, io_at};

/// What the restored folder begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A recovery: nothing is signed for the old channels, their peers close them, and what is ours is swept.
    Fenced,
    /// Selling, over the old channels. Only if the operator vouches that the program was not started again after the backup.
    Newest,
}

/// Restores a backup to this folder, which must be empty or not there.
pub fn restore(
    file: &Path,
    keys: &NodeKeys,
    network: Option<Network>,
    data_dir: &Path,
    how: How,
) -> Result<Manifest, BackupError> {
    let opened = Opened::open(file, keys)?;
    is_of(file, &opened.manifest, network)?;
    let is_elsewhere = opened.manifest.channels_on.is_some();
    if how == How::Newest && !opened.manifest.is_clean_stop && !is_elsewhere {
        return Err(BackupError::NotNewest(file.to_owned()));
    }
    is_free(data_dir)?;
    let staging = Staging::begin(&beside(data_dir))?;
    let manifest = opened.unpack(&staging.0, keys)?;
    let state_file = staging.0.join(NODE).join(state::FILE);
    if !is_elsewhere {
        // Read first: a state that cannot be read is not put in anybody's way.
        state::read(&state_file, keys)?;
    }
    match how {
        How::Fenced => {
            if !is_elsewhere {
                state::fence(&state_file, manifest.created_secs)?;
            }
            forget_access(&staging.0)?;
        }
        How::Newest if is_elsewhere => {}
        How::Newest => state::refresh(&state_file)?,
    }
    match std::fs::remove_dir(data_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_at("replace", data_dir)(error));
        }
        Ok(()) | Err(_) => {}
    }
    std::fs::rename(&staging.0, data_dir).map_err(io_at("name", data_dir))?;
    if let Some(parent) = data_dir.parent().filter(|parent| parent.is_dir()) {
        sync_folder(parent)?;
    }
    Ok(manifest)
}

/// Has every access token end: which were revoked after the backup, it does not know.
fn forget_access(folder: &Path) -> Result<(), BackupError> {
    let list = folder.join(ACCESS_LIST);
    match std::fs::remove_file(&list) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at("remove", &list)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// On the same file system, so that it can be renamed.
fn beside(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".restoring");
    name.into()
}

fn is_free(data_dir: &Path) -> Result<(), BackupError> {
    if let Some(parent) = data_dir
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        make_private(parent)?;
    }
    match std::fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_at("look into", data_dir)(error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(BackupError::NotEmpty(data_dir.to_owned())),
        },
    }
}
