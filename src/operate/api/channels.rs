//! Channels, for the operator.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::status::Channel;
use crate::node::{ChannelOpening, ForceCloseCost};

use super::{Admin, Fault};

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChannelsBody {
    channels: Vec<Channel>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenBody {
    /// With whom: `ID@HOST:PORT`, or `ID` for a known peer.
    peer: String,
    /// Its size, in sat, out of the on-chain wallet.
    amount_sat: u64,
    /// What the peer is given of it, in msat; so much can be received from the first day.
    #[serde(default)]
    push_msat: u64,
    /// Whether the network is told of it.
    #[serde(default)]
    announced: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForceCloseBody {
    /// The channel's id once more: who sends it has read what it costs.
    confirm: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SpliceInBody {
    /// What is added out of the on-chain wallet, in sat.
    amount_sat: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SpliceOutBody {
    /// Where to.
    address: String,
    /// How much, in sat.
    amount_sat: u64,
}

/// The channels that there are.
#[utoipa::path(get, path = "/channels", tag = "channels", responses((status = 200, body = ChannelsBody)))]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<ChannelsBody>, Fault> {
    let channels = admin.node.channels().await?;
    Ok(Json(ChannelsBody { channels }))
}

/// Opens a channel. 202: the peer was asked; `GET /channels` shows how far it is.
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
    admin.node.open_channel(opening).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Closes a channel in agreement with its peer. 202: the peer was asked.
#[utoipa::path(
    post, path = "/channels/{channel_id}/close", tag = "channels",
    params(("channel_id" = String, Path, description = "64 hex digits")), responses((status = 202))
)]
pub(super) async fn close(
    State(admin): State<Arc<Admin>>,
    Path(channel_id): Path<String>,
) -> Result<StatusCode, Fault> {
    admin.node.close_channel(&channel_id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// What closing this channel by force costs.
#[utoipa::path(
    get, path = "/channels/{channel_id}/force-close", tag = "channels",
    params(("channel_id" = String, Path, description = "64 hex digits")), responses((status = 200, body = ForceCloseCost))
)]
pub(super) async fn force_close_cost(
    State(admin): State<Arc<Admin>>,
    Path(channel_id): Path<String>,
) -> Result<Json<ForceCloseCost>, Fault> {
    Ok(Json(admin.node.force_close_cost(&channel_id).await?))
}

/// Closes a channel by force. It costs what `GET` of the same path says.
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
    admin.node.force_close_channel(&channel_id).await?;
    tracing::warn!("The operator closes channel {channel_id} by force");
    Ok(StatusCode::ACCEPTED)
}

/// Adds on-chain money to a channel. 202: the peer was asked.
#[utoipa::path(
    post, path = "/channels/{channel_id}/splice-in", tag = "channels",
    params(("channel_id" = String, Path, description = "64 hex digits")), request_body = SpliceInBody, responses((status = 202))
)]
pub(super) async fn splice_in(
    State(admin): State<Arc<Admin>>,
    Path(channel_id): Path<String>,
    Json(body): Json<SpliceInBody>,
) -> Result<StatusCode, Fault> {
    admin.node.splice_in(&channel_id, body.amount_sat).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Sends money of a channel to an on-chain address. 202: the peer was asked.
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
        .splice_out(&channel_id, address, amount_sat)
        .await?;
    tracing::info!("The operator takes {amount_sat} sat out of channel {channel_id}");
    Ok(StatusCode::ACCEPTED)
}
