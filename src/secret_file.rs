//! Files that hold a secret: mode 0600, made on first start, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The owner reads and writes; nobody else anything.
const MODE: u32 = 0o600;

/// Why a secret could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Others on this machine can read or change it.
    #[error("{path} can be read by others (mode {mode:03o}): run `chmod 600 {path}`", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The operating system refused.
    #[error("failed to read or make {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Reads the secret in this file; if there is no file, makes one out of what `draw` gives.
pub fn read_or_make(
    path: &Path,
    draw: impl FnOnce() -> io::Result<String>,
) -> Result<String, SecretFileError> {
    match read(path) {
        Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let failed = |source| SecretFileError::Io {
        path: path.to_owned(),
        source,
    };
    let secret = draw().map_err(failed)?;
    write_new(path, &secret).map_err(failed)?;
    Ok(secret)
}

/// Reads the secret in this file, which must be there.
pub fn read(path: &Path) -> Result<String, SecretFileError> {
    let failed = |source| SecretFileError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let secret = io::read_to_string(file).map_err(failed)?;
    if secret.trim().is_empty() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is empty: put it back from a backup, or remove it to have a new one made",
        )));
    }
    Ok(secret)
}

/// Writes a secret to a file that must not exist yet. Killed half-way it leaves a file of another name, never half a
/// secret: the name appears when the content is on the disk.
pub fn write_new(path: &Path, secret: &str) -> io::Result<()> {
    let new = write_beside(path, secret)?;
    // Unlike a rename, a link refuses to replace what is there.
    std::fs::hard_link(&new, path)?;
    std::fs::remove_file(&new)?;
    sync_folder_of(path)
}

/// Puts another secret into a file, whole or not at all.
pub fn replace(path: &Path, secret: &str) -> io::Result<()> {
    std::fs::rename(write_beside(path, secret)?, path)?;
    sync_folder_of(path)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Writes a secret to a file of another name, and waits until it is on the disk.
fn write_beside(path: &Path, secret: &str) -> io::Result<PathBuf> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&new)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_for_the_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(
            read_or_make(&path, || Ok("first".into())).unwrap().trim(),
            "first"
        );
        assert_eq!(
            read_or_make(&path, || Ok("second".into())).unwrap().trim(),
            "first"
        );
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_new(&path, "third").is_err());
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path, "secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_or_make(&path, || Ok(String::new())).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
