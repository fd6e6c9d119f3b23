//! The check for a newer backup of the same node in the known folders and the store.

use std::path::Path;

use crate::base::error_chain;
use crate::keys::NodeKeys;

use super::config::Config;
use super::error::{BackupError, io_at};
use super::folder;
use super::name::name_of;
use super::open::Opened;
use super::remote::Remote;

/// Fails if a newer backup is in the file's own folder, or in the folder or store of the settings.
pub(super) async fn must_be_newest(
    file: &Path,
    keys: &NodeKeys,
    config: Option<&Config>,
) -> Result<(), BackupError> {
    let node_id = keys.payment_keys().node_id().to_string();
    let made_secs = match folder::named_secs(&name_of(file), &node_id) {
        Some(named_secs) => named_secs,
        // The file was renamed, so its name does not contain the time.
        None => Opened::open(file, keys)?.manifest.created_secs,
    };
    let older_than = |name: String, place: String| {
        let is_newer = folder::named_secs(&name, &node_id).is_some_and(|secs| secs > made_secs);
        is_newer.then(|| BackupError::Older {
            path: file.to_owned(),
            newest: name,
            place,
        })
    };
    let beside = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let configured = config.map(|config| config.folder.as_path());
    for folder in configured.into_iter().chain([beside]) {
        let kept = folder::of(folder, &node_id).map_err(io_at("look into", folder))?;
        let newest = kept.first().map(|newest| name_of(&newest.path));
        if let Some(older) = newest.and_then(|name| older_than(name, folder.display().to_string()))
        {
            return Err(older);
        }
    }
    let Some(remote) = config.and_then(|config| config.s3.as_ref().and_then(Remote::new)) else {
        return Ok(());
    };
    let newest = remote.newest(&node_id).await;
    let newest = newest.map_err(|error| BackupError::NotAsked {
        place: remote.place(),
        why: error_chain::chain(&error),
    })?;
    match newest.and_then(|name| older_than(name, remote.place())) {
        Some(older) => Err(older),
        None => Ok(()),
    }
}
