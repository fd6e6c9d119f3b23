//! Reads and writes secret files. Files that this program makes have mode 0600 and are replaced as
//! a whole. Files from the operator may be readable by more users, but only root and the user of
//! this program may change them.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Only the owner may read and write.
const MODE: u32 = 0o600;

/// The longest secret, in bytes. The largest files are the lists of access tokens and of their
/// spending, with thousands of lines.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The reasons why a secret could not be read or created.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Other users of this machine can read the file, or change it.
    #[error("{path} can be read by others (mode {mode:03o}): run `chmod 600 {path}`", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user could replace the secret.
    #[error("user {owner} owns {path} and can change it: root or the user that runs Tollhouse must own it, or it must have mode 600", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// The permission bits let others change the file.
    #[error("other users can change {path} (mode {mode:03o}): run `chmod 600 {path}`, or `chmod 440 {path}` for access by its group", path = .path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is empty or has only white space.
    #[error("{path} is empty", path = .0.display())]
    Empty(PathBuf),
    /// The file has more than one line, or control characters.
    #[error("{path} must contain one line of text, and it contains several lines or control characters: write only the secret into it", path = .0.display())]
    NotOneLine(PathBuf),
    /// The operating system returned an error.
    #[error("failed to read or make {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
}

impl SecretFileError {
    fn exposed(path: &Path, metadata: &Metadata) -> Self {
        Self::Exposed {
            path: path.to_owned(),
            mode: mode_of(metadata),
        }
    }
}

/// The files and folders that the settings name as secret. Code that serves files checks them
/// first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets(Vec<Secret>);

/// A secret file, or a folder whose whole content is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The settings key that names it.
    pub key: String,
    /// The path as the settings write it.
    pub path: PathBuf,
}

impl Secret {
    /// The path with all links resolved, or the future path of a file that does not exist yet.
    pub fn place(&self) -> PathBuf {
        let there = self.path.ancestors().find_map(|ancestor| {
            let rest = self.path.strip_prefix(ancestor).ok()?;
            let there = ancestor.canonicalize().ok()?;
            // Joining an empty path would add a slash to the path of a file.
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
    /// Adds a secret, unless it is already listed.
    pub fn add(&mut self, key: impl Into<String>, path: PathBuf) {
        let secret = Secret {
            key: key.into(),
            path,
        };
        if !self.0.contains(&secret) {
            self.0.push(secret);
        }
    }

    /// The secrets.
    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }

    /// Whether this file is a secret now, or lies in a secret folder, by any path or link. Compares
    /// device and inode numbers as they are at the call, so it also knows a secret that was just
    /// replaced. Each comparison takes less than a microsecond.
    pub fn hold(&self, path: &Path, file: &Metadata) -> bool {
        let name = |file: &Metadata| (file.dev(), file.ino());
        let name_of = |path: &Path| Some(name(&path.metadata().ok()?));
        let secret: Vec<_> = self.0.iter().filter_map(|it| name_of(&it.path)).collect();
        let mut folders = path.ancestors().skip(1);
        secret.contains(&name(file))
            || folders.any(|folder| name_of(folder).is_none_or(|name| secret.contains(&name)))
    }
}

/// Reads the secret in this file. If the file does not exist, creates it with the secret from
/// `draw`.
pub fn read_or_make(
    path: &Path,
    draw: impl FnOnce() -> io::Result<String>,
) -> Result<String, SecretFileError> {
    match read(path) {
        Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let failed = io_at(path);
    let secret = draw().map_err(failed)?;
    write_new(path, &secret).map_err(failed)?;
    Ok(secret)
}

/// Reads a secret that this program made and that must exist.
pub fn read(path: &Path) -> Result<String, SecretFileError> {
    let failed = io_at(path);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if is_given_to_a_group(&metadata) {
        file.set_permissions(Permissions::from_mode(MODE))
            .map_err(failed)?;
        tracing::warn!(
            "{} had group access (mode {:03o}): removed the group's access",
            path.display(),
            mode_of(&metadata)
        );
    } else if mode_of(&metadata) & 0o077 != 0 {
        return Err(SecretFileError::exposed(path, &metadata));
    }
    let secret = text(file).map_err(failed)?;
    if secret.trim().is_empty() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is empty: put it back from a backup, or remove it to have a new one made",
        )));
    }
    Ok(secret)
}

