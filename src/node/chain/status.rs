//! The status of the chain source for the operator.

use serde::Serialize;
use utoipa::ToSchema;

use crate::chain::ChainSource;
use crate::chain::esplora::EndpointStatus;
use crate::node::error::NodeUnavailable;

use super::behind;
use super::source::Chain;

/// The current status of the chain source.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ChainStatus {
    /// `esplora`, `electrum` or `bitcoind`.
    pub kind: &'static str,
    /// The URLs or the address of the source.
    pub source: String,
    /// When the source stopped answering, Unix seconds; absent while it answers.
    pub degraded_since_secs: Option<u64>,
    /// The error of the last sync, if it failed.
    pub complaint: Option<String>,
    /// When the next sync with the chain is due, Unix seconds; absent if ldk-node decides that.
    pub next_look_secs: Option<u64>,
    /// How long ago the node last saw the chain; absent if it never did.
    pub behind_secs: Option<u64>,
    /// The value of `behind_secs` from which on there is an alarm.
    pub behind_alarm_secs: u64,
    /// The value of `behind_secs` beyond which the node makes no new sales.
    pub behind_limit_secs: u64,
    /// Whether the node is so far behind the chain that there is an alarm.
    pub is_alarm: bool,
    /// How far this machine's clock is behind the servers' clocks, in seconds (negative: ahead);
    /// absent if no recent time is known. For a source other than Esplora: how far the clock is
    /// certainly behind, by the newest block's time, if it is.
    pub clock_behind_secs: Option<i64>,
    /// The greatest known height of the chain, for Esplora.
    pub height: Option<u32>,
    /// When fee estimates last arrived, Unix seconds; absent if built-in ones are used, or if
    /// ldk-node fetches them itself.
    pub fees_heard_secs: Option<u64>,
    /// The budget of each endpoint, in requests per hour.
    pub requests_per_hour: Option<usize>,
    /// Requests to endpoints since the start.
    pub requests: Option<u64>,
    /// The status of each endpoint.
    pub endpoints: Vec<EndpointStatus>,
}

/// The time without an answer after which a bitcoind counts as silent. ldk-node polls it every two
/// seconds.
const BITCOIND_SILENT_SECS: u64 = 60;

impl Chain {
    /// Adds to an error which chain source could not be read, and the source's complaints.
    pub(in crate::node) fn unread(&self, error: NodeUnavailable) -> NodeUnavailable {
        let NodeUnavailable::Refused(refused) = error else {
            return error;
        };
        let relay = self.relay().map(|relay| relay.status());
        let endpoints = relay.into_iter().flat_map(|relay| relay.endpoints);
        let failing = endpoints.filter(|it| it.last_complaint_secs >= it.last_success_secs);
        let complaints =
            failing.filter_map(|it| Some(format!("{}: {}", it.url, it.last_complaint?)));
        let mut complaints: Vec<_> = complaints.collect();
        if complaints.is_empty() {
            complaints.extend(self.looks().complaint);
        }
        if complaints.is_empty() {
            complaints.push(refused.to_string());
        }
        NodeUnavailable::ChainUnread {
            named: self.core.config.chain.source.to_string(),
            why: complaints.join("; "),
        }
    }

    /// The status of the chain source. `seen_secs` is when the node last saw the chain, Unix
    /// seconds.
    pub(in crate::node) fn status(&self, seen_secs: Option<u64>) -> ChainStatus {
        let now_secs = self.core.clock.unix_secs();
        let behind_secs = behind::since(seen_secs, now_secs).map(|behind| behind.as_secs());
        let looks = self.looks();
        let source = &self.core.config.chain.source;
        let mut status = ChainStatus {
            source: source.to_string(),
            complaint: looks.complaint,
            next_look_secs: looks.next_secs,
            behind_secs,
            clock_behind_secs: self.clock_behind_secs(),
            behind_alarm_secs: behind::ALARM.as_secs(),
            behind_limit_secs: behind::LIMIT.as_secs(),
            is_alarm: behind_secs.is_some_and(|secs| secs >= behind::ALARM.as_secs()),
            ..ChainStatus::default()
        };
        match source {
            ChainSource::Esplora {
                requests_per_hour, ..
            } => {
                status.kind = "esplora";
                status.requests_per_hour = Some(*requests_per_hour);
                if let Some(relay) = self.relay().map(|relay| relay.status()) {
                    status.degraded_since_secs = relay.degraded_since_secs;
                    status.height = Some(relay.height);
                    status.fees_heard_secs = relay.fees_heard_secs;
                    status.requests = Some(relay.requests);
                    status.endpoints = relay.endpoints;
                }
            }
            ChainSource::Electrum(_) => {
                status.kind = "electrum";
                status.degraded_since_secs = looks.failing_secs;
            }
            ChainSource::Bitcoind(_) => {
                status.kind = "bitcoind";
                let silent = behind_secs.filter(|secs| *secs >= BITCOIND_SILENT_SECS);
                status.degraded_since_secs = silent.and(seen_secs);
            }
        }
        status
    }
}
