//! A backup on demand, and what follows from one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::operate::backup::Created;

use super::{Admin, Fault};

/// Makes a backup in the configured folder, and says where it is.
#[utoipa::path(
    post, path = "/backup", tag = "backup",
    responses((status = 200, body = Created), (status = 409, description = "the node recovers from one"))
)]
pub(super) async fn create(State(admin): State<Arc<Admin>>) -> Result<Json<Created>, Fault> {
    let created = tokio::task::spawn_blocking(move || admin.backups.create()).await;
    Ok(Json(created.expect("making a backup does not panic")?))
}

/// Has a recovery go on without the old channels that are not closed, or whose closings are not found.
#[utoipa::path(
    post, path = "/recovery/leave", tag = "backup",
    responses((status = 202), (status = 409, description = "nothing is waited for"))
)]
pub(super) async fn leave(State(admin): State<Arc<Admin>>) -> Result<StatusCode, Fault> {
    if admin.node.leave_unclosed() {
        Ok(StatusCode::ACCEPTED)
    } else {
        Err(Fault::NotWaiting)
    }
}
