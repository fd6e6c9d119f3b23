//! Backups in an S3-compatible store. The store need not be trusted with the content: each file is
//! encrypted, and only the seed words decrypt it.
//!
//! `rusty-s3` signs the requests but does no network access itself. The program's own HTTP client
//! sends them.

mod said;

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::percent_decode_str;
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::base::error_chain::chain;

use super::folder;
use super::made::Made;
use super::name::name_of;
use said::{advice, said};

/// How long a signed request is valid. If the clocks differ by more, the store refuses the request.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// The timeout of a short request.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout of an upload or a download: 100 MB at 200 KB/s take 500 s.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(600);

/// The maximum length of an answer. A store lists at most a thousand objects at once, which take
/// about 400 KB.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The maximum number of list pages that are requested. With a thousand objects on a page, this
/// covers ten thousand backups of a node.
const LISTS_MAX: usize = 10;

/// The number of bytes that are read and sent at once.
const PIECE_BYTES: usize = 64 * 1024;

/// The store that backups are sent to, in addition to the folder.
#[derive(Clone, PartialEq, Eq)]
pub struct S3 {
    /// The store's URL.
    pub endpoint: String,
    /// The region of the store.
    pub region: String,
    /// The bucket's name.
    pub bucket: String,
    /// The prefix of the objects' names.
    pub prefix: String,
    /// The access key, which identifies the client to the store.
    pub access_key: String,
    /// The secret key that belongs to the access key.
    pub secret_key: String,
    /// Whether the bucket's name is in the path rather than in the host name.
    pub is_path_style: bool,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("access_key", &self.access_key)
            .field("is_path_style", &self.is_path_style)
            .finish_non_exhaustive()
    }
}

impl S3 {
    /// Whether requests can be built from these settings.
    pub fn is_good(&self) -> bool {
        self.build().is_some()
    }

    fn build(&self) -> Option<Bucket> {
        let style = if self.is_path_style {
            UrlStyle::Path
        } else {
            UrlStyle::VirtualHost
        };
        let endpoint = self.endpoint.parse().ok()?;
        Bucket::new(endpoint, style, self.bucket.clone(), self.region.clone()).ok()
    }
}

/// Why a backup is not in the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    #[error("the store did not answer within {0:?}")]
    Late(Duration),
    #[error("the store answered with status {status}: {said}{}", advice(.said))]
    Status { status: StatusCode, said: String },
    #[error("the store's list cannot be read: {0}")]
    List(String),
    #[error("the store holds more than {0} backups of this node: move old ones away")]
    TooMany(usize),
    #[error("failed to read or write the backup")]
    File(#[source] io::Error),
    #[error("it is longer than the {0} bytes that were sent")]
    Longer(u64),
}

/// The backups that the store should hold besides the newest one.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The node id of the backups.
    pub(super) node_id: String,
    /// The number of newest backups that the store keeps, in addition to one for each of the last
    /// days.
    pub(super) keep: usize,
    /// The backups that this data folder made. Only these may be deleted.
    pub(super) made: Made,
    /// The name of a backup that is kept regardless of its age.
    pub(super) spared: Option<String>,
    /// Whether to send the newest backup even if an object of the same name and length exists.
    pub(super) sends_again: bool,
}

impl Wanted {
    /// Returns the objects to delete now that the store holds `newest`, and a summary of the
    /// backups that this data folder did not make. Those are never deleted.
    fn sort_out(&self, mut objects: Vec<Object>, newest: Option<&str>) -> (Vec<Object>, Others) {
        // Behind the prefix of the node, the names begin with their time, in a form that sorts.
        objects.sort_by(|one, other| other.name.cmp(&one.name));
        let own = |object: &Object| self.made.has(&object.name);
        let (own, others): (Vec<_>, Vec<_>) = objects.into_iter().partition(own);
        // Another folder with a clock ahead may have written names that sort after `newest`.
        let is_kept = |object: &Object| {
            [newest, self.spared.as_deref()].contains(&Some(object.name.as_str()))
        };
        let named_secs = |object: &Object| folder::named_secs(&object.name, &self.node_id);
        let old = folder::old(own, self.keep, named_secs).into_iter();
        let others = Others {
            count: others.len(),
            newest: others.into_iter().next().map(|newest| newest.name),
        };
        (old.filter(|object| !is_kept(object)).collect(), others)
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A client of the store.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    bucket: Bucket,
    credentials: Credentials,
    prefix: String,
    client: legacy::Client<HttpsConnector<HttpConnector>, Body>,
}

/// The backups of this node in one place that this data folder did not make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Others {
    /// The number of these backups.
    pub(super) count: usize,
    /// The name of the newest of them.
    pub(super) newest: Option<String>,
}

