//! The payer's HTTP API, for customers that are no Rust programs: `POST /pay` with an invoice as the body, `POST /mine` with
//! a number of blocks.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use bitcoin::Address;
use serde::Serialize;

use crate::admin::Admin;
use crate::bitcoind;
use crate::payer::{PayError, Payer};
use crate::port;
use crate::rpc::Rpc;
use crate::server::Server;

/// An invoice has some 300 bytes; one with every field filled some 2,000.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// More blocks in one call would exceed the RPC's timeout.
const BLOCKS_MAX: u32 = 1_000;

/// A running API; dropping it stops it.
#[derive(Debug)]
pub(crate) struct PayerApi {
    server: Server,
}

/// Whom the API acts for.
#[derive(Clone, Debug)]
pub(crate) struct Parties {
    /// The node that pays.
    pub(crate) payer: Arc<Payer>,
    /// The chain that is mined.
    pub(crate) rpc: Rpc,
    /// Whom the blocks pay.
    pub(crate) mining_address: Address,
    /// The other node that has to learn of new blocks.
    pub(crate) merchant: Admin,
}

/// The answer to `POST /pay`.
#[derive(Debug, Serialize)]
struct Payment {
    preimage: String,
    fee_msat: u64,
    ms: u128,
}

/// The answer to `POST /mine`.
#[derive(Debug, Serialize)]
struct Mined {
    blocks: Vec<bitcoin::BlockHash>,
}

impl PayerApi {
    /// Serves on a free loopback port.
    pub(crate) fn start(parties: Parties) -> Result<Self> {
        let app = Router::new()
            .route("/pay", post(pay))
            .route("/mine", post(mine))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(Arc::new(parties));
        Ok(Self {
            server: Server::start("payer-api", port::free()?, app)
                .context("failed to start the payer's API")?,
        })
    }

    /// The base URL, without a trailing slash.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Closes the port.
    pub(crate) fn stop(&mut self) {
        self.server.stop();
    }
}

async fn pay(
    State(parties): State<Arc<Parties>>,
    bolt11: String,
) -> Result<Json<Payment>, (StatusCode, String)> {
    match parties.payer.pay(&bolt11).await {
        Ok(paid) => Ok(Json(Payment {
            preimage: paid.preimage_hex(),
            fee_msat: paid.fee_msat,
            ms: paid.took.as_millis(),
        })),
        Err(error) => {
            let status = match error {
                PayError::Invoice(_) => StatusCode::BAD_REQUEST,
                PayError::Refused(_) => StatusCode::CONFLICT,
                PayError::Failed(_) => StatusCode::BAD_GATEWAY,
                PayError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            };
            Err((status, error.to_string()))
        }
    }
}

async fn mine(
    State(parties): State<Arc<Parties>>,
    body: String,
) -> Result<Json<Mined>, (StatusCode, String)> {
    let blocks = body
        .trim()
        .parse()
        .ok()
        .filter(|blocks| (1..=BLOCKS_MAX).contains(blocks));
    let refusal = || {
        (
            StatusCode::BAD_REQUEST,
            format!("the body is no number from 1 to {BLOCKS_MAX}"),
        )
    };
    let blocks = blocks.ok_or_else(refusal)?;
    let blocks = bitcoind::mine(&parties.rpc, &parties.mining_address, blocks)
        .await
        .map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    parties.sync().await;
    Ok(Json(Mined { blocks }))
}

impl Parties {
    /// Has both nodes learn of new blocks, as far as they can: the merchant may be down, and the blocks are mined anyway.
    async fn sync(&self) {
        let (payer, merchant) = tokio::join!(self.payer.sync(), self.merchant.sync());
        for (name, result) in [("payer", payer), ("merchant", merchant)] {
            if let Err(error) = result {
                tracing::warn!("The {name} did not learn of the new blocks: {error:#}");
            }
        }
    }
}
