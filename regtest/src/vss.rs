//! A small VSS server in memory: the four calls of LDK's versioned storage service, one store after the other, for whoever shows
//! the right header. It is no kinder than the reference implementation (`vss-server` 0.1.0-alpha.0, over PostgreSQL): it has the
//! same versions, conflicts, pages and answers. `vss_client_ng::types` describes each message.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use prost::Message;
use tokio::sync::watch;
use vss_client_ng::types::{
    DeleteObjectRequest, DeleteObjectResponse, ErrorCode, ErrorResponse, GetObjectRequest,
    GetObjectResponse, KeyValue, ListKeyVersionsRequest, ListKeyVersionsResponse, PutObjectRequest,
    PutObjectResponse,
};

use crate::port;
use crate::server::Server;

/// The largest request: a channel manager with its channels is some hundred kilobytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The version of a put or a delete that may find anything.
const ANY_VERSION: i64 = -1;

/// The version of what was put first, or whatever was there.
const FIRST_VERSION: i64 = 1;

/// Items of a put.
const ITEMS_MAX: usize = 1_000;

/// Keys on a page. The reference has 100, which the lists of a test never fill.
const PAGE_MAX: usize = 5;

/// What counts the changes of a store, for who asks for that: never in a list.
const GLOBAL_VERSION_KEY: &str = "global_version";

/// What the merchant's program keeps itself.
const LEASE_KEY: &str = "tollhouse.lease";

/// What is kept.
#[derive(Clone, Debug)]
struct Object {
    value: Vec<u8>,
    version: i64,
    /// The older, the smaller; an update does not make it younger.
    order: i64,
}

/// Who asks: what is kept for one is not there for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Account {
    First,
    Second,
}

/// What is kept, by account, store and key.
#[derive(Debug, Default)]
struct Objects {
    kept: BTreeMap<(Account, String, String), Object>,
    next_order: i64,
    /// When ldk-node last wrote something; the lease does not count.
    written: Option<Instant>,
}

/// The server; it can be stopped and started again at the same address, with what it kept.
#[derive(Debug)]
pub struct Vss {
    /// `None` while stopped.
    server: Option<Server>,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// What may stand in `Authorization`, and whose account each names. A std mutex: held to change or compare them.
    known: Mutex<Vec<(String, Account)>>,
    /// A std mutex: held to copy or change a few objects.
    objects: Mutex<Objects>,
    /// Whether it takes requests and does not answer.
    is_silent: watch::Sender<bool>,
}

impl Shared {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Vec<(String, Account)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vss {
    /// Starts an empty one on a free loopback port, for whoever sends this `Authorization`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(authorization: &str) -> Result<Self> {
        let mut vss = Self {
            server: None,
            address: port::free()?,
            shared: Arc::new(Shared {
                known: Mutex::new(vec![(authorization.to_owned(), Account::First)]),
                objects: Mutex::default(),
                is_silent: watch::Sender::new(false),
            }),
        };
        vss.start_again()?;
        Ok(vss)
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/vss", self.address)
    }

    /// From now on only who sends this `Authorization` is known, and is who was known before.
    pub fn takes(&self, authorization: &str) {
        *self.shared.known() = vec![(authorization.to_owned(), Account::First)];
    }

    /// Who sends this `Authorization` is known besides, as who was known before.
    pub fn takes_too(&self, authorization: &str) {
        let same = (authorization.to_owned(), Account::First);
        self.shared.known().push(same);
    }

    /// Who sends this `Authorization` is known besides, as somebody else.
    pub fn takes_another(&self, authorization: &str) {
        let other = (authorization.to_owned(), Account::Second);
        self.shared.known().push(other);
    }

    /// Gives somebody else a copy of all that is kept, with a lease of the same version that says something else.
    pub fn copies_to_another(&self) {
        let mut objects = self.shared.objects();
        let copied: Vec<_> = objects.kept.clone().into_iter().collect();
        for ((_, store_id, key), mut object) in copied {
            if key == LEASE_KEY {
                object.value.reverse();
            }
            objects
                .kept
                .insert((Account::Second, store_id, key), object);
        }
    }

    /// Whether it takes every request and answers none.
    pub fn keeps_silent(&self, is_silent: bool) {
        self.shared.is_silent.send_replace(is_silent);
    }

    /// The value and the version of that one's lease, once there is one.
    #[must_use]
    pub fn lease_of_another(&self) -> Option<(Vec<u8>, i64)> {
        let objects = self.shared.objects();
        let mut kept = objects.kept.iter();
        let found =
            kept.find(|((account, _, key), _)| *account == Account::Second && key == LEASE_KEY);
        found.map(|(_, object)| (object.value.clone(), object.version))
    }

    /// How long ago ldk-node last wrote something. The program renews its lease all the time, which does not count.
    #[must_use]
    pub fn idle_for(&self) -> Duration {
        let written = self.shared.objects().written;
        written.map_or(Duration::ZERO, |written| written.elapsed())
    }

