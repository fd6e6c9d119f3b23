//! Headers that identify the node to the server. Their file is read repeatedly, because a token in
//! it may expire and be replaced while the node runs.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use vss_client_ng::headers::{VssHeaderProvider, VssHeaderProviderError};

use crate::base::error_chain;
use crate::base::secret_file::{self, SecretFileError};

/// The maximum size of the file. A token has some thousand bytes.
const BYTES_MAX: usize = 64 * 1024;

/// How often the file is read. Tokens are replaced minutes before they expire, and the file is
/// small.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The number of failed reads in a row after which a warning is logged. During a replacement the
/// file may be missing for one read.
const USELESS_TOLD: u32 = 3;

/// Shorter words of a header are not secret: `Bearer`, `Basic`.
const SECRET_BYTES_MIN: usize = 8;

/// Headers by name.
pub(super) type Named = HashMap<String, String>;

/// Headers that identify the node. They are secrets.
#[derive(Clone, Default, Eq)]
pub struct Headers {
    /// The file of the headers; `None` if the settings name no file.
    file: Option<PathBuf>,
    named: Named,
}

/// Headers of one file are equal settings, whatever the file's content.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Headers(…)")
    }
}

/// Why a file provides no headers.
#[derive(Debug, thiserror::Error)]
pub enum HeadersError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file has another content.
    #[error("{path} holds no headers: each line is `Name: value`, as in `Authorization: Bearer …`", path = .0.display())]
    NotHeaders(PathBuf),
}

impl Headers {
    /// Reads the headers from this file.
    pub fn read(file: PathBuf) -> Result<Self, HeadersError> {
        let named = read(&file)?;
        let file = Some(file);
        Ok(Self { file, named })
    }
}

fn read(file: &Path) -> Result<Named, HeadersError> {
    let text = secret_file::handed_over(file)?;
    let named = parse(&text).filter(|named| !named.is_empty() && text.len() <= BYTES_MAX);
    named.ok_or_else(|| HeadersError::NotHeaders(file.to_owned()))
}

fn parse(text: &str) -> Option<Named> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let name: HeaderName = name.trim().parse().ok()?;
        let value = value.trim();
        HeaderValue::from_str(value).ok()?;
        Some((name.to_string(), value.to_owned()))
    };
    lines.map(header).collect()
}

/// The headers that were read last. The lease is renewed with them, and the node sends them once a
/// renewal has succeeded.
pub(crate) struct Current {
    /// The file from which new headers are read.
    pub(super) file: Option<PathBuf>,
    /// Notified when the headers have changed.
    pub(super) changed: Notify,
    /// A `std` mutex: held to copy or compare a few words, never across an await.
    now: Mutex<Now>,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(…)")
    }
}

#[derive(Default)]
struct Now {
    read: Named,
    /// Different headers that the last read found in the file.
    next: Option<Named>,
    /// The number of failed reads in a row.
    useless: u32,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// No change to report.
    None,
    /// New headers are in use from now on.
    Others,
    /// The file has had no valid headers for some time.
    Useless,
}

