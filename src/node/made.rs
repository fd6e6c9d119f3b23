//! Whether there has been a node, as is told beside its folder: told in there it would be lost together with it.

use std::path::{Path, PathBuf};

use crate::base::secret_file;
use crate::channel_state::database;
use crate::channel_state::vss::MARK;

use super::NodeError;

/// What the mark says to whoever finds it.
const SAYS: &str = "A node was made in the folder of this name. While this file is here, no other one is begun in its place.";

/// The mark of the node in this folder: `node.made` beside `node`.
pub fn mark(folder: &Path) -> PathBuf {
    folder.with_extension("made")
}

/// Whether the state of a node is in this folder, or the word on which server it is.
pub fn is_there(folder: &Path) -> bool {
    database::is_any(folder) || folder.join(MARK).exists()
}

/// Notes that there is a node in this folder. On the disk before it has any channel.
pub(super) fn note(folder: &Path) -> Result<(), NodeError> {
    let mark = mark(folder);
    if mark.exists() {
        return Ok(());
    }
    secret_file::replace(&mark, SAYS).map_err(NodeError::Folder)
}
