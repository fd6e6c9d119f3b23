//! Requests to reload the settings, and their answers.

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

/// The number of requests that may wait for a reload to end. Each reload takes milliseconds.
pub(super) const WAITING_MAX: usize = 8;

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
