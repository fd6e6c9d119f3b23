//! A folder for what is looked at and then thrown away: nobody else's, and gone however the command ends, but for a kill, after which
//! the next one clears it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// With which the names begin.
const PREFIX: &str = "tollhouse-scratch-";

/// What is drawn for each name, so that nobody else can be there before.
const NAME_BYTES: usize = 16;

/// How often a folder is cleared in which somebody still writes: with the folder itself that ends.
const CLEARINGS_MAX: usize = 100;

/// Does this with a new folder in `place`, on a thread of its own. Told to end meanwhile (SIGINT, SIGTERM or SIGHUP) it is given up, and
/// the folder is cleared.
pub(super) fn with<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        // Before there is anything to clear.
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

/// The folder.
struct Scratch {
    path: PathBuf,
    /// Locked for as long as the folder is in use.
    _folder: File,
}

impl Scratch {
    fn new(place: &Path) -> Result<Self> {
        let mut drawn = [0; NAME_BYTES];
        getrandom::fill(&mut drawn).context("failed to draw a name")?;
        let path = place.join(format!("{PREFIX}{}", hex::encode(drawn)));
        // Not recursive: a folder that is there is not ours.
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

/// Removes the folders of those that were killed. What cannot be looked at, or is somebody else's, stays.
fn clear_left_over(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else {
        return;
    };
    let user = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let is_named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Of the name itself: a link to a folder is none.
        let is_own = || {
            let there = entry.metadata();
            there.is_ok_and(|there| there.is_dir() && there.uid() == user)
        };
        if is_named && is_own() {
            let path = entry.path();
            let is_in_use = File::open(&path).is_ok_and(|folder| folder.try_lock().is_err());
            if !is_in_use {
                // What stays is cleared by the next one.
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
