//! Backups in an S3-compatible store. It holds what anybody may hold: each file is encrypted, and opens with the words only.
//!
//! Requests are signed by `rusty-s3`, which speaks to nobody itself; they go over the HTTP client that the program has.

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

use super::create::name_of;
use super::folder;
use super::made::Made;

use said::{advice, said};

/// How long a signed request may be used: clocks differ by less, or the store refuses.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// How long a short question may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a backup may take there or back: 100 MB at 200 KB/s.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(600);

/// A list of a thousand objects has some 400 KB; a store lists no more at once.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Lists that are asked for, one after the other: more than ten thousand backups of a node are nobody's.
const LISTS_MAX: usize = 10;

/// Bytes that are read and sent at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Where backups are sent to, besides the folder.
#[derive(Clone, PartialEq, Eq)]
pub struct S3 {
    /// The store's URL.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What the objects' names begin with.
    pub prefix: String,
    /// Who we are there.
    pub access_key: String,
    /// The proof of that.
    pub secret_key: String,
    /// Whether the bucket stands in the path rather than in the host's name.
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
    /// Whether requests can be made of this.
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

/// What the store is to hold besides the newest backup.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Whose backups they are.
    pub(super) node_id: String,
    /// The number of newest backups that the store keeps, in addition to one for each of the last days.
    pub(super) keep: usize,
    /// Which of them may be let go.
    pub(super) made: Made,
    /// The name of one that it keeps however old it is.
    pub(super) spared: Option<String>,
    /// Whether the newest is sent also if one of its name and length is there.
    pub(super) sends_again: bool,
}

impl Wanted {
    /// What of these is let go now that the store holds `newest`, and what this data folder did not make, which stays.
    fn sort_out(&self, mut objects: Vec<Object>, newest: Option<&str>) -> (Vec<Object>, Others) {
        // The names of one node begin with their time, which is written so that it sorts.
        objects.sort_by(|one, other| other.name.cmp(&one.name));
        let own = |object: &Object| self.made.has(&object.name);
        let (own, others): (Vec<_>, Vec<_>) = objects.into_iter().partition(own);
        // Names of a clock that was ahead, in another folder, may be newer than the newest.
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

/// The store.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    bucket: Bucket,
    credentials: Credentials,
    prefix: String,
    client: legacy::Client<HttpsConnector<HttpConnector>, Body>,
}

/// Backups of this node in one place that this data folder did not make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Others {
    /// How many there are.
    pub(super) count: usize,
    /// The name of the newest.
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
    /// `None` for what [`S3::is_good`] does not find good.
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
            // A backup a day: no connection is kept.
            client: legacy::Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(https),
        })
    }

    /// Where the backups are, for people.
    pub(super) fn place(&self) -> String {
        format!("{}{}", self.bucket.base_url(), self.prefix)
    }

    /// Sees to it that the store holds this backup, and of those that this data folder made no more than is wanted. Says what else of
    /// this node is there.
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

    /// What the store holds of this node that this data folder did not make.
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
                // We ask for names in the encoding of URLs: XML cannot hold every character.
                let key = percent_decode_str(&object.key)
                    .decode_utf8_lossy()
                    .into_owned();
                let name = key.strip_prefix(&self.prefix)?.to_owned();
                // Whatever else begins like ours is not ours.
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
        // The newest come last: of a list that was cut off nothing can be said.
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

    /// The beginning of an answer that says that all is well.
    async fn begin(&self, request: Request<Body>) -> Result<Incoming, RemoteError> {
        let response = self.client.request(request).await;
        // Without the URL, which carries a signature.
        let response = response.map_err(|error| RemoteError::Unreachable(chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let said = said(&whole(response.into_body()).await?);
        Err(RemoteError::Status { status, said })
    }

    /// Fetches the backup of this name, which has this length, into a new file.
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

/// A short answer.
async fn whole(body: Incoming) -> Result<Bytes, RemoteError> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| RemoteError::Unreachable(chain(&*error)))?;
    Ok(body.to_bytes())
}

/// Writes a body to a new file, as long as it is not longer than it should be. That it is shorter shows when it is read.
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

/// A file, piece by piece.
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
        // After the loss of everything, with the same words.
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
