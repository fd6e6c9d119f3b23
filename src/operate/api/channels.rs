//! The operator's endpoints for channels.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::Channel;
use crate::node::{ChannelOpening, ForceCloseCost};

use super::admin::Admin;
use super::fault::Fault;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChannelsBody {
    channels: Vec<Channel>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenBody {
    /// The peer: `ID@HOST:PORT`, or `ID` for a known peer.
    peer: String,
    /// The size of the channel in sat, paid from the on-chain wallet.
    amount_sat: u64,
    /// The part of it that is given to the peer, in msat. The node can receive this amount as soon
    /// as the channel is usable.
    #[serde(default)]
    push_msat: u64,
    /// Whether to announce the channel to the network.
    #[serde(default)]
    announced: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForceCloseBody {
    /// The channel's id again, as a confirmation that the caller knows the cost.
    confirm: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SpliceInBody {
    /// The amount to add from the on-chain wallet, in sat.
    amount_sat: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SpliceOutBody {
    /// The on-chain address to send to.
    address: String,
    /// The amount in sat.
    amount_sat: u64,
}

/// Lists the channels.
#[utoipa::path(get, path = "/channels", tag = "channels", responses((status = 200, body = ChannelsBody)))]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<ChannelsBody>, Fault> {
    let channels = admin.node.channels().list().await?;
    Ok(Json(ChannelsBody { channels }))
}

/// Opens a channel.
///
/// The answer 202 means that the peer was asked. `GET /channels` shows the progress.
#[utoipa::path(
    post, path = "/channels", tag = "channels", request_body = OpenBody,
    responses((status = 202), (status = 409, description = "more than can be spent"), (status = 504, description = "the peer is not there"))
)]
pub(super) async fn open(
    State(admin): State<Arc<Admin>>,
    Json(body): Json<OpenBody>,
) -> Result<StatusCode, Fault> {
    let opening = ChannelOpening {
        peer: body.peer.parse()?,
        amount_sat: body.amount_sat,
        push_msat: body.push_msat,
        is_announced: body.announced,
    };
    admin.node.channels().open(opening).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Closes a channel in agreement with its peer. The answer 202 means that the peer was asked.
#[utoipa::path(
    post, path = "/channels/{channel_id}/close", tag = "channels",
    params(("channel_id" = String, Path, description = "64 hex digits")), responses((status = 202))
)]
pub(super) async fn close(
    State(admin): State<Arc<Admin>>,
    Path(channel_id): Path<String>,
) -> Result<StatusCode, Fault> {
    admin.node.channels().close(&channel_id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Shows the cost of closing this channel by force.
#[utoipa::path(
    get, path = "/channels/{channel_id}/force-close", tag = "channels",
    params(("channel_id" = String, Path, description = "64 hex digits")), responses((status = 200, body = ForceCloseCost))
)]
pub(super) async fn force_close_cost(
    State(admin): State<Arc<Admin>>,
    Path(channel_id): Path<String>,
) -> Result<Json<ForceCloseCost>, Fault> {
    Ok(Json(
        admin.node.channels().force_close_cost(&channel_id).await?,
    ))
}

/// Closes a channel by force. `GET` on the same path shows the cost.
#[utoipa::path(
    post, path = "/channels/{channel_id}/force-close", tag = "channels",
    params(("channel_id" = String, Path, description = "64 hex digits")), request_body = ForceCloseBody,
    responses((status = 202), (status = 400, description = "not confirmed"))
)]
pub(super) async fn force_close(
    State(admin): State<Arc<Admin>>,
    Path(channel_id): Path<String>,
    Json(body): Json<ForceCloseBody>,
) -> Result<StatusCode, Fault> {
    if body.confirm != channel_id {
        return Err(Fault::Asked(
            "`confirm` has to be the channel's id: GET of this path says what closing it by force costs",
        ));
    }
    admin.node.channels().force_close(&channel_id).await?;
    tracing::warn!("The operator closes channel {channel_id} by force");
    Ok(StatusCode::ACCEPTED)
}

/// Adds on-chain money to a channel. The answer 202 means that the peer was asked.
#[utoipa::path(
    post, path = "/channels/{channel_id}/splice-in", tag = "channels",
    params(("channel_id" = String, Path, description = "64 hex digits")), request_body = SpliceInBody, responses((status = 202))
)]
pub(super) async fn splice_in(
    State(admin): State<Arc<Admin>>,
    Path(channel_id): Path<String>,
    Json(body): Json<SpliceInBody>,
) -> Result<StatusCode, Fault> {
    admin
        .node
        .channels()
        .splice_in(&channel_id, body.amount_sat)
        .await?;
    Ok(StatusCode::ACCEPTED)
}

/// Sends money from a channel to an on-chain address. 202: the peer was asked.
#[utoipa::path(
    post, path = "/channels/{channel_id}/splice-out", tag = "channels",
    params(("channel_id" = String, Path, description = "64 hex digits")), request_body = SpliceOutBody, responses((status = 202))
)]
pub(super) async fn splice_out(
    State(admin): State<Arc<Admin>>,
    Path(channel_id): Path<String>,
    Json(body): Json<SpliceOutBody>,
) -> Result<StatusCode, Fault> {
    let (address, amount_sat) = (&body.address, body.amount_sat);
    admin
        .node
        .channels()
        .splice_out(&channel_id, address, amount_sat)
        .await?;
    tracing::info!("The operator takes {amount_sat} sat out of channel {channel_id}");
    Ok(StatusCode::ACCEPTED)
}
