//! The mark that a folder has had a node. It is stored beside the folder, so that it is not lost
//! together with the folder.

use std::path::{Path, PathBuf};

use crate::base::secret_file;
use crate::channel_state::database;
use crate::channel_state::vss::MARK;

use super::error::NodeError;

/// The text of the mark, for a person who finds it.
const SAYS: &str = "A node was made in the folder of this name. While this file is here, no other one is begun in its place.";

/// The mark of the node in this folder: `node.made` beside `node`.
pub fn mark(folder: &Path) -> PathBuf {
    folder.with_extension("made")
}

/// Whether this folder holds a node's state, or the name of the server that keeps the state.
pub fn is_there(folder: &Path) -> bool {
    database::is_any(folder) || folder.join(MARK).exists()
}

/// Records that this folder has a node. The mark is on the disk before the node has any channel.
pub(super) fn note(folder: &Path) -> Result<(), NodeError> {
    let mark = mark(folder);
    if mark.exists() {
        return Ok(());
    }
    secret_file::replace(&mark, SAYS).map_err(NodeError::Folder)
}
