//! How a hook does: what the log is told of it, and what the operator sees.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tracing::Level;
use utoipa::ToSchema;

use crate::base::clock::Clock;
use crate::base::error_chain::chain;
use crate::base::sparing::Sparing;

use super::super::ask::said;
use super::{HookConfig, HookError, HookRequest};

/// The shortest time between two log lines about one hook.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How a hook has done so far.
#[derive(Debug)]
pub(super) struct Health {
    asked: u64,
    failed: u64,
    /// The last failure, and when it was, in milliseconds since the machine started.
    last_failure: Option<(String, u64)>,
    /// Limits the log lines, because clients decide how often Tollhouse calls the hook.
    log: Arc<Sparing>,
    /// Whether the log thinks that it fails.
    is_told_failing: bool,
}

/// How a hook has done since the start, or since its settings changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HookStatus {
    /// Its name in the settings.
    pub name: String,
    /// Its URL, without the query.
    pub address: String,
    /// How often it was asked; what was still known is not among them.
    pub asked: u64,
    /// How often it gave no price.
    pub failed: u64,
    /// Why it gave none when that was so last.
    pub last_failure: Option<String>,
    /// How long ago that was.
    pub last_failure_age_secs: Option<u64>,
}

impl Health {
    /// The health of a hook before its first call.
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            asked: 0,
            failed: 0,
            last_failure: None,
            log: Sparing::with(clock, 1, TELL_EVERY),
            is_told_failing: false,
        }
    }

    /// Counts what came of a question, and tells the log what is news to it.
    pub(super) fn hear(
        &mut self,
        config: &HookConfig,
        request: &HookRequest<'_>,
        error: Option<&HookError>,
        now_ms: u64,
    ) {
        self.asked += 1;
        let HookConfig { name, address, .. } = config;
        let Some(error) = error else {
            let kind = "A price hook gives prices again";
            if self.is_told_failing && self.log.may(Level::INFO, kind, name) {
                tracing::info!("The price hook {name} at {address} gives prices again");
                self.is_told_failing = false;
            }
            return;
        };
        let why = chain(error);
        self.failed += 1;
        let kind = "A price hook gave no price";
        if let Some(count) = self.log.count(Level::WARN, kind, name) {
            let held_back = match count {
                0 => String::new(),
                count => format!(" (and {count} more that this log was spared)"),
            };
            tracing::warn!(
                "The price hook {name} at {address} gave no price for {} {}: {why}{held_back}",
                request.method,
                said(request.path.as_bytes())
            );
            self.is_told_failing = true;
        }
        self.last_failure = Some((why, now_ms));
    }

    pub(super) fn status(&self, config: &HookConfig, now_ms: u64) -> HookStatus {
        let last = self.last_failure.as_ref();
        HookStatus {
            name: config.name.to_string(),
            address: config.address.to_string(),
            asked: self.asked,
            failed: self.failed,
            last_failure: last.map(|(why, _)| why.clone()),
            last_failure_age_secs: last.map(|(_, at_ms)| now_ms.saturating_sub(*at_ms) / 1_000),
        }
    }
}