/// A backup of this node in the store.
#[derive(Clone, Debug)]
struct Object {
    key: String,
    name: String,
    bytes: u64,
}

impl Remote {
    /// Creates a client; `None` if [`S3::is_good`] is false for these settings.
    pub(super) fn new(s3: &S3) -> Option<Self> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(ASK_TIMEOUT));
        let https = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Some(Self {
            bucket: s3.build()?,
            credentials: Credentials::new(s3.access_key.clone(), s3.secret_key.clone()),
            prefix: s3.prefix.clone(),
            // Backups are rare, so no connection is kept open.
            client: legacy::Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(https),
        })
    }

    /// The place of the backups, for people.
    pub(super) fn place(&self) -> String {
        format!("{}{}", self.bucket.base_url(), self.prefix)
    }

    /// Sends this backup to the store unless the store has it. Then deletes the old backups that
    /// this data folder made. Returns a summary of the node's other backups.
    pub(super) async fn hold(&self, path: &Path, wanted: &Wanted) -> Result<Others, RemoteError> {
        let name = name_of(path);
        let file = File::open(path).await.map_err(RemoteError::File)?;
        let bytes = file.metadata().await.map_err(RemoteError::File)?.len();
        let mut objects = self.list(&wanted.node_id).await?;
        let is_there = |object: &Object| object.name == name && object.bytes == bytes;
        if wanted.sends_again || !objects.iter().any(is_there) {
            let key = format!("{}{name}", self.prefix);
            self.put(&key, file, bytes).await?;
            objects.retain(|object| object.name != name);
            objects.push(Object {
                key,
                name: name.clone(),
                bytes,
            });
        }
        let (old, others) = wanted.sort_out(objects, Some(&name));
        for old in old {
            let delete = self
                .bucket
                .delete_object(Some(&self.credentials), &old.key)
                .sign(SIGNED_FOR);
            self.ask(Method::DELETE, delete.as_str(), None, ASK_TIMEOUT)
                .await?;
        }
        Ok(others)
    }

    /// The backups of this node in the store that this data folder did not make.
    pub(super) async fn others(&self, wanted: &Wanted) -> Result<Others, RemoteError> {
        let objects = self.list(&wanted.node_id).await?;
        Ok(wanted.sort_out(objects, None).1)
    }

    /// The name of the newest backup of this node.
    pub(super) async fn newest(&self, node_id: &str) -> Result<Option<String>, RemoteError> {
        let names = self.list(node_id).await?.into_iter();
        Ok(names.map(|object| object.name).max())
    }

    async fn list(&self, node_id: &str) -> Result<Vec<Object>, RemoteError> {
        let (mut objects, mut token) = (Vec::new(), None::<String>);
        for _ in 0..LISTS_MAX {
            let mut list = self.bucket.list_objects_v2(Some(&self.credentials));
            list.with_prefix(format!("{}{}", self.prefix, folder::prefix(node_id)));
            if let Some(token) = token {
                list.with_continuation_token(token);
            }
            let list = list.sign(SIGNED_FOR);
            let answer = self
                .ask(Method::GET, list.as_str(), None, ASK_TIMEOUT)
                .await?;
            let listed = ListObjectsV2::parse_response(&answer)
                .map_err(|error| RemoteError::List(error.to_string()))?;
            objects.extend(listed.contents.into_iter().filter_map(|object| {
                // The list has URL-encoded names, because XML cannot contain every character.
                let key = percent_decode_str(&object.key)
                    .decode_utf8_lossy()
                    .into_owned();
                let name = key.strip_prefix(&self.prefix)?.to_owned();
                // Other objects may share the prefix.
                folder::is_name(&name, node_id).then_some(Object {
                    key,
                    name,
                    bytes: object.size,
                })
            }));
            token = listed.next_continuation_token;
            if token.is_none() {
                return Ok(objects);
            }
        }
        // The newest names come last, so a list that was cut off says nothing about them.
        Err(RemoteError::TooMany(objects.len()))
    }

    async fn put(&self, key: &str, file: File, bytes: u64) -> Result<(), RemoteError> {
        let put = self
            .bucket
            .put_object(Some(&self.credentials), key)
            .sign(SIGNED_FOR);
        let body = Some((file, bytes));
        self.ask(Method::PUT, put.as_str(), body, TRANSFER_TIMEOUT)
            .await
            .map(drop)
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        body: Option<(File, u64)>,
        within: Duration,
    ) -> Result<Bytes, RemoteError> {
        let (body, bytes) = match body {
            Some((file, bytes)) => (pieces(file), bytes),
            None => (nothing(), 0),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = address(url)?;
        if bytes > 0 {
            let length = HeaderValue::from(bytes);
            request.headers_mut().insert(CONTENT_LENGTH, length);
        }
        tokio::time::timeout(within, self.answer(request))
            .await
            .unwrap_or(Err(RemoteError::Late(within)))
    }

    async fn answer(&self, request: Request<Body>) -> Result<Bytes, RemoteError> {
        whole(self.begin(request).await?).await
    }

    /// Sends a request and returns the body of a successful response.
    async fn begin(&self, request: Request<Body>) -> Result<Incoming, RemoteError> {
        let response = self.client.request(request).await;
        // The error must not contain the URL, which carries a signature.
        let response = response.map_err(|error| RemoteError::Unreachable(chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let said = said(&whole(response.into_body()).await?);
        Err(RemoteError::Status { status, said })
    }

    /// Fetches the backup of this name and length into a new file.
    pub(super) async fn fetch(
        &self,
        name: &str,
        bytes: u64,
        into: &Path,
    ) -> Result<(), RemoteError> {
        let key = format!("{}{name}", self.prefix);
        let get = self
            .bucket
            .get_object(Some(&self.credentials), &key)
            .sign(SIGNED_FOR);
        let fetching = async {
            let mut request = Request::new(nothing());
            *request.uri_mut() = address(get.as_str())?;
            let body = self.begin(request).await?;
            save(body, bytes, into).await
        };
        tokio::time::timeout(TRANSFER_TIMEOUT, fetching)
            .await
            .unwrap_or(Err(RemoteError::Late(TRANSFER_TIMEOUT)))
    }
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn address(url: &str) -> Result<Uri, RemoteError> {
    url.parse()
        .map_err(|_| RemoteError::Unreachable("its URL is no address".to_owned()))
}

/// Reads the whole of a short response.
async fn whole(body: Incoming) -> Result<Bytes, RemoteError> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| RemoteError::Unreachable(chain(&*error)))?;
    Ok(body.to_bytes())
}

/// Writes a body to a new file and fails if the body is longer than `bytes`. A shorter file fails
/// later, when it is read.
async fn save(mut body: Incoming, bytes: u64, into: &Path) -> Result<(), RemoteError> {
    let file = File::create_new(into).await;
    let mut file = file.map_err(RemoteError::File)?;
    let mut left = bytes;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| RemoteError::Unreachable(chain(&error)))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or(RemoteError::Longer(bytes))?;
        file.write_all(&piece).await.map_err(RemoteError::File)?;
    }
    file.flush().await.map_err(RemoteError::File)
}

