//! The data folder: made at the first start.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::AppError;

/// For the owner only: seed, keys and channel state are in it. A folder that is there already is not changed: it may be
/// somebody's home.
pub(crate) fn make(path: &Path) -> Result<(), AppError> {
    let failed = |source| AppError::DataDir {
        path: path.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let mode = path.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(AppError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// A secret that was lost is not replaced without a word: a new one would not fit what was made with the old one.
pub(super) fn must_not_be_lost(secret: &Path, made: &Path) -> Result<(), AppError> {
    if made.exists() && !secret.exists() {
        return Err(AppError::Lost {
            secret: secret.to_owned(),
            made: made.to_owned(),
        });
    }
    Ok(())
}
