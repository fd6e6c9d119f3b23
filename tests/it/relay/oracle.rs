//! A small Esplora API over a chain that it makes up, which fails as the test wants and counts what it is asked.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::Hash as _;
use bitcoin::{
    BlockHash, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode,
    TxOut, Witness, transaction,
};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use regtest::server::Server;
use tokio::time::{Instant, sleep_until};

/// What a transaction costs there.
pub(super) const FEES: &str = "{\"1\":12.5,\"6\":7.0}";

/// Nobody is there: port 1 is never given out by the system.
pub(super) const NOBODY: &str = "http://127.0.0.1:1";

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
    /// The height of its chain.
    height: AtomicU32,
    /// The paths that it was asked.
    paths: Mutex<Vec<String>>,
}

impl Oracle {
    /// One that knows the chain up to this height.
    pub(super) async fn start(height: u32) -> Self {
        let shared = Arc::new(Shared {
            manner: Mutex::new(Manner::Well),
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

/// The block at that height; its merkle root is nobody's.
pub(super) fn block(height: u32) -> Header {
    Header {
        version: Version::ONE,
        prev_blockhash: BlockHash::all_zeros(),
        merkle_root: TxMerkleNode::from_byte_array([7; 32]),
        time: height,
        bits: CompactTarget::from_consensus(0x207f_ffff),
        nonce: height,
    }
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
    match manner {
        Manner::Well => well(&path, height, sent),
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
            well(&path, height, sent)
        }
        Manner::FailsOnce => {
            *shared.manner.lock().unwrap() = Manner::Well;
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn well(path: &str, tip: u32, sent: Option<String>) -> Response {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let found = |hash: &str| (0..=tip).find(|at| block(*at).block_hash().to_string() == hash);
    let text = match parts.as_slice() {
        ["fee-estimates"] => FEES.to_owned(),
        ["blocks", "tip", "hash"] => block(tip).block_hash().to_string(),
        ["blocks", "tip", "height"] => tip.to_string(),
        ["block-height", at] => block(at.parse().unwrap()).block_hash().to_string(),
        ["block", hash, "header"] => match found(hash) {
            Some(at) => serialize_hex(&block(at)),
            None => return StatusCode::NOT_FOUND.into_response(),
        },
        ["block", hash, "status"] => match found(hash) {
            Some(at) => format!("{{\"in_best_chain\":true,\"height\":{at},\"next_best\":null}}"),
            None => "{\"in_best_chain\":false,\"next_best\":null}".to_owned(),
        },
        ["tx", _, "outspend", _] => "{\"spent\":false}".to_owned(),
        ["tx"] => sent.unwrap(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    text.into_response()
}
