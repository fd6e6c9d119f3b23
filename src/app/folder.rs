//! The data folder: made at the first start, with the secret that is the program's own.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use crate::l402::MasterKey;
use crate::secret_file;

use super::AppError;

/// For the owner only: seed, keys and channel state are in it. A folder that is there already is not changed: it may be
/// somebody's home.
pub(super) fn make(path: &Path) -> Result<(), AppError> {
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

/// The macaroons' key: random bytes of its own, in a file of its own.
pub(super) fn master_key(path: &Path) -> Result<MasterKey, AppError> {
    let draw = || {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(hex::encode(secret))
    };
    let text = secret_file::read_or_make(path, draw)?;
    let mut secret = [0; 32];
    hex::decode_to_slice(text.trim(), &mut secret)
        .map_err(|_| AppError::MasterKey(path.to_owned()))?;
    Ok(MasterKey { epoch: 0, secret })
}
