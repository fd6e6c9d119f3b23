//! The health of a hook, for the log and for the operator.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tracing::Level;
use utoipa::ToSchema;

use crate::base::clock::Clock;
use crate::base::error_chain::chain;
use crate::base::sparing::Sparing;

use super::super::ask::said;
use super::config::{HookConfig, HookError};
use super::question::HookRequest;

/// The shortest time between two log lines about one hook.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The results of a hook's calls so far.
#[derive(Debug)]
pub(super) struct Health {
    asked: u64,
    failed: u64,
    /// The last failure, and its time in milliseconds since the machine started.
    last_failure: Option<(String, u64)>,
    /// Limits the log lines, because clients decide how often Tollhouse calls the hook.
    log: Arc<Sparing>,
    /// Whether the log's last message says that the hook fails.
    is_told_failing: bool,
}

/// The results of a hook's calls since the start, or since its settings changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HookStatus {
    /// The hook's name in the settings.
    pub name: String,
    /// The hook's URL, without the query.
    pub address: String,
    /// The number of calls to the hook, without the answers from the cache.
    pub asked: u64,
    /// The number of calls that gave no price.
    pub failed: u64,
    /// The reason for the last failure.
    pub last_failure: Option<String>,
    /// Seconds since the last failure.
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

    /// Counts the result of a call, and logs a failure or a recovery.
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