/// Whether a file or folder of this user has group access, but no access for all users. Kubernetes
/// sets this on all files of a volume (`fsGroup`).
pub fn is_given_to_a_group(metadata: &Metadata) -> bool {
    let mode = mode_of(metadata);
    metadata.uid() == process_user() && mode & 0o070 != 0 && mode & 0o007 == 0
}

/// Reads a secret from the operator, systemd, Kubernetes or Docker.
pub fn handed_over(path: &Path) -> Result<String, SecretFileError> {
    let failed = io_at(path);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    may_be_handed_over(path, &file, &metadata)?;
    filled(path, text(file).map_err(failed)?)
}

/// Reads a secret of one line from the operator and trims it.
pub fn handed_over_line(path: &Path) -> Result<String, SecretFileError> {
    one_line(path, &handed_over(path)?)
}

/// Reads a secret with any mode, because it is read once and kept elsewhere, or belongs to another
/// program.
pub fn of_another(path: &Path) -> Result<String, SecretFileError> {
    let failed = io_at(path);
    let text = text(File::open(path).map_err(failed)?).map_err(failed)?;
    filled(path, text)
}

/// Reads a secret of one line with any mode and trims it.
pub fn line_of_another(path: &Path) -> Result<String, SecretFileError> {
    one_line(path, &of_another(path)?)
}

