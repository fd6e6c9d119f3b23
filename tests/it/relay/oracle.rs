//! A small Esplora API over a chain that it makes up, which fails as the test wants and counts what it is asked.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::constants::genesis_block;
use bitcoin::hashes::Hash as _;
use bitcoin::{
    CompactTarget, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode, TxOut,
    Witness, transaction,
};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use regtest::server::Server;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

/// What a transaction costs there.
pub(super) const FEES: &str = "{\"1\":12.5,\"6\":7.0}";

/// Nobody is there: port 1 is never given out by the system.
pub(super) const NOBODY: &str = "http://127.0.0.1:1";

/// Blocks that are made up besides the first one.
const HEIGHT_MAX: u32 = 600;

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    /// As it should.
    Well,
    /// With this status, and when one may come again.
    Refuses(u16, Option<u32>),
    /// 200 with this body.
    Says(&'static str),
    /// 200 and a body that never ends.
    Floods,
    /// A body that breaks off.
    BreaksOff,
    /// Not at all.
    Never,
    /// As it should, after this long.
    Slowly(Duration),
    /// 500, and from then on as it should.
    FailsOnce,
}

/// A server; it stops when it is dropped.
#[derive(Debug)]
pub(super) struct Oracle {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<Manner>,
    /// Its chain, also beyond what it knows of it.
    chain: Vec<Header>,
    /// The height of its chain.
    height: AtomicU32,
    /// The paths that it was asked.
    paths: Mutex<Vec<String>>,
}

impl Oracle {
    /// One that knows the chain up to this height.
    pub(super) async fn start(height: u32) -> Self {
        Self::of(chain(None), height).await
    }

    /// One whose chain leaves the usual one at that height; from 0 on, it is of another network.
    pub(super) async fn start_elsewhere(leaves_at: u32, height: u32) -> Self {
        Self::of(chain(Some(leaves_at)), height).await
    }

