//! A backup on demand.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::backup::Created;

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
