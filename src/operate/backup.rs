//! Backups: one encrypted file with everything that must not be lost. Backups are made while the
//! program runs, verified, and restored.
//!
//! Only the node's seed words decrypt a backup. Each payment makes an earlier channel state
//! obsolete, and an obsolete state must never be used. A restored folder therefore begins with a
//! recovery, in which the node signs nothing for the old channels (`node/recovery.rs`).

mod config;
mod create;
mod error;
mod folder;
mod keeper;
mod made;
mod manifest;
mod name;
mod newer;
mod open;
mod remote;
mod restore;
mod seal;
mod verify;

use std::path::{Path, PathBuf};

use crate::keys::NodeKeys;

pub use config::{ACCESS_LIST, CLEAN_STOP, Config, Source};
pub use create::Created;
pub use error::BackupError;
pub use keeper::{BackupStatus, Backups, RemoteStatus, at_rest};
pub use manifest::{Manifest, PartEntry};
pub use remote::S3;
pub use restore::{How, Restored, restore};
pub use verify::{Verified, room_wanted, verify};

/// The newest backup of this node in a folder, by the time in its name.
pub fn newest(folder: &Path, keys: &NodeKeys) -> Option<PathBuf> {
    let node_id = keys.payment_keys().node_id().to_string();
    let kept = folder::of(folder, &node_id).ok()?;
    kept.into_iter().next().map(|newest| newest.path)
}
