//! A small Esplora server over bitcoind's RPC, good for regtest: the calls that ldk-node makes, and those that a person
//! would buy. `shared/regtest.md` of the project has the table; Blockstream's `API.md` describes each call.
//!
//! Every answer is current: the index follows bitcoind before it looks anything up, so a test that has mined a block never
//! waits for this server.

mod follow;
mod index;
mod json;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use axum::extract::{Path as Param, Request, State};
use axum::http::header::DATE;
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bitcoin::consensus::encode::{deserialize_hex, serialize, serialize_hex};
use bitcoin::hashes::sha256;
use bitcoin::{BlockHash, OutPoint, Transaction, Txid};
use serde_json::json;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep_until};

use crate::bitcoind::Bitcoind;
use crate::port;
use crate::rpc::{Rpc, RpcError};
use crate::server::Server;
use follow::Follower;
use index::Index;

/// The largest broadcast body that is read before it is discarded. A standard transaction has up to 400,000 bytes,
/// which are 800,000 hex digits.
const BROADCAST_BYTES_MAX: usize = 1_000_000;

/// Blocks in the answer to `/blocks`.
const BLOCKS_PER_PAGE: u32 = 10;

/// The server; it can be stopped and started again at the same address, which is what an outage looks like to a node.
#[derive(Debug)]
pub struct Esplora {
    /// `None` while stopped.
    server: Option<Server>,
    address: SocketAddr,
    rpc_url: String,
    cookie: PathBuf,
    /// Requests since the first start.
    requests: Arc<AtomicU64>,
    /// The paths requested while recording is on. A `std` mutex: held for a push.
    recorded: Arc<Mutex<Option<Vec<String>>>>,
    /// How it answers. A std mutex: held to copy it, never across an await.
    manner: Arc<Mutex<Manner>>,
    /// What was broadcast through it since the first start.
    broadcast: Arc<Broadcast>,
}

/// How the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    #[default]
    Well,
    /// With this status; 429 says besides that one may come again in a second.
    Refuses(u16),
    /// With a page in HTML and status 200.
    Garbage,
    /// As it should, after this long.
    Slowly(Duration),
    /// As it should, by a clock that is ahead by this long.
    Ahead(Duration),
    /// As it should, except that it answers a broadcast with success and discards the transaction.
    Swallows,
    /// Not at all.
    Never,
}

/// Transactions in the order in which they were sent, without repetition. A std mutex: held for a look through a list that a
/// test keeps short.
type Broadcast = std::sync::Mutex<Vec<Txid>>;

/// What the handlers share.
#[derive(Debug)]
struct Shared {
    /// A tokio mutex: held while the index follows bitcoind, so that requests are answered one after the other.
    follower: tokio::sync::Mutex<Follower>,
    /// For what is passed on as it is.
    rpc: Rpc,
    /// What was broadcast.
    broadcast: Arc<Broadcast>,
}

/// A request that gets no answer.
#[derive(Debug)]
enum Refusal {
    /// There is no such thing.
    NotFound(&'static str),
    /// The request is malformed, or bitcoind refuses the transaction.
    BadRequest(String),
    /// bitcoind cannot be asked.
    Unavailable(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound(what) => (StatusCode::NOT_FOUND, what).into_response(),
            Self::BadRequest(why) => (StatusCode::BAD_REQUEST, why).into_response(),
            Self::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        }
    }
}

impl Esplora {
    /// Starts a server for that bitcoind on a free loopback port.
    ///
    /// # Errors
    /// When no port is free or the cookie cannot be read.
    pub fn start(bitcoind: &Bitcoind) -> Result<Self> {
        Self::start_for(bitcoind.rpc_url(), bitcoind.cookie())
    }

    /// Starts a server for the bitcoind with that RPC URL and cookie file.
    ///
    /// # Errors
    /// When no port is free or the cookie cannot be read.
    pub fn start_for(rpc_url: &str, cookie: &Path) -> Result<Self> {
        let mut esplora = Self {
            server: None,
            address: port::free()?,
            rpc_url: rpc_url.to_owned(),
            cookie: cookie.to_owned(),
            requests: Arc::default(),
            recorded: Arc::default(),
            manner: Arc::default(),
            broadcast: Arc::default(),
        };
        esplora.start_again()?;
        Ok(esplora)
    }

