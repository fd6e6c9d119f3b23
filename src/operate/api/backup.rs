//! Backups on demand, and the end of a recovery's wait for old channels.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::operate::backup::Created;

use super::admin::Admin;
use super::fault::Fault;

/// Makes a backup in the configured folder, and returns its path.
#[utoipa::path(
    post, path = "/backup", tag = "backup",
    responses((status = 200, body = Created), (status = 409, description = "the node recovers from one"))
)]
pub(super) async fn create(State(admin): State<Arc<Admin>>) -> Result<Json<Created>, Fault> {
    let created = tokio::task::spawn_blocking(move || admin.backups.create()).await;
    Ok(Json(created.expect("making a backup does not panic")?))
}

/// Continues a recovery without the old channels whose closing was not found on the chain.
///
/// This includes channels that are not closed at all.
#[utoipa::path(
    post, path = "/recovery/leave", tag = "backup",
    responses((status = 202), (status = 409, description = "nothing is waited for"))
)]
pub(super) async fn leave(State(admin): State<Arc<Admin>>) -> Result<StatusCode, Fault> {
    if admin.node.recovery().leave_unclosed() {
        Ok(StatusCode::ACCEPTED)
    } else {
        Err(Fault::NotWaiting)
    }
}
