//! Files of a folder, by tower-http: ranges, types, validators. What is served is decided here, once, before that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use tower_http::services::ServeFile;

use crate::gate::Permit;
use crate::secret_file::Secrets;

use super::delivered::{Delivered, Shape};
use super::{Body, Failure, Unserved};

/// The file that stands for its folder.
const INDEX: &str = "index.html";

/// The file at this path (percent-encoded, beginning with a slash), with all links followed. Nothing outside the folder,
/// nothing whose name or folder begins with a dot, and nothing that is secret.
pub(super) async fn find(
    folder: &Path,
    path: &str,
    secrets: &Arc<Secrets>,
) -> Result<PathBuf, Failure> {
    let relative = percent_decode_str(path.trim_matches('/'))
        .decode_utf8()
        .map_err(|_| Failure::NotFound)?;
    // Normalised paths have neither encoded separators nor dot segments: this is the second lock on the same door.
    let is_plain = |segment: &str| !segment.starts_with('.') && !segment.contains(['\\', '\0']);
    if !relative.is_empty() && !relative.split('/').all(is_plain) {
        return Err(Failure::NotFound);
    }
    let (folder, wanted) = (folder.to_owned(), folder.join(relative.as_ref()));
    let secrets = Arc::clone(secrets);
    let resolve = move || resolve(&folder, &wanted, &secrets);
    match tokio::task::spawn_blocking(resolve)
        .await
        .expect("resolving a path does not panic")
    {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(Failure::NotFound),
        Err(error) if is_absence(error.kind()) => Err(Failure::NotFound),
        Err(error) => Err(Failure::Unreadable(error)),
    }
}

/// Follows all links; `None` for what lies outside the folder, is secret or is not a file.
fn resolve(folder: &Path, wanted: &Path, secrets: &Secrets) -> io::Result<Option<PathBuf>> {
    let mut file = wanted.canonicalize()?;
    if file.is_dir() {
        file = file.join(INDEX).canonicalize()?;
    }
    let Ok(inside) = file.strip_prefix(folder) else {
        return Ok(None);
    };
    // A link may point inside the folder, but not at something hidden there.
    let is_hidden = inside
        .iter()
        .any(|part| part.as_encoded_bytes().starts_with(b"."));
    if is_hidden || !file.is_file() {
        return Ok(None);
    }
    // What we may not read must not be sold.
    let opened = std::fs::File::open(&file)?;
    if secrets.hold(&file, &opened.metadata()?) {
        return Ok(None);
    }
    Ok(Some(file))
}

fn is_absence(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput
    )
}

/// Serves the file at this path.
pub(super) async fn serve(
    permit: Permit,
    (folder, path): (&Path, &str),
    secrets: &Arc<Secrets>,
    request: Request<Body>,
) -> Result<Response<Body>, Unserved> {
    let is_head = *request.method() == Method::HEAD;
    if !is_head && *request.method() != Method::GET {
        return Err(Unserved::giving_back(permit, Failure::MethodNotAllowed));
    }
    let file = match find(folder, path, secrets).await {
        Ok(file) => file,
        Err(failure) => return Err(Unserved::giving_back(permit, failure)),
    };
    let response = match ServeFile::new(file).try_call(request).await {
        Ok(response) if response.status() == StatusCode::NOT_FOUND => {
            return Err(Unserved::giving_back(permit, Failure::NotFound));
        }
        Ok(response) => response,
        Err(error) => return Err(Unserved::giving_back(permit, Failure::Unreadable(error))),
    };
    let (mut parts, body) = response.into_parts();
    let (body, left) = if is_delivery(parts.status) {
        let shape = Shape {
            is_head,
            sends_on: false,
            can_be_call: false,
            is_open_ended: false,
        };
        let delivered = Delivered::of_answer(body, permit, &parts, shape).await;
        delivered.map_err(unreadable)?
    } else {
        (Body::new(body.map_err(Into::into)), permit.give_back())
    };
    parts.extensions.insert(left);
    Ok(Response::from_parts(parts, body))
}

/// A file that cannot be read, where it was there a moment ago.
fn unreadable(mut unserved: Unserved) -> Unserved {
    if let Failure::UpstreamUnreachable(error) = unserved.why {
        unserved.why = Failure::Unreadable(io::Error::other(error));
    }
    unserved
}

/// A whole file, a part of it, or word that it has not changed. A range that does not exist delivers nothing.
fn is_delivery(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::NOT_MODIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_plain_files_inside_the_folder_are_found() {
        let nothing = Arc::new(Secrets::default());
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().canonicalize().unwrap();
        let write = |path: &Path| std::fs::write(path, "text").unwrap();
        write(&outside.path().join("secret"));
        write(&folder.join("page.html"));
        write(&folder.join(".env"));
        write(&folder.join("with space"));
        std::fs::create_dir_all(folder.join("deep/.git")).unwrap();
        std::fs::create_dir(folder.join("empty")).unwrap();
        write(&folder.join("deep/index.html"));
        write(&folder.join("deep/.git/config"));
        let link =
            |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
        link(&outside.path().join("secret"), "leak");
        link(outside.path(), "leaks");
        link(&folder.join(".env"), "env");
        link(&folder.join("page.html"), "alias");
        for (path, file) in [
            ("/page.html", "page.html"),
            ("/alias", "page.html"),
            ("/deep", "deep/index.html"),
            ("/deep/", "deep/index.html"),
            ("/with%20space", "with space"),
        ] {
            assert_eq!(
                find(&folder, path, &nothing).await.unwrap(),
                folder.join(file),
                "{path}"
            );
        }
        for path in [
            "/",
            "/none",
            "/empty",
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
        ] {
            assert!(
                matches!(find(&folder, path, &nothing).await, Err(Failure::NotFound)),
                "{path}"
            );
        }
    }
}