    /// The base URL, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests answered or refused since the first start.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Starts recording the requested paths, and returns those recorded so far.
    #[must_use]
    pub fn record_paths(&self) -> Vec<String> {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.replace(Vec::new()).unwrap_or_default()
    }

    /// From now on it answers like this.
    pub fn answers(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// The transactions that were broadcast through this server and that bitcoind took, in their order.
    #[must_use]
    pub fn broadcast(&self) -> Vec<Txid> {
        let broadcast = self.broadcast.lock();
        broadcast.unwrap_or_else(PoisonError::into_inner).clone()
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
            // A client of its own: connections belong to the runtime that made them, and the server has its own.
            let rpc = Rpc::open(&*self.rpc_url, &self.cookie)?;
            let shared = Arc::new(Shared {
                follower: tokio::sync::Mutex::new(Follower::new(rpc.clone())),
                rpc,
                broadcast: Arc::clone(&self.broadcast),
            });
            let manner = Arc::clone(&self.manner);
            let recorded = Arc::clone(&self.recorded);
            let app = app(shared, Arc::clone(&self.requests), recorded, manner);
            self.server = Some(Server::start("esplora", self.address, app)?);
        }
        Ok(())
    }
}

fn app(
    shared: Arc<Shared>,
    requests: Arc<AtomicU64>,
    recorded: Arc<Mutex<Option<Vec<String>>>>,
    manner: Arc<Mutex<Manner>>,
) -> Router {
    let count = move |request: Request, next: Next| {
        requests.fetch_add(1, Ordering::Relaxed);
        let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paths) = recorded.as_mut() {
            paths.push(request.uri().path().to_owned());
        }
        drop(recorded);
        let manner = *manner.lock().unwrap_or_else(PoisonError::into_inner);
        manner.answer(request, next)
    };
    Router::new()
        // No estimates: every node then uses its floor, and a chain with many transactions keeps its fees.
        .route("/fee-estimates", get(|| async { Json(json!({})) }))
        .route("/tx", post(broadcast))
        .route("/tx/{txid}", get(tx))
        .route("/tx/{txid}/raw", get(tx_raw))
        .route("/tx/{txid}/hex", get(tx_hex))
        .route("/tx/{txid}/status", get(tx_status))
        .route("/tx/{txid}/merkleblock-proof", get(tx_proof))
        .route("/tx/{txid}/outspend/{vout}", get(outspend))
        .route("/blocks", get(blocks))
        .route("/blocks/{height}", get(blocks_from))
        .route("/blocks/tip/hash", get(tip_hash))
        .route("/blocks/tip/height", get(tip_height))
        .route("/block-height/{height}", get(block_hash))
        .route("/block/{hash}", get(block))
        .route("/block/{hash}/header", get(block_header))
        .route("/block/{hash}/status", get(block_status))
        .route("/block/{hash}/txids", get(block_txids))
        .route("/scripthash/{hash}/txs", get(history))
        .route("/scripthash/{hash}/txs/chain/{last}", get(history_after))
        .layer(middleware::from_fn(count))
        .with_state(shared)
}

impl Manner {
    async fn answer(self, request: Request, next: Next) -> Response {
        match self {
            Self::Well => next.run(request).await,
            Self::Refuses(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                (status, [("retry-after", "1")], "on purpose").into_response()
            }
            Self::Garbage => {
                Html("<html><body>Welcome to this hotel's network</body></html>").into_response()
            }
            Self::Slowly(pause) => {
                sleep_until(Instant::now() + pause).await;
                next.run(request).await
            }
            Self::Ahead(by) => {
                let mut response = next.run(request).await;
                let date = httpdate::fmt_http_date(
                    UNIX_EPOCH + UNIX_EPOCH.elapsed().unwrap_or_default() + by,
                );
                if let Ok(date) = date.try_into() {
                    response.headers_mut().insert(DATE, date);
                }
                response
            }
            Self::Swallows if request.method() == Method::POST => swallow(request).await,
            Self::Swallows => next.run(request).await,
            Self::Never => std::future::pending().await,
        }
    }
}

