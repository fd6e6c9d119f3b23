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

/// The effects of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ahead {
    /// Keys that changed and take effect only after a restart.
    pub restart_needed_for: Vec<&'static str>,
    /// The effects on tokens that were already sold.
    pub broken: Vec<Broken>,
}

/// Tokens that a reload would invalidate, all for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Broken {
    /// The service that the tokens were sold for.
    pub service: String,
    /// The reason, and how to avoid it.
    pub what: String,
    /// How many of these tokens are valid now.
    pub tokens: u64,
    /// Whether all tokens were counted; in a large ledger, only the newest sales are read.
    pub are_all_counted: bool,
}

/// A request to the task that reads the settings.
#[derive(Debug)]
pub enum Wish {
    /// Report what a reload would do.
    Look(oneshot::Sender<Result<Ahead, String>>),
    /// Reload.
    Reload(oneshot::Sender<Reloaded>),
}

/// Where to ask for a reload.
#[derive(Clone, Debug)]
pub struct Reload(mpsc::Sender<Wish>);

/// The requests, each with a channel for its answer.
pub type Reloads = mpsc::Receiver<Wish>;

impl Reload {
    /// Two ends: one to ask, one to do it.
    pub fn channel() -> (Self, Reloads) {
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        (Self(ask), asked)
    }

    /// Has the settings read again. `None` while the program is stopping.
    pub async fn ask(&self) -> Option<Reloaded> {
        let (tell, told) = oneshot::channel();
        self.0.send(Wish::Reload(tell)).await.ok()?;
        told.await.ok()
    }

    /// Requests a preview of a reload. `None` while the program is stopping.
    pub async fn look(&self) -> Option<Result<Ahead, String>> {
        let (tell, told) = oneshot::channel();
        self.0.send(Wish::Look(tell)).await.ok()?;
        told.await.ok()
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReloadBody {
    reloaded: bool,
    #[serde(flatten)]
    done: Ahead,
}

/// Report what a reload would do, without changing anything. 422 if the settings are wrong.
#[utoipa::path(
    get, path = "/reload", tag = "state",
    responses((status = 200, body = Ahead), (status = 422, description = "what is wrong with the settings"))
)]
pub(super) async fn look(State(admin): State<Arc<Admin>>) -> Result<Json<Ahead>, Fault> {
    let ahead = admin.reload.look().await.ok_or(Fault::Stopping)?;
    Ok(Json(ahead.map_err(Fault::Settings)?))
}

/// 200, or 422 with what is wrong with the settings: then nothing has changed.
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
