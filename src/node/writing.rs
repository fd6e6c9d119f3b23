//! The parts that observe and permit writes of the node's state.

use std::sync::Arc;

use tokio::sync::watch;

use crate::account::ledger::Claims;
use crate::base::clock::Clock;
use crate::channel_state::kv_store;
use crate::channel_state::vss::{Lost, Pass};

use super::config::Config;

/// The parts that observe and permit writes of the node's state.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    /// Receives the error if the state cannot be written to the disk.
    pub(super) unwritable: kv_store::Complaint,
    /// Receives the report that LDK has given up.
    pub(super) lost: watch::Sender<Lost>,
    /// Receives the payments that the node claims.
    pub(super) claims: Arc<Claims>,
    /// The right to write to a server; `None` if the state is in the node's folder.
    pub(super) pass: Option<Arc<Pass>>,
}

impl Writing {
    pub(super) fn new(config: &Config, clock: &Clock) -> Self {
        let vss = config.vss.as_ref();
        Self {
            unwritable: kv_store::Complaint::default(),
            lost: watch::channel(Lost::default()).0,
            claims: Arc::default(),
            pass: vss.map(|vss| Arc::new(Pass::of(vss, clock.clone()))),
        }
    }
}