/// Whether the file has no write permission or is on a read-only mount, like Docker's secrets. All
/// users may read such a file.
pub fn is_read_only(file: &File, metadata: &Metadata) -> bool {
    let is_mounted_so = || {
        let mount = rustix::fs::fstatvfs(file);
        mount.is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    mode_of(metadata) & 0o222 == 0 || is_mounted_so()
}

/// Refuses a file that other users can change, or that all users can read and the owner can change.
fn may_be_handed_over(
    path: &Path,
    file: &File,
    metadata: &Metadata,
) -> Result<(), SecretFileError> {
    let mode = mode_of(metadata);
    // Only root and the owner can read it, so the owner may be any user.
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if ![0, process_user()].contains(&metadata.uid()) {
        return Err(SecretFileError::Foreign {
            path: path.to_owned(),
            owner: metadata.uid(),
        });
    }
    if mode & 0o022 != 0 {
        return Err(SecretFileError::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    if mode & 0o007 != 0 && !is_read_only(file, metadata) {
        return Err(SecretFileError::exposed(path, metadata));
    }
    Ok(())
}

/// The effective user of this process.
fn process_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn mode_of(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o777
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> SecretFileError + Copy {
    move |source| SecretFileError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The text of a file, without a byte order mark and with Unix line ends.
fn text(file: File) -> io::Result<String> {
    let mut text = io::read_to_string(file.take(BYTES_MAX + 1))?;
    if text.len() as u64 > BYTES_MAX {
        let what = format!("it is longer than {BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    if text.starts_with('\u{feff}') || text.contains('\r') {
        text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    }
    Ok(text)
}

fn filled(path: &Path, text: String) -> Result<String, SecretFileError> {
    if text.trim().is_empty() {
        return Err(SecretFileError::Empty(path.to_owned()));
    }
    Ok(text)
}

fn one_line(path: &Path, text: &str) -> Result<String, SecretFileError> {
    let line = text.trim();
    if line.contains(char::is_control) {
        return Err(SecretFileError::NotOneLine(path.to_owned()));
    }
    Ok(line.to_owned())
}

/// Writes a secret to a file that must not exist yet. The file gets its name when its content is on
/// the disk, so a crash may leave a file of another name but never half a secret.
pub fn write_new(path: &Path, secret: &str) -> io::Result<()> {
    let new = write_beside(path, secret)?;
    // Unlike a rename, a link fails if the file already exists.
    std::fs::hard_link(&new, path)?;
    std::fs::remove_file(&new)?;
    sync_folder_of(path)
}

/// Replaces the content of a secret file, as a whole or not at all.
pub fn replace(path: &Path, secret: &str) -> io::Result<()> {
    std::fs::rename(write_beside(path, secret)?, path)?;
    sync_folder_of(path)
}

/// Reads a list that an earlier run wrote with [`replace`]. A missing file is an empty list.
pub fn read_list(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// Reads a list that an earlier run wrote. A list that cannot be read is logged and counts as
/// empty.
pub fn read_list_or_warn(path: &Path) -> String {
    read_list(path).unwrap_or_else(|error| {
        tracing::warn!("Failed to read {}: {error}", path.display());
        String::new()
    })
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Writes a secret to a new file beside this path, and waits until it is on the disk.
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

    fn with_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn our_own_secrets_stay_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path, "secret").unwrap();
        for mode in [0o644, 0o604, 0o666] {
            with_mode(&path, mode);
            let error = read_or_make(&path, || Ok(String::new())).unwrap_err();
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        // A volume that was mounted again with `fsGroup`.
        for mode in [0o640, 0o660] {
            with_mode(&path, mode);
            assert_eq!(read(&path).unwrap().trim(), "secret");
            assert_eq!(mode_of(&path.metadata().unwrap()), 0o600);
        }
    }

    #[test]
    fn a_handed_over_secret_must_not_be_changeable_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "secret\n").unwrap();
        // The modes of the operator's files, then of systemd, Kubernetes with a group, and Docker.
        for mode in [0o600, 0o400, 0o640, 0o440, 0o444] {
            with_mode(&path, mode);
            assert_eq!(handed_over_line(&path).unwrap(), "secret", "{mode:o}");
            assert_eq!(mode_of(&path.metadata().unwrap()), mode);
        }
        for (mode, advice) in [
            (0o644, "chmod 600"),
            (0o660, "other users can change"),
            (0o622, "other users can change"),
        ] {
            with_mode(&path, mode);
            let error = handed_over_line(&path).unwrap_err().to_string();
            assert!(error.contains(advice), "{mode:o}: {error}");
            assert!(error.contains("token"), "{error}");
        }
        if process_user() != 0 {
            return;
        }
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        with_mode(&path, 0o440);
        let error = handed_over(&path).unwrap_err().to_string();
        assert!(error.contains("user 65534 owns"), "{error}");
        with_mode(&path, 0o600);
        assert_eq!(handed_over_line(&path).unwrap(), "secret");
    }

    #[test]
    fn a_secret_is_one_line_with_any_line_end_or_byte_order_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        write_new(&path, "").unwrap();
        for written in [
            "secret",
            "secret\n",
            "\u{feff}secret\r\n",
            " secret \r\n\r\n",
            "\u{feff}secret",
        ] {
            std::fs::write(&path, written).unwrap();
            assert_eq!(handed_over_line(&path).unwrap(), "secret", "{written:?}");
        }
        std::fs::write(&path, "\u{feff}a: b\r\nc: d\r\n").unwrap();
        assert_eq!(handed_over(&path).unwrap(), "a: b\nc: d\n");
        for written in [
            "two\nlines",
            "two\r\nlines",
            "a\rb",
            "a\u{0}b",
            "\r\n",
            "\u{feff}",
        ] {
            std::fs::write(&path, written).unwrap();
            let error = handed_over_line(&path).unwrap_err().to_string();
            assert!(error.contains("token"), "{written:?}: {error}");
            assert!(!error.contains("two"), "{error}");
        }
        std::fs::write(&path, b"\xff\xfes\0e\0").unwrap();
        let error = handed_over_line(&path).unwrap_err().to_string();
        assert!(error.contains("token"), "{error}");
    }
}
