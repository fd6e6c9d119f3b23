//! Files that hold a secret: mode 0600, made on first start, whole or not at all, and never for sale.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
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

/// The files and folders that settings name as secret, wherever they are. Whoever serves files asks here first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets(Vec<Secret>);

/// A file, or a folder with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The key of the settings that names it.
    pub key: String,
    /// Where it is, as the settings say.
    pub path: PathBuf,
}

impl Secret {
    /// Where it is, with all links followed; of what is not there yet, where it will be.
    pub fn place(&self) -> PathBuf {
        let there = self.path.ancestors().find_map(|ancestor| {
            let rest = self.path.strip_prefix(ancestor).ok()?;
            let there = ancestor.canonicalize().ok()?;
            // Joined with nothing, the path of a file would end with a slash.
            Some(if rest.as_os_str().is_empty() {
                there
            } else {
                there.join(rest)
            })
        });
        there.unwrap_or_else(|| self.path.clone())
    }
}

impl Secrets {
    /// Adds one.
    pub fn add(&mut self, key: impl Into<String>, path: PathBuf) {
        let secret = Secret {
            key: key.into(),
            path,
        };
        if !self.0.contains(&secret) {
            self.0.push(secret);
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }

    /// Whether this file is one of them or in one of them now, by whatever path or link: told by what the file system calls them,
    /// so that one that was replaced a moment ago is known, too. A look at each costs less than a microsecond.
    pub fn hold(&self, path: &Path, file: &Metadata) -> bool {
        let name = |file: &Metadata| (file.dev(), file.ino());
        let name_of = |path: &Path| Some(name(&path.metadata().ok()?));
        let secret: Vec<_> = self.0.iter().filter_map(|it| name_of(&it.path)).collect();
        let mut folders = path.ancestors().skip(1);
        secret.contains(&name(file))
            || folders.any(|folder| name_of(folder).is_none_or(|name| secret.contains(&name)))
    }
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
    fn a_secret_is_known_by_whatever_path_and_after_it_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("kept/deep")).unwrap();
        for name in ["key", "page", "kept/deep/seed", "new"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink(at("key"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("kept"), at("linked")).unwrap();
        std::fs::hard_link(at("key"), at("hard")).unwrap();
        let mut secrets = Secrets::default();
        secrets.add("a.key", at("link"));
        secrets.add("a.folder", at("linked"));
        secrets.add("a.cookie", at("later"));
        let holds = |name: &str| {
            let path = at(name);
            secrets.hold(&path, &path.metadata().unwrap())
        };
        for name in [
            "key",
            "link",
            "hard",
            "kept/deep/seed",
            "linked/deep/seed",
            "kept/../key",
        ] {
            assert!(holds(name), "{name}");
        }
        assert!(!holds("page") && !holds("new"));
        std::fs::rename(at("new"), at("key")).unwrap();
        assert!(holds("key"));
        std::fs::write(at("later"), "cookie").unwrap();
        assert!(holds("later"));
        let places: Vec<_> = secrets.iter().map(Secret::place).collect();
        let real = folder.path().canonicalize().unwrap();
        assert_eq!(places, ["key", "kept", "later"].map(|name| real.join(name)));
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
