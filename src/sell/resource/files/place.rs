//! Resolves a path in a folder to a file, and decides which files are never served. All access to
//! files goes through this module.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use crate::base::secret_file::Secrets;

/// The file that is served for a folder.
const INDEX: &str = "index.html";

/// The only name with a leading dot that is served (RFC 8615), and only directly in the served
/// folder.
const WELL_KNOWN: &str = ".well-known";

/// A path below a served folder.
#[derive(Clone, Copy, Debug)]
pub(in crate::sell::resource) struct Place<'a> {
    /// The folder; its path is absolute and contains no links.
    pub(in crate::sell::resource) folder: &'a Path,
    /// The path below the folder, percent-encoded, beginning with a slash.
    pub(in crate::sell::resource) path: &'a str,
    /// Whether the client's path ends with a slash, and so means a folder.
    pub(in crate::sell::resource) has_slash: bool,
}

/// The result of resolving a place.
#[derive(Debug)]
pub(super) enum At {
    /// A file that may be served, opened for reading.
    File(PathBuf, File),
    /// A folder with an index that may be served.
    Folder,
    /// Nothing that may be served.
    Nothing,
}

/// Returns the file path of a place, before links are followed. Returns `None` if the name must not
/// be served.
pub(super) fn named(place: &Place<'_>) -> Option<PathBuf> {
    let path = place.path.strip_prefix('/').unwrap_or(place.path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let relative = percent_decode_str(path).decode_utf8().ok()?;
    if relative.is_empty() {
        return Some(wanted(place.folder.to_owned(), place.has_slash));
    }
    // A normalised path has neither encoded separators nor dot segments; this check is a second
    // safeguard.
    let is_plain = |(number, segment): (usize, &str)| {
        let is_visible = !segment.starts_with('.') || (number == 0 && segment == WELL_KNOWN);
        !segment.is_empty() && is_visible && !segment.contains(['\\', '\0'])
    };
    let is_served = relative.split('/').enumerate().all(is_plain);
    is_served.then(|| wanted(place.folder.join(relative.as_ref()), place.has_slash))
}

fn wanted(path: PathBuf, is_folder: bool) -> PathBuf {
    if is_folder { path.join(INDEX) } else { path }
}

/// Follows all links. Serves only regular files inside the folder that are neither hidden nor
/// secret.
pub(super) fn look(
    folder: &Path,
    named: &Path,
    has_slash: bool,
    secrets: &Secrets,
) -> io::Result<At> {
    let file = named.canonicalize()?;
    if file.is_dir() && !has_slash {
        return Ok(match look(folder, &named.join(INDEX), true, secrets)? {
            At::File(..) => At::Folder,
            At::Folder | At::Nothing => At::Nothing,
        });
    }
    let Ok(inside) = file.strip_prefix(folder) else {
        return Ok(At::Nothing);
    };
    // A link inside the folder may point at a hidden file in the folder.
    if is_hidden(inside) || !file.is_file() {
        return Ok(At::Nothing);
    }
    // Opened before anything is sold, so that an unreadable file is not sold.
    let opened = open(&file)?;
    let metadata = opened.metadata()?;
    // The opened file is checked, because that file is served.
    if !metadata.is_file() || secrets.hold(&file, &metadata) {
        return Ok(At::Nothing);
    }
    Ok(At::File(file, opened))
}

/// Opens a file without following a link that has just replaced it.
fn open(file: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(file)
}

fn is_hidden(inside: &Path) -> bool {
    let mut names = inside.iter().peekable();
    let is_well_known = names.next_if_eq(&OsStr::new(WELL_KNOWN)).is_some();
    let has_more = names.peek().is_some();
    let is_dotted = |name: &OsStr| name.as_encoded_bytes().starts_with(b".");
    (is_well_known && !has_more) || names.any(is_dotted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with one of each kind of file, next to a secret.
    fn everything(root: &Path) -> PathBuf {
        let folder = root.canonicalize().unwrap().join("folder");
        for name in [
            "deep/.git",
            "deep/.well-known",
            ".well-known/.hidden",
            "empty",
            "../outside",
        ] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        for name in [
            "../outside/secret",
            "page.html",
            ".env",
            "with space",
            "deep/index.html",
            "deep/.git/config",
            ".well-known/security.txt",
            ".well-known/.hidden/page",
            "deep/.well-known/page",
        ] {
            std::fs::write(folder.join(name), "text").unwrap();
        }
        for (to, name) in [
            ("../outside/secret", "leak"),
            ("../outside", "leaks"),
            (".env", "env"),
            ("page.html", "alias"),
            ("deep", "linked"),
        ] {
            std::os::unix::fs::symlink(folder.join(to), folder.join(name)).unwrap();
        }
        folder
    }

    fn at(folder: &Path, path: &str) -> String {
        let place = Place {
            folder,
            path,
            has_slash: path.ends_with('/'),
        };
        let Some(named) = named(&place) else {
            return "nothing".to_owned();
        };
        match look(folder, &named, place.has_slash, &Secrets::default()) {
            Ok(At::File(file, _)) => {
                let inside = file.strip_prefix(folder).unwrap();
                inside.to_str().unwrap().to_owned()
            }
            Ok(At::Folder) => "a folder".to_owned(),
            Ok(At::Nothing) | Err(_) => "nothing".to_owned(),
        }
    }

    #[test]
    fn only_plain_files_inside_the_folder_are_found() {
        let root = tempfile::tempdir().unwrap();
        let folder = everything(root.path());
        for (path, found) in [
            ("/page.html", "page.html"),
            ("/alias", "page.html"),
            ("/deep", "a folder"),
            ("/deep/", "deep/index.html"),
            ("/linked", "a folder"),
            ("/linked/", "deep/index.html"),
            ("/with%20space", "with space"),
            ("/.well-known/security.txt", ".well-known/security.txt"),
        ] {
            assert_eq!(at(&folder, path), found, "{path}");
        }
        for path in [
            "/",
            "/none",
            "/empty",
            "/empty/",
            "/page.html/",
            "/page.html/x",
            "/.env",
            "/deep/.git/config",
            "/leak",
            "/leaks/secret",
            "/env",
            "/..",
            "/deep/../page.html",
            "/%00",
            "/%ff",
            "/deep/..%2f..%2fpage.html",
            "//page.html",
            "/deep//index.html",
            "/.well-known",
            "/.well-known/",
            "/.well-known/.hidden/page",
            "/deep/.well-known/page",
        ] {
            assert_eq!(at(&folder, path), "nothing", "{path}");
        }
        std::fs::remove_dir_all(folder.join(".well-known")).unwrap();
        std::fs::write(folder.join(".well-known"), "text").unwrap();
        assert_eq!(at(&folder, "/.well-known"), "nothing");
    }
}
