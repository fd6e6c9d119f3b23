//! Headers that say who asks, out of a file that is read anew: what stands in it may expire, and be replaced while the node runs.

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

/// A token has some thousand bytes. What is longer is another file.
const BYTES_MAX: usize = 64 * 1024;

/// How often the file is looked at: tokens are made anew minutes before they expire, and the file is small.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks in a row that find nothing of use, after which it is said: a file that is being replaced may be gone for one.
const USELESS_TOLD: u32 = 3;

/// What has fewer bytes is no secret: `Bearer`, `Basic`.
const SECRET_BYTES_MIN: usize = 8;

/// Names and values.
pub(super) type Named = HashMap<String, String>;

/// Headers that say who asks: secrets.
#[derive(Clone, Default, Eq)]
pub struct Headers {
    /// Where they stand; nowhere if nothing is said.
    file: Option<PathBuf>,
    named: Named,
}

/// Those of one file are the same settings, whatever it says now.
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

/// Why a file gives no headers.
#[derive(Debug, thiserror::Error)]
pub enum HeadersError {
    /// The file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// It holds something else.
    #[error("{path} holds no headers: each line is `Name: value`, as in `Authorization: Bearer …`", path = .0.display())]
    NotHeaders(PathBuf),
}

impl Headers {
    /// Reads them from this file.
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

/// The headers that were read last: the lease is renewed with them, and what that has shown to be good is sent by the node.
pub(crate) struct Current {
    /// Where others come from.
    pub(super) file: Option<PathBuf>,
    /// There are others.
    pub(super) changed: Notify,
    /// A std mutex: held to copy or compare a few words.
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
    /// What the last look found in their place.
    next: Option<Named>,
    /// Looks in a row that found nothing of use.
    useless: u32,
}

/// What a look has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing to speak of.
    None,
    /// Others are used from now on.
    Others,
    /// There is nothing of use in the file, and that is no short moment.
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

    /// Looks at the file for ever.
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

    /// Takes in what a look has found. It is used when the next look finds the same, so that nothing half-written is.
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

    /// A text without what is secret in the headers: a server may say it back.
    pub(crate) fn without(&self, text: String) -> String {
        let now = self.now();
        let words = now.read.values().flat_map(|value| value.split_whitespace());
        words
            .filter(|word| word.len() >= SECRET_BYTES_MIN && text.contains(word))
            .fold(text.clone(), |text, secret| text.replace(secret, "…"))
    }
}

/// What the client wants back, as `async_trait` writes it.
pub(super) type Given<'f> =
    Pin<Box<dyn Future<Output = Result<Named, VssHeaderProviderError>> + Send + 'f>>;

/// What somebody sends who says before each request which headers it is. A std mutex: held to copy a few words.
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
        // Each beginning of what is written is one of a token, too.
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
        // One that others can read is none.
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
