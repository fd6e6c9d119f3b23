//! Restoring a backup to a new data folder. The folder appears complete or not at all.

use std::io;
use std::path::{Path, PathBuf};

use bitcoin::Network;

use crate::channel_state::copy;
use crate::channel_state::database::MADE;
use crate::keys::NodeKeys;

use super::config::{ACCESS_LIST, Config};
use super::create::{Staging, make_new, make_private, sync_folder};
use super::error::{BackupError, io_at};
use super::folder;
use super::made::Made;
use super::manifest::{Manifest, NODE};
use super::name::name_of;
use super::newer::must_be_newest;
use super::open::Opened;
use super::verify::is_of;

/// The state that the restored folder begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The folder begins with a recovery. The node signs nothing for the old channels, their peers
    /// close them, and the node sweeps its own money.
    Fenced,
    /// The node continues with the old channels. The operator must guarantee that the program was
    /// not started again after the backup.
    Newest,
}

/// The result of a restore.
#[derive(Debug)]
pub struct Restored {
    /// The manifest of the backup.
    pub manifest: Manifest,
    /// Why a newer backup may exist, if the restore was allowed anyway.
    pub doubt: Option<BackupError>,
}

/// The file name of the channel state until it is fenced or, with `Newest`, refreshed. No program
/// uses a file of this name as its state.
const UNFENCED: &str = "unfenced.sqlite";

/// Restores a backup to this folder, which must be empty or missing. The settings, if given, name
/// the other places where a newer backup could be.
pub async fn restore(
    file: &Path,
    keys: &NodeKeys,
    network: Option<Network>,
    config: Option<&Config>,
    data_dir: &Path,
    how: How,
) -> Result<Restored, BackupError> {
    let opened = Opened::open(file, keys)?;
    is_of(file, &opened.manifest, network)?;
    let is_elsewhere = opened.manifest.channels_on.is_some();
    if how == How::Newest && !opened.manifest.is_clean_stop && !is_elsewhere {
        return Err(BackupError::NotNewest(file.to_owned()));
    }
    is_free(data_dir)?;
    let doubt = must_be_newest(file, keys, config).await.err();
    // A server that keeps the channel state always has the newest one, so a newer backup does not
    // forbid the restore.
    let doubt = match doubt {
        Some(doubt) if how == How::Newest && !is_elsewhere => return Err(doubt),
        doubt => doubt,
    };
    let staging = Staging::begin(&beside(data_dir))?;
    let manifest = if is_elsewhere {
        opened.unpack(&staging.0, keys, |name| Some(name.into()))?
    } else {
        unpack_fenced(opened, keys, &staging.0, how)?
    };
    if how == How::Fenced {
        forget_access(&staging.0)?;
    }
    // The restored folder now owns this backup and may delete it when there are enough newer ones.
    if folder::is_name(&name_of(file), &manifest.node_id) {
        Made::note(&staging.0, &name_of(file))?;
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
    Ok(Restored { manifest, doubt })
}

/// Unpacks the backup so that the program can be killed at any moment: no folder exists from which
/// a node would start with old channels. The channel state has another name until it is fenced, and
/// a mark says meanwhile that the state is missing.
fn unpack_fenced(
    opened: Opened,
    keys: &NodeKeys,
    into: &Path,
    how: How,
) -> Result<Manifest, BackupError> {
    let folder = into.join(NODE);
    make_new(&folder)?;
    let mark = folder.join(MADE);
    std::fs::write(&mark, "").map_err(io_at("make", &mark))?;
    let state_file = folder.join(UNFENCED);
    let manifest = opened.unpack(into, keys, |name| {
        let name = Path::new(name);
        let is_state = name == Path::new(NODE).join(copy::FILE);
        Some(if is_state {
            Path::new(NODE).join(UNFENCED)
        } else {
            name.to_owned()
        })
    })?;
    // Read the state first, so that an unreadable state is never put in place.
    copy::read(&state_file, keys)?;
    match how {
        How::Fenced => copy::fence(&state_file, manifest.created_secs)?,
        How::Newest => copy::refresh(&state_file)?,
    }
    let named = folder.join(copy::FILE);
    std::fs::rename(&state_file, &named).map_err(io_at("name", &named))?;
    std::fs::remove_file(&mark).map_err(io_at("remove", &mark))?;
    sync_folder(&folder)?;
    Ok(manifest)
}

/// Ends every access token, because the backup does not know which tokens were revoked after it.
fn forget_access(folder: &Path) -> Result<(), BackupError> {
    let list = folder.join(ACCESS_LIST);
    match std::fs::remove_file(&list) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at("remove", &list)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A folder beside the data folder, on the same file system, so that a rename suffices.
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
