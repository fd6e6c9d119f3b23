//! What the operator is told of the chain source.

use serde::Serialize;
use utoipa::ToSchema;

use crate::chain::ChainSource;
use crate::chain::esplora::EndpointStatus;
use crate::node::{Node, NodeUnavailable};

use super::behind;

/// The chain source, as it is now.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ChainStatus {
    /// `esplora`, `electrum` or `bitcoind`.
    pub kind: &'static str,
    /// What is asked.
    pub source: String,
    /// Since when it does not answer, Unix seconds; nothing while it does.
    pub degraded_since_secs: Option<u64>,
    /// What was wrong with the last look.
    pub complaint: Option<String>,
    /// When the chain is looked at next, Unix seconds; nothing if ldk-node decides that.
    pub next_look_secs: Option<u64>,
    /// How long ago the chain was last seen; nothing if it never was.
    pub behind_secs: Option<u64>,
    /// From here on it is an alarm.
    pub behind_alarm_secs: u64,
    /// From here on nothing new is sold.
    pub behind_limit_secs: u64,
    /// Whether it is an alarm.
    pub is_alarm: bool,
    /// How far the clock of this machine is behind what the servers' clocks show, in seconds (negative: ahead); nothing if none
    /// was heard lately. Where the source is not Esplora: how far it is certainly behind, by the newest block, if it is.
    pub clock_behind_secs: Option<i64>,
    /// The greatest height that an endpoint has shown.
    pub height: Option<u32>,
    /// When fee estimates were last heard, Unix seconds; nothing if built-in ones are used, or if ldk-node asks by itself.
    pub fees_heard_secs: Option<u64>,
    /// Requests an hour to each endpoint.
    pub requests_per_hour: Option<usize>,
    /// Requests since the start.
    pub requests: Option<u64>,
    /// Each endpoint.
    pub endpoints: Vec<EndpointStatus>,
}

/// ldk-node asks a bitcoind every two seconds: after this long without an answer there is none.
const BITCOIND_SILENT_SECS: u64 = 60;

impl Node {
    /// Names the source that could not be read, and what it has to say.
    pub(in crate::node) fn unread(&self, error: NodeUnavailable) -> NodeUnavailable {
        let NodeUnavailable::Refused(refused) = error else {
            return error;
        };
        let relay = self.chain.relay().map(|relay| relay.status());
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
            named: self.config.chain.source.to_string(),
            why: complaints.join("; "),
        }
    }

    /// What the chain source does, by who has last seen the chain then, Unix seconds.
    pub(in crate::node) fn chain_status(&self, seen_secs: Option<u64>) -> ChainStatus {
        let now_secs = self.clock.unix_secs();
        let behind_secs = behind::since(seen_secs, now_secs).map(|behind| behind.as_secs());
        let looks = self.looks();
        let source = &self.config.chain.source;
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
                if let Some(relay) = self.chain.relay().map(|relay| relay.status()) {
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
