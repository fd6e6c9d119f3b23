//! The lock on the data folder. Two programs that use the same channels would lose money.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The lock, held while the program runs. The operating system releases it even if the program
/// crashes.
#[derive(Debug)]
pub struct DataLock {
    /// The locked file.
    _file: File,
}

/// The reason why the folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another program holds the lock.
    #[error("the data folder {0} is in use by another tollhouse: stop that one first")]
    Held(PathBuf),
    /// The lock file could not be created or locked.
    #[error("failed to lock the data folder {folder}")]
    Io {
        /// The data folder.
        folder: PathBuf,
        /// The error from the operating system.
        #[source]
        source: io::Error,
    },
}

/// How long to retry while another process only checks the lock. A check takes a few microseconds,
/// but a busy machine may pause that process in the middle.
const LOOKED_AT_MAX: Duration = Duration::from_secs(1);

impl DataLock {
    /// Locks the folder. Fails at once if another program has locked it.
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
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock)
                    if begun.elapsed() < LOOKED_AT_MAX && is_looked_at(&file) =>
                {
                    std::thread::yield_now();
                }
                Err(TryLockError::WouldBlock) => return Err(LockError::Held(folder.to_owned())),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        // The process id helps a person who looks for the holder; no program reads it.
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// Whether a program holds the lock now. Creates no file and does not keep others from locking
    /// the folder.
    pub fn is_held(folder: &Path) -> bool {
        let file = File::open(folder.join("lock"));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

/// Whether another process only checks the lock, and does not hold it.
fn is_looked_at(file: &File) -> bool {
    file.try_lock_shared().is_ok() && file.unlock().is_ok()
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

    #[test]
    fn who_only_looks_sees_whether_it_is_held_and_keeps_nobody_from_locking_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!DataLock::is_held(folder.path()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let lock = DataLock::acquire(folder.path()).unwrap();
        assert!(DataLock::is_held(folder.path()));
        drop(lock);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    DataLock::is_held(folder.path());
                }
            });
            for _ in 0..1_000 {
                DataLock::acquire(folder.path()).unwrap();
            }
        });
    }
}
