//! The lock on the data folder: two programs on one set of channels would lose money.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Held as long as the program runs; the operating system lets go of it however the program ends.
#[derive(Debug)]
pub struct DataLock {
    /// The locked file.
    _file: File,
}

/// Why the folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another program holds it.
    #[error("the data folder {0} is in use by another tollhouse: stop that one first")]
    Held(PathBuf),
    /// The lock's file cannot be made or locked.
    #[error("failed to lock the data folder {folder}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl DataLock {
    /// Locks the folder, or says at once that somebody else has it.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            folder: folder.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // For the person who looks who holds it; nothing reads it.
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let lock = DataLock::acquire(folder.path()).unwrap();
        assert!(matches!(
            DataLock::acquire(folder.path()),
            Err(LockError::Held(_))
        ));
        drop(lock);
        assert!(DataLock::acquire(folder.path()).is_ok());
    }
}
