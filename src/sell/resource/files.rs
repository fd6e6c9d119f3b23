//! Serves the files of folders. A small file that is requested often is kept in memory and sent
//! without reading the disk. Every request checks that the file has not changed.

mod known;
mod memory;
mod place;
mod preconditions;
mod stamp;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, response};
use http_body_util::Full;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tower_http::services::fs::AsyncReadBody;

use crate::base::secret_file::Secrets;
use crate::sell::gate::Permit;

use super::delivered::{Delivered, Shape};
use super::downstream::Body;
use super::failure::{Failure, Unserved};
use known::Known;
use memory::{CONTENT_BYTES_MAX, Memory};
use place::{At, look, named};
use preconditions::{Wanted, wanted};
use stamp::Stamp;

pub(super) use place::Place;

/// The size of one read from a large file.
const CHUNK_BYTES: usize = 64 * 1024;

/// Serves the files of folders.
#[derive(Debug)]
pub(super) struct Files {
    /// The files that are never served. The files in memory were checked against this list, so each
    /// reload starts with an empty memory.
    secrets: Arc<Secrets>,
    /// The files that were checked recently.
    memory: Arc<Memory>,
}

/// A file that may be served.
#[derive(Debug)]
struct Found {
    known: Arc<Known>,
    content: Content,
}

/// The location of a file's bytes.
#[derive(Debug)]
enum Content {
    /// The bytes in memory.
    Here(Bytes),
    /// The open file.
    In(File),
    /// No bytes, because only the headers are needed.
    Unread,
}

/// The parts of a file that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// The headers only.
    Head,
    /// The headers and the content.
    Content,
}

impl Files {
    pub(super) fn new(secrets: &Arc<Secrets>) -> Self {
        Self {
            secrets: Arc::clone(secrets),
            memory: Arc::default(),
        }
    }

    /// Checks that the path has a file to sell.
    pub(super) async fn look(&self, place: Place<'_>) -> Result<(), Failure> {
        self.find(place, For::Head).await.map(|_| ())
    }

    /// Serves a file.
    pub(super) async fn serve(
        &self,
        permit: Permit,
        place: Place<'_>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Unserved> {
        let wants = match *request.method() {
            Method::GET => For::Content,
            Method::HEAD => For::Head,
            _ => return Err(Unserved::giving_back(permit, Failure::MethodNotAllowed)),
        };
        let found = match self.find(place, wants).await {
            Ok(found) => found,
            Err(failure) => return Err(Unserved::giving_back(permit, failure)),
        };
        let wanted = wanted(request.headers(), &found.known.version());
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = status(&wanted);
        parts.headers = found.known.headers(&wanted);
        let part = match wanted {
            Wanted::Whole => 0..found.known.stamp.size,
            Wanted::Part(part) => part,
            Wanted::NotModified => 0..0,
            // Nothing was delivered, so the use goes back.
            Wanted::Unmet | Wanted::NoSuchPart => {
                parts.extensions.insert(permit.give_back());
                return Ok(Response::from_parts(parts, super::body::empty()));
            }
        };
        let content = if part.is_empty() {
            Content::Unread
        } else {
            found.content
        };
        let delivered = match content {
            Content::Unread => deliver(Full::default(), permit, &parts, wants).await,
            Content::Here(bytes) => {
                let bytes = of(&bytes, part);
                deliver(Full::new(bytes), permit, &parts, wants).await
            }
            Content::In(mut file) => {
                if let Err(error) = file.seek(SeekFrom::Start(part.start)) {
                    return Err(Unserved::giving_back(permit, Failure::Unreadable(error)));
                }
                let part = tokio::fs::File::from_std(file).take(part.end - part.start);
                let body = AsyncReadBody::with_capacity(part, CHUNK_BYTES);
                deliver(body, permit, &parts, wants).await
            }
        };
        let (body, left) = delivered?;
        parts.extensions.insert(left);
        Ok(Response::from_parts(parts, body))
    }

    /// Finds the file in memory if it has not changed, or else on disk.
    async fn find(&self, place: Place<'_>, wants: For) -> Result<Found, Failure> {
        let path = named(&place).ok_or(Failure::NotFound)?;
        if let Some(found) = self.remembered(&path, wants) {
            return Ok(found);
        }
        let looking = Looking {
            folder: place.folder.to_owned(),
            path,
            has_slash: place.has_slash,
            wants,
            secrets: Arc::clone(&self.secrets),
            memory: Arc::clone(&self.memory),
        };
        let looked = tokio::task::spawn_blocking(move || looking.look()).await;
        match looked.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(Seen::File(found)) => Ok(found),
            Ok(Seen::Folder) => Err(Failure::IsFolder),
            Ok(Seen::Nothing) => Err(Failure::NotFound),
            Err(error) if is_absence(error.kind()) => Err(Failure::NotFound),
            Err(error) => Err(Failure::Unreadable(error)),
        }
    }

    fn remembered(&self, path: &std::path::Path, wants: For) -> Option<Found> {
        let known = self.memory.find(path)?;
        let content = match (wants, &known.content) {
            (For::Head, _) => Content::Unread,
            (For::Content, Some(content)) => Content::Here(content.clone()),
            (For::Content, None) => return None,
        };
        let is_unchanged = known.stamp.is_unchanged_at(path);
        is_unchanged.then_some(Found { known, content })
    }
}

