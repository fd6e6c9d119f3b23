//! The data folder: creates it at the first start, and checks and locks it at each start.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use crate::account::store::DataLock;
use crate::base::{disk_space, secret_file};
use crate::config::Config;
use crate::operate::backup::CLEAN_STOP;

use super::error::AppError;
use super::missing_files;

/// Creates the data folder for its owner only, because it holds the seed, the keys and the channel
/// state. An existing folder without a seed is not changed, because it may be a home directory.
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
    let metadata = path.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if path.join("seed.words").exists() && secret_file::is_given_to_a_group(&metadata) {
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        tracing::warn!(
            "The data folder {} had group access (mode {mode:03o}): removed the group's access",
            path.display()
        );
    } else if mode & 0o077 != 0 {
        return Err(AppError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Locks the data folder for this program before anything in it is opened.
pub(super) fn take(config: &Config) -> Result<DataLock, AppError> {
    let data_dir = &config.data_dir;
    make(data_dir)?;
    let lock = DataLock::acquire(data_dir)?;
    must_have_room(data_dir)?;
    missing_files::node_must_be_there(&config.node.folder)?;
    missing_files::tell_of_books(config);
    // From here on, the newest backup may be older than the data.
    forget_clean_stop(data_dir)?;
    Ok(lock)
}

/// Checks that the disk has enough free space and free inodes for a start.
fn must_have_room(path: &Path) -> Result<(), AppError> {
    if let Some(left) = disk_space::files_left(path).filter(|left| *left < disk_space::START_FILES)
    {
        return Err(AppError::NoFiles {
            path: path.to_owned(),
            left,
            wanted: disk_space::START_FILES,
        });
    }
    let left = disk_space::left(path).unwrap_or(u64::MAX);
    if left >= disk_space::START_BYTES {
        return Ok(());
    }
    Err(AppError::DiskFull {
        path: path.to_owned(),
        left_mb: left / 1_000_000,
        wanted_mb: disk_space::START_BYTES / 1_000_000,
    })
}

/// Refuses to replace a lost secret: a new one would not fit the data made with the old one.
pub(super) fn must_not_be_lost(secret: &Path, made: &Path) -> Result<(), AppError> {
    if made.exists() && !secret.exists() {
        return Err(AppError::Lost {
            secret: secret.to_owned(),
            made: made.to_owned(),
        });
    }
    Ok(())
}

/// Notes that everything was written and closed, so a backup made now holds the newest state.
pub(super) fn note_clean_stop(data_dir: &Path) {
    let path = data_dir.join(CLEAN_STOP);
    let noted = File::create(&path).and_then(|file| file.sync_all());
    if let Err(error) = noted {
        // Without the note, a backup is restored with a recovery, which is always safe.
        tracing::warn!("Failed to note the good end in {}: {error}", path.display());
    }
}

/// Removes the note of a clean stop before anything changes.
fn forget_clean_stop(data_dir: &Path) -> Result<(), AppError> {
    let forget = || {
        match std::fs::remove_file(data_dir.join(CLEAN_STOP)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        File::open(data_dir)?.sync_all()
    };
    forget().map_err(|source| AppError::DataDir {
        path: data_dir.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_access_to_the_data_folder_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        make(&path).unwrap();
        let mode = || path.metadata().unwrap().permissions().mode() & 0o7777;
        let with_mode = |mode: u32| std::fs::set_permissions(&path, Permissions::from_mode(mode));
        assert_eq!(mode(), 0o700);
        // Without a seed, the folder may be a home directory.
        with_mode(0o750).unwrap();
        make(&path).unwrap_err();
        std::fs::write(path.join("seed.words"), "").unwrap();
        for opened in [0o750, 0o770, 0o2770] {
            with_mode(opened).unwrap();
            make(&path).unwrap();
            assert_eq!(mode() & 0o777, 0o700);
        }
        with_mode(0o755).unwrap();
        make(&path).unwrap_err();
    }
}