    async fn of(chain: Vec<Header>, height: u32) -> Self {
        let shared = Arc::new(Shared {
            manner: Mutex::new(Manner::Well),
            chain,
            height: AtomicU32::new(height),
            paths: Mutex::default(),
        });
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let server = Server::start("oracle", "127.0.0.1:0".parse().unwrap(), app).unwrap();
        Self { server, shared }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    pub(super) fn now(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    pub(super) fn is_at(&self, height: u32) {
        self.shared.height.store(height, Ordering::Relaxed);
    }

    /// What it was asked.
    pub(super) fn paths(&self) -> Vec<String> {
        self.shared.paths.lock().unwrap().clone()
    }

    /// How often it was asked.
    pub(super) fn count(&self) -> usize {
        self.shared.paths.lock().unwrap().len()
    }
}

/// The usual block at that height.
pub(super) fn block(height: u32) -> Header {
    static USUAL: OnceLock<Vec<Header>> = OnceLock::new();
    USUAL.get_or_init(|| chain(None))[height as usize]
}

/// The usual chain, or one that leaves it at a height. The merkle roots are nobody's.
fn chain(leaves_at: Option<u32>) -> Vec<Header> {
    let network = match leaves_at {
        Some(0) => Network::Testnet,
        Some(_) | None => Network::Regtest,
    };
    let mut chain = vec![genesis_block(network).header];
    for height in 1..=HEIGHT_MAX {
        let is_left = leaves_at.is_some_and(|leaves_at| height >= leaves_at);
        chain.push(Header {
            version: if is_left { Version::TWO } else { Version::ONE },
            prev_blockhash: chain[height as usize - 1].block_hash(),
            merkle_root: TxMerkleNode::from_byte_array([7; 32]),
            time: height,
            bits: CompactTarget::from_consensus(0x207f_ffff),
            nonce: height,
        });
    }
    chain
}

/// A transaction, in hexadecimal.
pub(super) fn transaction(number: u32) -> String {
    serialize_hex(&Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint {
                txid: bitcoin::Txid::from_byte_array([9; 32]),
                vout: number,
            },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::new(),
        }],
        output: vec![TxOut {
            value: bitcoin::Amount::from_sat(1_000),
            script_pubkey: ScriptBuf::new(),
        }],
    })
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    shared.paths.lock().unwrap().push(path.clone());
    let sent = axum::body::to_bytes(request.into_body(), 1_000)
        .await
        .unwrap();
    let sent: Option<Transaction> = deserialize_hex(&String::from_utf8_lossy(&sent)).ok();
    let sent = sent.map(|tx| tx.compute_txid().to_string());
    let height = shared.height.load(Ordering::Relaxed);
    let manner = *shared.manner.lock().unwrap();
    let well = |path: &str| well(path, height, &shared.chain, sent);
    match manner {
        Manner::Well => well(&path),
        Manner::Refuses(status, after) => {
            let status = StatusCode::from_u16(status).unwrap();
            let mut response = (status, "on purpose").into_response();
            if let Some(after) = after {
                response.headers_mut().insert("retry-after", after.into());
            }
            response
        }
        Manner::Says(text) => text.into_response(),
        Manner::Floods => {
            let chunk = || Ok::<_, Infallible>(Bytes::from_static(&[b'1'; 65_536]));
            Body::from_stream(stream::repeat_with(chunk)).into_response()
        }
        Manner::BreaksOff => {
            let parts = [Ok(Bytes::from_static(b"1000")), Err("broken on purpose")];
            Body::from_stream(stream::iter(parts)).into_response()
        }
        Manner::Never => std::future::pending().await,
        Manner::Slowly(pause) => {
            sleep_until(Instant::now() + pause).await;
            well(&path)
        }
        Manner::FailsOnce => {
            *shared.manner.lock().unwrap() = Manner::Well;
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn well(path: &str, tip: u32, chain: &[Header], sent: Option<String>) -> Response {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let hash_at = |at: u32| chain[at as usize].block_hash().to_string();
    let found = |hash: &str| (0..=tip).find(|at| hash_at(*at) == hash);
    let text = match parts.as_slice() {
        ["fee-estimates"] => FEES.to_owned(),
        ["blocks"] => {
            let newest = (tip.saturating_sub(9)..=tip).rev();
            Value::from_iter(newest.map(|at| shown(at, &chain[at as usize]))).to_string()
        }
        ["blocks", "tip", "hash"] => hash_at(tip),
        ["blocks", "tip", "height"] => tip.to_string(),
        ["block-height", at] => match at.parse().unwrap() {
            at if at <= tip => hash_at(at),
            _ => return StatusCode::NOT_FOUND.into_response(),
        },
        ["block", hash, "header"] => match found(hash) {
            Some(at) => serialize_hex(&chain[at as usize]),
            None => return StatusCode::NOT_FOUND.into_response(),
        },
        ["block", hash, "status"] => match found(hash) {
            Some(at) => format!("{{\"in_best_chain\":true,\"height\":{at},\"next_best\":null}}"),
            None => "{\"in_best_chain\":false,\"next_best\":null}".to_owned(),
        },
        ["tx", _, "outspend", _] => "{\"spent\":false}".to_owned(),
        ["scripthash", _, "txs"] => "[]".to_owned(),
        ["tx"] => sent.unwrap(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    text.into_response()
}

/// A block as `/blocks` shows it.
fn shown(height: u32, header: &Header) -> Value {
    json!({
        "id": header.block_hash(),
        "height": height,
        "version": header.version.to_consensus(),
        "timestamp": header.time,
        "tx_count": 1,
        "size": 285,
        "weight": 1_140,
        "merkle_root": header.merkle_root,
        "previousblockhash": header.prev_blockhash,
        "mediantime": header.time,
        "nonce": header.nonce,
        "bits": header.bits.to_consensus(),
        "difficulty": 0.0,
    })
}
