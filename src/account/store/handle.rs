//! The open store.

use std::fs::File;
use std::sync::Arc;

/// An open database.
#[derive(Clone)]
pub struct Store {
    /// sled's handle.
    pub(super) db: sled::Db,
    /// sled's database file, because sled's own flush does not fully sync it. The file stays open
    /// because sled's thread also syncs it and ignores failures. The kernel reports a failed sync
    /// once to each descriptor that was open then, and never to one that is opened later.
    pub(super) file: Arc<File>,
}