impl Current {
    pub(super) fn of(headers: &Headers) -> Self {
        Self {
            file: headers.file.clone(),
            changed: Notify::new(),
            now: Mutex::new(Now {
                read: headers.named.clone(),
                ..Now::default()
            }),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn named(&self) -> Named {
        self.now().read.clone()
    }

    /// Reads the file repeatedly and never returns.
    pub(crate) async fn watch(self: &Arc<Self>) -> Infallible {
        let Some(file) = &self.file else {
            return std::future::pending().await;
        };
        loop {
            sleep_until(Instant::now() + LOOK_EVERY).await;
            let (current, file) = (Arc::clone(self), file.clone());
            let looking = tokio::task::spawn_blocking(move || current.look(&file));
            if let Err(error) = looking.await {
                tracing::error!("Reading node.vss.headers_file panicked: {error}");
            }
        }
    }

    /// Blocks on the disk.
    fn look(&self, file: &Path) {
        let read = read(file);
        let why = read.as_ref().err().map(|error| error_chain::chain(error));
        match self.found(read.ok()) {
            Turn::None => {}
            Turn::Others => self.changed.notify_one(),
            Turn::Useless => {
                let why = why.unwrap_or_default();
                tracing::warn!(
                    "The server of node.vss is asked with the headers that were read last: {why}"
                );
            }
        }
    }

    /// Takes the result of a read. New headers are used once two reads in a row have found them, so
    /// that a half-written file is never used.
    fn found(&self, found: Option<Named>) -> Turn {
        let mut now = self.now();
        let Some(found) = found else {
            now.next = None;
            now.useless = now.useless.saturating_add(1);
            return if now.useless == USELESS_TOLD {
                Turn::Useless
            } else {
                Turn::None
            };
        };
        now.useless = 0;
        if found == now.read {
            now.next = None;
            Turn::None
        } else if now.next.as_ref() == Some(&found) {
            now.next = None;
            now.read = found;
            Turn::Others
        } else {
            now.next = Some(found);
            Turn::None
        }
    }

    /// Removes the secrets of the headers from a text, because a server may repeat them.
    pub(crate) fn without(&self, text: String) -> String {
        let now = self.now();
        let words = now.read.values().flat_map(|value| value.split_whitespace());
        words
            .filter(|word| word.len() >= SECRET_BYTES_MIN && text.contains(word))
            .fold(text.clone(), |text, secret| text.replace(secret, "…"))
    }
}

/// The future that the client expects, as `async_trait` writes it.
pub(super) type Given<'f> =
    Pin<Box<dyn Future<Output = Result<Named, VssHeaderProviderError>> + Send + 'f>>;

/// Headers that are set before each request. A `std` mutex: held to copy a few words, never across
/// an await.
#[derive(Default)]
pub(super) struct Sent(Mutex<Named>);

impl Sent {
    pub(super) fn say(&self, named: Named) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = named;
    }

    pub(super) fn said(&self) -> Named {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }
}

impl VssHeaderProvider for Sent {
    fn get_headers<'s, 'r, 'f>(&'s self, _request: &'r [u8]) -> Given<'f>
    where
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        Box::pin(std::future::ready(Ok(self.said())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("vss.headers");
        secret_file::replace(&path, text).unwrap();
        path
    }

    fn sent(current: &Current) -> String {
        let named = current.named();
        named.get("authorization").cloned().unwrap_or_default()
    }

    #[test]
    fn new_headers_are_sent_when_they_were_found_twice_and_nothing_half_written_ever_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "Authorization: Bearer first-token");
        let current = Current::of(&Headers::read(path.clone()).unwrap());
        let look = |text: &str| {
            std::fs::write(&path, text).unwrap();
            current.look(&path);
            sent(&current)
        };
        let first = "Bearer first-token";
        for useless in ["", "Authoriz", "Authorization\n", "Authorization: \u{1}"] {
            assert_eq!(look(useless), first, "{useless:?}");
        }
        // A partly written token still looks like a token.
        assert_eq!(look("Authorization: Bearer sec"), first);
        assert_eq!(look("Authorization: Bearer second-tok"), first);
        assert_eq!(look("Authorization: Bearer second-token"), first);
        assert_eq!(look(""), first);
        assert_eq!(look("Authorization: Bearer second-token"), first);
        std::fs::remove_file(&path).unwrap();
        current.look(&path);
        assert_eq!(sent(&current), first);
        file(folder.path(), "Authorization: Bearer second-token");
        current.look(&path);
        assert_eq!(sent(&current), first);
        current.look(&path);
        assert_eq!(sent(&current), "Bearer second-token");
        // A file that others can read is rejected.
        use std::os::unix::fs::PermissionsExt as _;
        file(folder.path(), "Authorization: Bearer third-token");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        for _ in 0..3 {
            current.look(&path);
        }
        assert_eq!(sent(&current), "Bearer second-token");
    }

    #[test]
    fn new_headers_in_the_same_file_are_no_other_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "Authorization: Bearer first-token");
        let first = Headers::read(path).unwrap();
        let path = file(folder.path(), "Authorization: Bearer second-token");
        assert!(first == Headers::read(path).unwrap());
        assert!(first != Headers::default());
    }

    #[test]
    fn it_is_said_once_that_there_are_no_headers_any_more_and_not_at_the_first_look() {
        let current = Current::of(&Headers::default());
        let turns = [(); 5].map(|()| current.found(None));
        assert_eq!(
            turns.map(|turn| turn == Turn::Useless).map(u8::from),
            [0, 0, 1, 0, 0]
        );
    }

    #[test]
    fn a_file_without_headers_is_refused_without_repeating_it() {
        let folder = tempfile::tempdir().unwrap();
        for text in [
            "\n\n",
            "a-secret-without-a-name",
            ": a-secret",
            "Name: a\nsecret",
        ] {
            let path = file(folder.path(), text);
            let error = Headers::read(path).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let long = format!("Authorization: {}", "x".repeat(BYTES_MAX));
        Headers::read(file(folder.path(), &long)).unwrap_err();
    }

    #[test]
    fn what_a_server_says_back_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(
            folder.path(),
            "Authorization: Bearer 0123456789\nX-Shop: one",
        );
        let current = Current::of(&Headers::read(path).unwrap());
        let said = current.without("no token `0123456789` for one".to_owned());
        assert_eq!(said, "no token `…` for one");
        assert!(!format!("{:?}", Headers::default()).contains("named"));
    }
}
