//! Requests to read the settings again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use super::{Admin, Fault};

/// The number of requests that may wait for a reload to end. Each reload takes milliseconds.
const WAITING_MAX: usize = 8;

/// The result of a reload: the keys that changed and take effect only after a restart, or the error
/// in the settings. After an error the previous settings stay in force.
pub type Reloaded = Result<Vec<&'static str>, String>;

/// The effects that a reload has or would have.
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
    /// Whether all tokens were counted. In a large ledger only the newest sales are read.
    pub are_all_counted: bool,
}

/// A request to the task that reads the settings.
#[derive(Debug)]
pub enum Wish {
    /// Report what a reload would do, without changing anything.
    Look(oneshot::Sender<Result<Ahead, String>>),
    /// Reload the settings.
    Reload(oneshot::Sender<Reloaded>),
}

/// The sender of reload requests.
#[derive(Clone, Debug)]
pub struct Reload(mpsc::Sender<Wish>);

/// The requests, each with a channel for its answer.
pub type Reloads = mpsc::Receiver<Wish>;

impl Reload {
    /// Makes the two ends: one sends requests, the other receives them.
    pub fn channel() -> (Self, Reloads) {
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        (Self(ask), asked)
    }

    /// Requests a reload of the settings. `None` while the program is stopping.
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
