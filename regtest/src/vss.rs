//! A small VSS server in memory: the four calls of LDK's versioned storage service, one store after the other, for whoever shows
//! the right header. `vss_client_ng::types` describes each message.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::HeaderMap;
use prost::Message;
use vss_client_ng::types::{
    DeleteObjectRequest, DeleteObjectResponse, ErrorCode, ErrorResponse, GetObjectRequest,
    GetObjectResponse, KeyValue, ListKeyVersionsRequest, ListKeyVersionsResponse, PutObjectRequest,
    PutObjectResponse,
};

use crate::port;
use crate::server::Server;

/// The largest request: a channel manager with its channels is some hundred kilobytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The version of a put that may find anything.
const ANY_VERSION: i64 = -1;

/// What is kept, by store and key.
type Objects = BTreeMap<(String, String), KeyValue>;

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
    /// What has to stand in `Authorization`.
    authorization: String,
    /// A std mutex: held to copy or change a few objects.
    objects: Mutex<Objects>,
}

impl Shared {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
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
                authorization: authorization.to_owned(),
                objects: Mutex::default(),
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

    /// How many objects it keeps.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.objects().len()
    }

    /// Whether any object contains these bytes, in its key or its value.
    #[must_use]
    pub fn contains(&self, bytes: &[u8]) -> bool {
        let has = |hay: &[u8]| hay.windows(bytes.len()).any(|window| window == bytes);
        let objects = self.shared.objects();
        let mut kept = objects.values();
        kept.any(|object| has(&object.value) || has(object.key.as_bytes()))
    }

    /// Loses all that it kept.
    pub fn lose(&self) {
        self.shared.objects().clear();
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
            let app = Router::new()
                .route("/vss/getObject", post(get_object))
                .route("/vss/putObjects", post(put_objects))
                .route("/vss/deleteObject", post(delete_object))
                .route("/vss/listKeyVersions", post(list_key_versions))
                .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
                .with_state(Arc::clone(&self.shared));
            self.server = Some(Server::start("vss", self.address, app)?);
        }
        Ok(())
    }
}

/// A request that is not done.
#[derive(Debug)]
struct Refusal(StatusCode, ErrorCode, &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        let body = ErrorResponse {
            error_code: code.into(),
            message: message.to_owned(),
        };
        (status, body.encode_to_vec()).into_response()
    }
}

/// The request, if whoever sent it may.
fn asked<T: Message + Default>(
    shared: &Shared,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<T, Refusal> {
    let shown = headers.get(AUTHORIZATION);
    if shown.is_none_or(|shown| shown.as_bytes() != shared.authorization.as_bytes()) {
        let why = "who are you?";
        return Err(Refusal(
            StatusCode::UNAUTHORIZED,
            ErrorCode::AuthException,
            why,
        ));
    }
    let unreadable = "no such message";
    T::decode(body.as_ref()).map_err(|_| {
        let code = ErrorCode::InvalidRequestException;
        Refusal(StatusCode::BAD_REQUEST, code, unreadable)
    })
}

async fn get_object(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let asked: GetObjectRequest = asked(&shared, &headers, &body)?;
    let found = shared.objects().get(&(asked.store_id, asked.key)).cloned();
    let missing = "no such key";
    let value = found.ok_or(Refusal(
        StatusCode::NOT_FOUND,
        ErrorCode::NoSuchKeyException,
        missing,
    ))?;
    let value = Some(value);
    Ok(GetObjectResponse { value }.encode_to_vec())
}

async fn put_objects(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let asked: PutObjectRequest = asked(&shared, &headers, &body)?;
    let mut objects = shared.objects();
    let place = |item: &KeyValue| (asked.store_id.clone(), item.key.clone());
    let all = asked.transaction_items.iter().chain(&asked.delete_items);
    for item in all {
        let found = objects.get(&place(item)).map_or(0, |it| it.version);
        if item.version != ANY_VERSION && item.version != found {
            let why = "another version is there";
            return Err(Refusal(
                StatusCode::CONFLICT,
                ErrorCode::ConflictException,
                why,
            ));
        }
    }
    for item in &asked.transaction_items {
        let version = if item.version == ANY_VERSION {
            1
        } else {
            item.version + 1
        };
        let kept = KeyValue {
            version,
            ..item.clone()
        };
        objects.insert(place(item), kept);
    }
    for item in &asked.delete_items {
        objects.remove(&place(item));
    }
    Ok(PutObjectResponse {}.encode_to_vec())
}

async fn delete_object(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let asked: DeleteObjectRequest = asked(&shared, &headers, &body)?;
    if let Some(item) = asked.key_value {
        shared.objects().remove(&(asked.store_id, item.key));
    }
    Ok(DeleteObjectResponse {}.encode_to_vec())
}

async fn list_key_versions(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let asked: ListKeyVersionsRequest = asked(&shared, &headers, &body)?;
    let prefix = asked.key_prefix.unwrap_or_default();
    let objects = shared.objects();
    let listed = objects
        .iter()
        .filter(|((store_id, key), _)| *store_id == asked.store_id && key.starts_with(&prefix));
    let key_versions = listed.map(|(_, object)| KeyValue {
        value: Vec::new(),
        ..object.clone()
    });
    Ok(ListKeyVersionsResponse {
        key_versions: key_versions.collect(),
        // All of them at once.
        next_page_token: Some(String::new()),
        global_version: None,
    }
    .encode_to_vec())
}
