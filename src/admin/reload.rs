//! Asking for the settings to be read again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use super::{Admin, Fault};

/// How many may wait for one reload to end before the next; each takes milliseconds.
const WAITING_MAX: usize = 8;

/// What a reload did: the settings' keys that changed and take effect only after a restart; or what is wrong with them, and
/// then nothing has changed.
pub type Reloaded = Result<Vec<&'static str>, String>;

/// Where to ask for a reload.
#[derive(Clone, Debug)]
pub struct Reload(mpsc::Sender<oneshot::Sender<Reloaded>>);

/// Those who ask, each with where to tell what came of it.
pub type Reloads = mpsc::Receiver<oneshot::Sender<Reloaded>>;

impl Reload {
    /// Two ends: one to ask, one to do it.
    pub fn channel() -> (Self, Reloads) {
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        (Self(ask), asked)
    }

    /// Has the settings read again. `None` while the program is stopping.
    pub async fn ask(&self) -> Option<Reloaded> {
        let (tell, told) = oneshot::channel();
        self.0.send(tell).await.ok()?;
        told.await.ok()
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReloadBody {
    reloaded: bool,
    /// Keys that changed and take effect only after a restart.
    restart_needed_for: Vec<&'static str>,
}

/// 200, or 422 with what is wrong with the settings: then nothing has changed.
#[utoipa::path(
    post, path = "/reload", tag = "state",
    responses((status = 200, body = ReloadBody), (status = 422, description = "what is wrong with the settings"))
)]
pub(super) async fn reload(State(admin): State<Arc<Admin>>) -> Result<Json<ReloadBody>, Fault> {
    let reloaded = admin.reload.ask().await.ok_or(Fault::Stopping)?;
    Ok(Json(ReloadBody {
        reloaded: true,
        restart_needed_for: reloaded.map_err(Fault::Settings)?,
    }))
}
