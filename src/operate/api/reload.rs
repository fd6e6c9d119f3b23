//! Requests to read the settings again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::admin::Admin;
use super::fault::Fault;
use super::reloading::Ahead;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReloadBody {
    reloaded: bool,
    #[serde(flatten)]
    done: Ahead,
}

/// Reports what a reload would do, without changing anything. 422 if the settings are wrong.
#[utoipa::path(
    get, path = "/reload", tag = "state",
    responses((status = 200, body = Ahead), (status = 422, description = "what is wrong with the settings"))
)]
pub(super) async fn look(State(admin): State<Arc<Admin>>) -> Result<Json<Ahead>, Fault> {
    let ahead = admin.reload.look().await.ok_or(Fault::Stopping)?;
    Ok(Json(ahead.map_err(Fault::Settings)?))
}

/// Reads the settings again. 422 if they are wrong, and then the previous settings stay in force.
#[utoipa::path(
    post, path = "/reload", tag = "state",
    responses((status = 200, body = ReloadBody), (status = 422, description = "what is wrong with the settings"))
)]
pub(super) async fn reload(State(admin): State<Arc<Admin>>) -> Result<Json<ReloadBody>, Fault> {
    let ahead = admin.reload.look().await.ok_or(Fault::Stopping)?;
    let broken = ahead.map(|ahead| ahead.broken).unwrap_or_default();
    let reloaded = admin.reload.ask().await.ok_or(Fault::Stopping)?;
    let restart_needed_for = reloaded.map_err(Fault::Settings)?;
    Ok(Json(ReloadBody {
        reloaded: true,
        done: Ahead {
            restart_needed_for,
            broken,
        },
    }))
}
