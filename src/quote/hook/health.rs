//! How a hook does: what the log is told of it, and what the operator sees.

use serde::Serialize;
use utoipa::ToSchema;

use crate::causes::chain;

use super::super::ask::said;
use super::{HookConfig, HookError, HookRequest};

/// Time between two lines of the log about one hook: how often it is asked is up to whoever sends requests.
const TELL_EVERY_MS: u64 = 10_000;

/// How a hook has done so far.
#[derive(Debug, Default)]
pub(super) struct Health {
    asked: u64,
    failed: u64,
    /// The last failure and when it was, in milliseconds since the machine was started.
    last_failure: Option<(String, u64)>,
    /// When the log was told last, in milliseconds since the machine was started.
    told_ms: Option<u64>,
    /// Failures since then.
    held_back: u64,
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
    /// Counts what came of a question, and tells the log what is news to it.
    pub(super) fn hear(
        &mut self,
        config: &HookConfig,
        request: &HookRequest<'_>,
        error: Option<&HookError>,
        now_ms: u64,
    ) {
        self.asked += 1;
        // A clock that has gone back keeps nothing back.
        let last_ms = self.told_ms.and_then(|told_ms| now_ms.checked_sub(told_ms));
        let is_time = last_ms.is_none_or(|last_ms| last_ms >= TELL_EVERY_MS);
        let HookConfig { name, address, .. } = config;
        let Some(error) = error else {
            if self.is_told_failing && is_time {
                tracing::info!("The price hook {name} at {address} gives prices again");
                self.is_told_failing = false;
            }
            return;
        };
        let why = chain(error);
        self.failed += 1;
        if is_time {
            let held_back = match std::mem::take(&mut self.held_back) {
                0 => String::new(),
                count => format!(" (and {count} more that this log was spared)"),
            };
            tracing::warn!(
                "The price hook {name} at {address} gave no price for {} {}: {why}{held_back}",
                request.method,
                said(request.path.as_bytes())
            );
            self.told_ms = Some(now_ms);
            self.is_told_failing = true;
        } else {
            self.held_back += 1;
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