    /// How many objects it keeps.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.objects().kept.len()
    }

    /// Whether any object contains these bytes, in its key or its value.
    #[must_use]
    pub fn contains(&self, bytes: &[u8]) -> bool {
        let has = |hay: &[u8]| hay.windows(bytes.len()).any(|window| window == bytes);
        let objects = self.shared.objects();
        let mut kept = objects.kept.iter();
        kept.any(|((.., key), object)| has(&object.value) || has(key.as_bytes()))
    }

    /// Loses all that it kept.
    pub fn lose(&self) {
        self.shared.objects().kept.clear();
    }

    /// Turns a bit over in everything that ldk-node keeps there.
    pub fn damage(&self) {
        let mut objects = self.shared.objects();
        let kept = objects.kept.iter_mut();
        for (_, object) in kept.filter(|((.., key), _)| key != LEASE_KEY) {
            if let Some(last) = object.value.last_mut() {
                *last ^= 1;
            }
        }
    }

    /// Closes the port and every connection.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Serves again at the same address after a stop; does nothing while it runs.
    ///
    /// # Errors
    /// When the port was taken meanwhile.
    pub fn start_again(&mut self) -> Result<()> {
        if self.server.is_none() {
            let shared = || Arc::clone(&self.shared);
            let app = Router::new()
                .route("/vss/getObject", post(get_object))
                .route("/vss/putObjects", post(put_objects))
                .route("/vss/deleteObject", post(delete_object))
                .route("/vss/listKeyVersions", post(list_key_versions))
                .fallback(async || (StatusCode::BAD_REQUEST, "Invalid request path."))
                .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
                .layer(middleware::from_fn_with_state(shared(), let_in))
                .with_state(shared());
            self.server = Some(Server::start("vss", self.address, app)?);
        }
        Ok(())
    }
}

/// A request that is not done.
#[derive(Debug)]
enum Refusal {
    /// As VSS says it.
    Typed(StatusCode, ErrorCode, Cow<'static, str>),
    /// What is no message of VSS is not answered by one.
    NoMessage,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Typed(status, code, message) => {
                let body = ErrorResponse {
                    error_code: code.into(),
                    message: message.into_owned(),
                };
                (status, body.encode_to_vec()).into_response()
            }
            Self::NoMessage => (StatusCode::BAD_REQUEST, "Error parsing request").into_response(),
        }
    }
}

const CONFLICT: Refusal = Refusal::Typed(
    StatusCode::CONFLICT,
    ErrorCode::ConflictException,
    Cow::Borrowed("Transaction could not be completed due to a possible conflict"),
);

const fn invalid(why: &'static str) -> Refusal {
    Refusal::Typed(
        StatusCode::BAD_REQUEST,
        ErrorCode::InvalidRequestException,
        Cow::Borrowed(why),
    )
}

/// Lets a request in, whatever it asks for, if whoever sent it may.
async fn let_in(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let mut is_silent = shared.is_silent.subscribe();
    // The sender is ours.
    let _ = is_silent.wait_for(|is_silent| !is_silent).await;
    let shown = request.headers().get(AUTHORIZATION);
    let account = shown.and_then(|shown| {
        let known = shared.known();
        let mut known = known.iter();
        let found = known.find(|(known, _)| shown.as_bytes() == known.as_bytes());
        found.map(|(_, account)| *account)
    });
    let Some(account) = account else {
        // Unlike the reference it says back what it was told: whoever logs what a server says learns to take care.
        return Err(Refusal::Typed(
            StatusCode::UNAUTHORIZED,
            ErrorCode::AuthException,
            format!("not good: {shown:?}").into(),
        ));
    };
    request.extensions_mut().insert(account);
    Ok(next.run(request).await)
}

fn message<T: Message + Default>(body: &Bytes) -> Result<T, Refusal> {
    T::decode(body.as_ref()).map_err(|_| Refusal::NoMessage)
}

async fn get_object(
    State(shared): State<Arc<Shared>>,
    Extension(account): Extension<Account>,
    body: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let GetObjectRequest { store_id, key } = message(&body)?;
    let found = shared
        .objects()
        .kept
        .get(&(account, store_id, key.clone()))
        .cloned();
    let value = match found {
        Some(object) => KeyValue {
            key,
            value: object.value,
            version: object.version,
        },
        None if key == GLOBAL_VERSION_KEY => KeyValue {
            key,
            ..KeyValue::default()
        },
        None => {
            return Err(Refusal::Typed(
                StatusCode::NOT_FOUND,
                ErrorCode::NoSuchKeyException,
                "Requested key not found.".into(),
            ));
        }
    };
    let value = Some(value);
    Ok(GetObjectResponse { value }.encode_to_vec())
}

