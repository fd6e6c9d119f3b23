//! The status of the endpoints, for the operator.

use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::Relay;

/// The status of all endpoints.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RelayStatus {
    /// The time since which no endpoint answers, in Unix seconds; null while one answers.
    pub degraded_since_secs: Option<u64>,
    /// The greatest known height of the chain.
    pub height: u32,
    /// The time at which an endpoint last gave fee estimates, in Unix seconds; null while built-in
    /// ones are used.
    pub fees_heard_secs: Option<u64>,
    /// The number of requests sent since the start.
    pub requests: u64,
    /// The status of each endpoint.
    pub endpoints: Vec<EndpointStatus>,
}

/// The status of one endpoint.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndpointStatus {
    /// The base URL.
    pub url: String,
    /// Whether the chain is read from this endpoint.
    pub is_in_use: bool,
    /// The number of requests within the last hour.
    pub requests_last_hour: usize,
    /// The number of requests left in the budget.
    pub budget_left: usize,
    /// The time of the last good answer, in Unix seconds.
    pub last_success_secs: Option<u64>,
    /// The last fault of the endpoint.
    pub last_complaint: Option<String>,
    /// The time of the last fault, in Unix seconds.
    pub last_complaint_secs: Option<u64>,
    /// The time until which the endpoint is paused, in Unix seconds.
    pub paused_until_secs: Option<u64>,
    /// The height of the newest block when the endpoint was last asked for it.
    pub height: Option<u32>,
}

impl Relay {
    /// Returns the current status of the endpoints.
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
