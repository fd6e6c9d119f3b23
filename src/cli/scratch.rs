//! A private folder for temporary files. The folder is deleted however the command ends. Only a
//! killed command leaves its folder behind, and the next command deletes it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// The prefix of the folders' names.
const PREFIX: &str = "tollhouse-scratch-";

/// The number of random bytes in a name. They keep other users from creating the folder first.
const NAME_BYTES: usize = 16;

/// The maximum number of attempts to delete a folder in which the worker thread still writes. Its
/// writes fail once the folder itself is deleted.
const CLEARINGS_MAX: usize = 100;

/// Runs `work` with a new folder in `place`, on a separate thread. On SIGINT, SIGTERM or SIGHUP the
/// work is abandoned and the folder is deleted.
pub(super) fn with<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        // Catch signals before anything has to be deleted.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        clear_left_over(place);
        let scratch = Scratch::new(place)?;
        let folder = scratch.path.clone();
        tokio::select! {
            done = tokio::task::spawn_blocking(move || work(&folder)) => done?,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
            _ = hang_up.recv() => bail!("the terminal was closed"),
        }
    });
    // The thread ends with the program.
    runtime.shutdown_background();
    done
}

/// The private folder.
struct Scratch {
    path: PathBuf,
    /// The folder's handle, locked while the folder is in use.
    _folder: File,
}

impl Scratch {
    fn new(place: &Path) -> Result<Self> {
        let mut drawn = [0; NAME_BYTES];
        getrandom::fill(&mut drawn).context("failed to draw a name")?;
        let path = place.join(format!("{PREFIX}{}", hex::encode(drawn)));
        // Not recursive, so that an existing folder is an error.
        let made = DirBuilder::new().mode(0o700).create(&path);
        let locked = made.and_then(|()| {
            let folder = File::open(&path)?;
            folder.try_lock()?;
            Ok(folder)
        });
        let folder = locked.with_context(|| format!("failed to make {}", path.display()))?;
        Ok(Self {
            path,
            _folder: folder,
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for _ in 0..CLEARINGS_MAX {
            match std::fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                Ok(()) | Err(_) => return,
            }
        }
    }
}

/// Deletes the folders of killed commands. Folders that are unreadable or belong to another user
/// stay.
fn clear_left_over(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else {
        return;
    };
    let user = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let is_named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // The metadata is that of the entry itself, so a link to a folder does not count.
        let is_own = || {
            let there = entry.metadata();
            there.is_ok_and(|there| there.is_dir() && there.uid() == user)
        };
        if is_named && is_own() {
            let path = entry.path();
            let is_in_use = File::open(&path).is_ok_and(|folder| folder.try_lock().is_err());
            if !is_in_use {
                // If this fails, the next command deletes the folder.
                let _ = std::fs::remove_dir_all(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_one_left_is_cleared_and_what_another_one_uses_is_not() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let killed = place.path().join(format!("{PREFIX}killed"));
        std::fs::create_dir_all(killed.join("node")).unwrap();
        std::fs::write(killed.join("node/state"), "secret").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = place.path().join(format!("{PREFIX}link"));
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        std::fs::create_dir(place.path().join("backups")).unwrap();
        let other = Scratch::new(place.path()).unwrap();
        std::fs::write(other.path.join("part"), "secret").unwrap();
        let mode = other.path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);

        clear_left_over(place.path());
        assert!(!killed.exists());
        assert!(other.path.join("part").exists(), "it is in use");
        assert!(link.exists() && elsewhere.path().exists());
        assert!(place.path().join("backups").exists());
        let path = other.path.clone();
        drop(other);
        assert!(!path.exists());
    }
}
