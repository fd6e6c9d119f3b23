//! The operator's endpoints for peers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::Peer;

use super::admin::Admin;
use super::fault::Fault;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PeersBody {
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectBody {
    /// The peer: `ID@HOST:PORT`, or `ID` for a known peer.
    peer: String,
    /// Whether to reconnect after each start. The node always reconnects to peers with a channel.
    #[serde(default)]
    keep: bool,
}

/// Lists the node's peers.
#[utoipa::path(get, path = "/peers", tag = "peers", responses((status = 200, body = PeersBody)))]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<PeersBody>, Fault> {
    let peers = admin.node.peers().list().await?;
    Ok(Json(PeersBody { peers }))
}

/// Connects to a peer.
#[utoipa::path(
    post, path = "/peers", tag = "peers", request_body = ConnectBody,
    responses((status = 204), (status = 504, description = "it is not there"))
)]
pub(super) async fn connect(
    State(admin): State<Arc<Admin>>,
    Json(body): Json<ConnectBody>,
) -> Result<StatusCode, Fault> {
    admin
        .node
        .peers()
        .connect(body.peer.parse()?, body.keep)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Disconnects from a peer and forgets its address.
#[utoipa::path(
    delete, path = "/peers/{node_id}", tag = "peers",
    params(("node_id" = String, Path, description = "66 hex digits")), responses((status = 204))
)]
pub(super) async fn disconnect(
    State(admin): State<Arc<Admin>>,
    Path(node_id): Path<String>,
) -> Result<StatusCode, Fault> {
    admin.node.peers().disconnect(&node_id).await?;
    Ok(StatusCode::NO_CONTENT)
}