/// Streams a file in pieces.
fn pieces(file: File) -> Body {
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = (&mut file)
            .take(PIECE_BYTES as u64)
            .read_to_end(&mut piece)
            .await?;
        Ok((read > 0).then(|| (Frame::data(Bytes::from(piece)), file)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_what_this_data_folder_did_not_make_and_says_so() {
        let data_dir = tempfile::tempdir().unwrap();
        for name in ["1", "2", "3", "9"] {
            Made::note(data_dir.path(), name).unwrap();
        }
        let wanted = Wanted {
            node_id: "02".repeat(33),
            keep: 2,
            made: Made::open(data_dir.path()),
            spared: Some("1".to_owned()),
            sends_again: false,
        };
        let objects = |names: &[&str]| {
            let object = |name: &&str| Object {
                key: format!("shop/{name}"),
                name: (*name).to_owned(),
                bytes: 1,
            };
            names.iter().map(object).collect::<Vec<_>>()
        };
        let all = objects(&["5", "1", "2", "9", "3", "6", "4"]);
        let (old, others) = wanted.sort_out(all, Some("9"));
        let old: Vec<_> = old.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(old, ["2"]);
        let three = Others {
            count: 3,
            newest: Some("6".to_owned()),
        };
        assert_eq!(others, three);
        // A new data folder with the same words, after everything was lost.
        let anew = Wanted {
            made: Made::default(),
            spared: None,
            ..wanted
        };
        let (old, others) = anew.sort_out(objects(&["1", "2", "3", "4"]), None);
        assert!(old.is_empty(), "{old:?}");
        assert_eq!(others.count, 4);
    }

    #[test]
    fn the_secret_key_is_not_shown() {
        let s3 = S3 {
            endpoint: "https://s3.example".to_owned(),
            region: "r".to_owned(),
            bucket: "b".to_owned(),
            prefix: String::new(),
            access_key: "A".to_owned(),
            secret_key: "hush".to_owned(),
            is_path_style: true,
        };
        let remote = Remote::new(&s3).unwrap();
        assert!(!format!("{s3:?}{remote:?}").contains("hush"));
        assert_eq!(remote.place(), "https://s3.example/b/");
    }
}