/// Answers a broadcast with the transaction's id and discards the transaction.
async fn swallow(request: Request) -> Response {
    let body = axum::body::to_bytes(request.into_body(), BROADCAST_BYTES_MAX).await;
    let text = body
        .ok()
        .and_then(|body| String::from_utf8(body.to_vec()).ok());
    let tx = text.and_then(|text| deserialize_hex::<Transaction>(text.trim()).ok());
    match tx {
        Some(tx) => tx.compute_txid().to_string().into_response(),
        None => (StatusCode::BAD_REQUEST, "not a transaction").into_response(),
    }
}

type Answer<T> = Result<T, Refusal>;
type App = State<Arc<Shared>>;

impl Shared {
    /// The follower, with its index as bitcoind is now.
    async fn current(&self) -> Answer<MutexGuard<'_, Follower>> {
        let mut follower = self.follower.lock().await;
        follower
            .follow()
            .await
            .map_err(|error| Refusal::Unavailable(error.to_string()))?;
        Ok(follower)
    }
}

async fn broadcast(State(shared): App, body: String) -> Answer<String> {
    let sent = shared
        .rpc
        .call::<Txid>("sendrawtransaction", json!([body.trim()]))
        .await;
    let txid = sent.map_err(|error| match error {
        RpcError::Refused { code, message } => Refusal::BadRequest(format!(
            "sendrawtransaction RPC error: {}",
            json!({ "code": code, "message": message })
        )),
        RpcError::Unreachable(why) => Refusal::Unavailable(why),
    })?;
    let mut broadcast = shared
        .broadcast
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if !broadcast.contains(&txid) {
        broadcast.push(txid);
    }
    Ok(txid.to_string())
}

async fn tx(State(shared): App, Param(txid): Param<String>) -> Answer<Json<json::Tx>> {
    let (txid, follower) = (parse::<Txid>(&txid)?, shared.current().await?);
    json::tx(&follower.index, &txid)
        .map(Json)
        .ok_or(TX_NOT_FOUND)
}

async fn tx_raw(State(shared): App, Param(txid): Param<String>) -> Answer<Vec<u8>> {
    let (txid, follower) = (parse(&txid)?, shared.current().await?);
    follower.index.tx(&txid).map(serialize).ok_or(TX_NOT_FOUND)
}

async fn tx_hex(State(shared): App, Param(txid): Param<String>) -> Answer<String> {
    let (txid, follower) = (parse(&txid)?, shared.current().await?);
    follower
        .index
        .tx(&txid)
        .map(serialize_hex)
        .ok_or(TX_NOT_FOUND)
}

async fn tx_status(State(shared): App, Param(txid): Param<String>) -> Answer<Json<json::Status>> {
    let (txid, follower) = (parse(&txid)?, shared.current().await?);
    follower.index.tx(&txid).ok_or(TX_NOT_FOUND)?;
    Ok(Json(json::status(&follower.index, &txid)))
}

async fn tx_proof(State(shared): App, Param(txid): Param<String>) -> Answer<String> {
    let (txid, follower) = (parse(&txid)?, shared.current().await?);
    let proof = follower
        .index
        .proof(&txid)
        .ok_or(Refusal::NotFound("Transaction not found or is unconfirmed"))?;
    Ok(serialize_hex(&proof))
}

async fn outspend(
    State(shared): App,
    Param((txid, vout)): Param<(String, u32)>,
) -> Answer<Json<json::Outspend>> {
    let (txid, follower) = (parse(&txid)?, shared.current().await?);
    Ok(Json(json::outspend(
        &follower.index,
        &OutPoint { txid, vout },
    )))
}

async fn blocks(State(shared): App) -> Answer<Json<Vec<json::Block>>> {
    let follower = shared.current().await?;
    Ok(Json(page_of_blocks(
        &follower.index,
        follower.index.tip_height().unwrap_or_default(),
    )))
}

