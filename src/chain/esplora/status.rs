//! What the operator is told of the endpoints.

use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::Relay;

/// All endpoints.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RelayStatus {
    /// Since when none of them answers, Unix seconds; nothing while one does.
    pub degraded_since_secs: Option<u64>,
    /// The height of the newest block that was seen.
    pub height: u32,
    /// When fee estimates were last heard, Unix seconds; nothing if built-in ones are used.
    pub fees_heard_secs: Option<u64>,
    /// Requests sent since the start.
    pub requests: u64,
    /// Each of them.
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndpointStatus {
    /// Its base URL.
    pub url: String,
    /// Whether the chain is read from it.
    pub is_in_use: bool,
    /// Requests within the last hour.
    pub requests_last_hour: usize,
    /// What is left of its budget.
    pub budget_left: usize,
    /// When it last gave a good answer, Unix seconds.
    pub last_success_secs: Option<u64>,
    /// What was last wrong with it.
    pub last_complaint: Option<String>,
    /// When that was, Unix seconds.
    pub last_complaint_secs: Option<u64>,
    /// Until when it is left alone, Unix seconds.
    pub paused_until_secs: Option<u64>,
    /// The height of its newest block when it was last asked.
    pub height: Option<u32>,
}

impl Relay {
    /// What the endpoints do now.
    pub fn status(&self) -> RelayStatus {
        let (now, now_secs) = (Instant::now(), self.clock.unix_secs());
        let current = self.current();
        let endpoints = self.endpoints.iter().enumerate().map(|(index, endpoint)| {
            let (requests_last_hour, budget_left) = endpoint.spending(now);
            let state = endpoint.state();
            let paused = state
                .until
                .and_then(|until| until.checked_duration_since(now))
                .filter(|pause| !pause.is_zero());
            EndpointStatus {
                url: endpoint.base.clone(),
                is_in_use: index == current,
                requests_last_hour,
                budget_left,
                last_success_secs: state.success_secs,
                last_complaint: state.complaint.as_ref().map(|(text, _)| text.clone()),
                last_complaint_secs: state.complaint.as_ref().map(|(_, secs)| *secs),
                paused_until_secs: paused.map(|pause| now_secs + pause.as_secs().max(1)),
                height: state.height.map(|(height, _)| height),
            }
        });
        let endpoints = endpoints.collect();
        let degraded_secs = self.degraded_secs.load(Ordering::Relaxed);
        RelayStatus {
            degraded_since_secs: (degraded_secs != 0).then_some(degraded_secs),
            height: self.tip().height(),
            fees_heard_secs: self.fees.heard_secs(),
            requests: self.requests(),
            endpoints,
        }
    }
}