/// The result of a full check.
#[derive(Debug)]
enum Seen {
    File(Found),
    Folder,
    Nothing,
}

/// A full check of a path, which may wait for the disk.
#[derive(Debug)]
struct Looking {
    folder: PathBuf,
    path: PathBuf,
    has_slash: bool,
    wants: For,
    secrets: Arc<Secrets>,
    memory: Arc<Memory>,
}

impl Looking {
    fn look(self) -> io::Result<Seen> {
        let began = Instant::now();
        let at = look(&self.folder, &self.path, self.has_slash, &self.secrets);
        let (file, opened) = match at {
            Ok(At::File(file, opened)) => (file, opened),
            other => {
                self.memory.forget(&self.path);
                return other.map(|at| match at {
                    At::Folder => Seen::Folder,
                    At::File(..) | At::Nothing => Seen::Nothing,
                });
            }
        };
        let stamp = Stamp::of(&opened)?;
        let mut known = Known::new(&file, stamp);
        if let Some(before) = self.memory.last(&self.path).filter(|it| it.stamp == stamp) {
            known.first_seen = before.first_seen;
            known.content.clone_from(&before.content);
        }
        let content = match (self.wants, &known.content) {
            (For::Head, _) => Content::Unread,
            (For::Content, Some(content)) => Content::Here(content.clone()),
            (For::Content, None) => content_of(opened, &stamp)?,
        };
        if let Content::Here(content) = &content
            && self.memory.is_settled(known.first_seen, began)
        {
            known.content = Some(content.clone());
        }
        let known = Arc::new(known);
        // A path with links is not kept, because a link can change while the file does not.
        if file == self.path {
            self.memory.keep(&self.path, Arc::clone(&known));
        } else {
            self.memory.forget(&self.path);
        }
        Ok(Seen::File(Found { known, content }))
    }
}

/// Returns the content of a small file that does not change during the read, or else the open file.
fn content_of(mut file: File, stamp: &Stamp) -> io::Result<Content> {
    if stamp.size > CONTENT_BYTES_MAX {
        return Ok(Content::In(file));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or_default());
    (&mut file).take(stamp.size).read_to_end(&mut bytes)?;
    let is_whole = bytes.len() as u64 == stamp.size && Stamp::of(&file)? == *stamp;
    Ok(if is_whole {
        Content::Here(bytes.into())
    } else {
        Content::In(file)
    })
}

/// Returns a part of the content.
fn of(bytes: &Bytes, part: std::ops::Range<u64>) -> Bytes {
    let at = |place: u64| usize::try_from(place).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes.slice(at(part.start)..at(part.end))
}

fn status(wanted: &Wanted) -> StatusCode {
    match wanted {
        Wanted::Whole => StatusCode::OK,
        Wanted::Part(_) => StatusCode::PARTIAL_CONTENT,
        Wanted::NotModified => StatusCode::NOT_MODIFIED,
        Wanted::Unmet => StatusCode::PRECONDITION_FAILED,
        Wanted::NoSuchPart => StatusCode::RANGE_NOT_SATISFIABLE,
    }
}

/// Delivers a whole file, a part of it, or a 304 answer.
async fn deliver<B>(
    body: B,
    permit: Permit,
    head: &response::Parts,
    wants: For,
) -> Result<(Body, crate::account::ledger::Left), Unserved>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<super::downstream::BoxError>,
{
    let shape = Shape {
        is_head: wants == For::Head,
        sends_on: false,
        can_be_call: false,
        is_open_ended: false,
    };
    let delivered = Delivered::of_answer(body, permit, head, shape).await;
    delivered.map_err(unreadable)
}

/// Reports a failed read of a file as `Unreadable`.
fn unreadable(mut unserved: Unserved) -> Unserved {
    if let Failure::UpstreamUnreachable(error) = unserved.why {
        unserved.why = Failure::Unreadable(io::Error::other(error));
    }
    unserved
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

#[cfg(test)]
mod tests;