async fn blocks_from(
    State(shared): App,
    Param(height): Param<u32>,
) -> Answer<Json<Vec<json::Block>>> {
    Ok(Json(page_of_blocks(&shared.current().await?.index, height)))
}

async fn tip_hash(State(shared): App) -> Answer<String> {
    let follower = shared.current().await?;
    follower
        .index
        .tip()
        .map(|hash| hash.to_string())
        .ok_or(BLOCK_NOT_FOUND)
}

async fn tip_height(State(shared): App) -> Answer<String> {
    let follower = shared.current().await?;
    follower
        .index
        .tip_height()
        .map(|height| height.to_string())
        .ok_or(BLOCK_NOT_FOUND)
}

async fn block_hash(State(shared): App, Param(height): Param<u32>) -> Answer<String> {
    let follower = shared.current().await?;
    follower
        .index
        .block(height)
        .map(|block| block.hash.to_string())
        .ok_or(BLOCK_NOT_FOUND)
}

async fn block(State(shared): App, Param(hash): Param<String>) -> Answer<Json<json::Block>> {
    let (hash, follower) = (parse(&hash)?, shared.current().await?);
    let height = follower.index.height(&hash).ok_or(BLOCK_NOT_FOUND)?;
    json::block(&follower.index, height)
        .map(Json)
        .ok_or(BLOCK_NOT_FOUND)
}

async fn block_header(State(shared): App, Param(hash): Param<String>) -> Answer<String> {
    let (hash, follower) = (parse(&hash)?, shared.current().await?);
    follower
        .index
        .header(&hash)
        .map(serialize_hex)
        .ok_or(BLOCK_NOT_FOUND)
}

async fn block_status(
    State(shared): App,
    Param(hash): Param<String>,
) -> Answer<Json<json::BlockStatus>> {
    let (hash, follower) = (parse::<BlockHash>(&hash)?, shared.current().await?);
    Ok(Json(json::block_status(&follower.index, &hash)))
}

async fn block_txids(State(shared): App, Param(hash): Param<String>) -> Answer<Json<Vec<Txid>>> {
    let (hash, follower) = (parse(&hash)?, shared.current().await?);
    let block = follower
        .index
        .height(&hash)
        .and_then(|height| follower.index.block(height));
    block
        .map(|block| Json(block.txids.clone()))
        .ok_or(BLOCK_NOT_FOUND)
}

async fn history(State(shared): App, Param(hash): Param<String>) -> Answer<Json<Vec<json::Tx>>> {
    let (hash, follower) = (parse::<sha256::Hash>(&hash)?, shared.current().await?);
    Ok(Json(txs(&follower.index, &follower.index.history(&hash))))
}

async fn history_after(
    State(shared): App,
    Param((hash, last)): Param<(String, String)>,
) -> Answer<Json<Vec<json::Tx>>> {
    let (hash, last): (sha256::Hash, Txid) = (parse(&hash)?, parse(&last)?);
    let follower = shared.current().await?;
    Ok(Json(txs(
        &follower.index,
        &follower.index.history_after(&hash, &last),
    )))
}

const TX_NOT_FOUND: Refusal = Refusal::NotFound("Transaction not found");
const BLOCK_NOT_FOUND: Refusal = Refusal::NotFound("Block not found");

fn parse<T: std::str::FromStr>(hash: &str) -> Answer<T>
where
    T::Err: std::fmt::Display,
{
    hash.parse()
        .map_err(|error| Refusal::BadRequest(format!("Invalid hash: {error}")))
}

fn txs(index: &Index, txids: &[Txid]) -> Vec<json::Tx> {
    txids
        .iter()
        .filter_map(|txid| json::tx(index, txid))
        .collect()
}

/// The block at that height and up to nine below it, newest first.
fn page_of_blocks(index: &Index, height: u32) -> Vec<json::Block> {
    let top = height.min(index.tip_height().unwrap_or_default());
    let bottom = (top + 1).saturating_sub(BLOCKS_PER_PAGE);
    (bottom..=top)
        .rev()
        .filter_map(|height| json::block(index, height))
        .collect()
}