impl Objects {
    /// Whether an item of a put, or of its deletes, finds what it wants to find.
    fn fits(&self, account: Account, store_id: &str, item: &KeyValue, is_delete: bool) -> bool {
        let place = (account, store_id.to_owned(), item.key.clone());
        match (self.kept.get(&place), item.version) {
            (Some(_), ANY_VERSION) => true,
            // There is nothing to delete.
            (None, ANY_VERSION) => !is_delete,
            (None, 0) => !is_delete,
            (None, _) => false,
            (Some(object), version) => object.version == version,
        }
    }

    fn put(&mut self, account: Account, store_id: &str, item: KeyValue) {
        let version = match item.version {
            ANY_VERSION | 0 => FIRST_VERSION,
            version => version + 1,
        };
        let next_order = self.next_order;
        self.next_order += 1;
        if item.key != LEASE_KEY {
            self.written = Some(Instant::now());
        }
        let place = (account, store_id.to_owned(), item.key);
        let object = self.kept.entry(place).or_insert(Object {
            value: Vec::new(),
            version,
            order: next_order,
        });
        object.value = item.value;
        object.version = version;
    }
}

async fn put_objects(
    State(shared): State<Arc<Shared>>,
    Extension(account): Extension<Account>,
    body: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let asked: PutObjectRequest = message(&body)?;
    if asked.transaction_items.len() + asked.delete_items.len() > ITEMS_MAX {
        return Err(invalid("too many items"));
    }
    let mut puts = asked.transaction_items;
    puts.extend(asked.global_version.map(|version| KeyValue {
        key: GLOBAL_VERSION_KEY.to_owned(),
        version,
        value: Vec::new(),
    }));
    let store_id = asked.store_id;
    let mut objects = shared.objects();
    let all_fit = puts
        .iter()
        .all(|item| objects.fits(account, &store_id, item, false))
        && asked
            .delete_items
            .iter()
            .all(|item| objects.fits(account, &store_id, item, true));
    if !all_fit {
        return Err(CONFLICT);
    }
    for item in puts {
        objects.put(account, &store_id, item);
    }
    for item in asked.delete_items {
        objects.kept.remove(&(account, store_id.clone(), item.key));
    }
    Ok(PutObjectResponse {}.encode_to_vec())
}

/// What is not there, or has another version, stays as it is, which is no error.
async fn delete_object(
    State(shared): State<Arc<Shared>>,
    Extension(account): Extension<Account>,
    body: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let asked: DeleteObjectRequest = message(&body)?;
    let item = asked.key_value.ok_or(invalid("key_value missing"))?;
    let mut objects = shared.objects();
    if objects.fits(account, &asked.store_id, &item, true) {
        objects.kept.remove(&(account, asked.store_id, item.key));
    }
    Ok(DeleteObjectResponse {}.encode_to_vec())
}

/// The newest first, page by page.
async fn list_key_versions(
    State(shared): State<Arc<Shared>>,
    Extension(account): Extension<Account>,
    body: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let asked: ListKeyVersionsRequest = message(&body)?;
    let before = match &asked.page_token {
        None => i64::MAX,
        Some(token) => {
            let order: Option<i64> = token.parse().ok();
            let order = order.filter(|order| *order >= 0);
            order.ok_or(invalid("Invalid page token"))?
        }
    };
    let prefix = asked.key_prefix.unwrap_or_default();
    let objects = shared.objects();
    let global = (
        account,
        asked.store_id.clone(),
        GLOBAL_VERSION_KEY.to_owned(),
    );
    let global_version = objects.kept.get(&global).map_or(0, |object| object.version);
    let is_listed = |whose: Account, store_id: &str, key: &str, object: &Object| {
        whose == account
            && *store_id == asked.store_id
            && key.starts_with(&prefix)
            && key != GLOBAL_VERSION_KEY
            && object.order < before
    };
    let kept = objects.kept.iter();
    let mut listed: Vec<_> = kept
        .filter(|((whose, store_id, key), object)| is_listed(*whose, store_id, key, object))
        .map(|((.., key), object)| (object.order, key, object.version))
        .collect();
    listed.sort_by_key(|(order, ..)| std::cmp::Reverse(*order));
    let wanted = asked.page_size.and_then(|size| usize::try_from(size).ok());
    let page = wanted.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let is_last = page == 0 || listed.len() <= page;
    listed.truncate(page);
    let next = listed.last().filter(|_| !is_last);
    Ok(ListKeyVersionsResponse {
        next_page_token: Some(next.map_or_else(String::new, |(order, ..)| order.to_string())),
        global_version: asked.page_token.is_none().then_some(global_version),
        key_versions: listed
            .into_iter()
            .map(|(_, key, version)| KeyValue {
                key: key.clone(),
                version,
                value: Vec::new(),
            })
            .collect(),
    }
    .encode_to_vec())
}
