//! How long a caller waits for a write to reach the disk.

use lightning::util::persist::{
    CHANNEL_MANAGER_PERSISTENCE_KEY, NETWORK_GRAPH_PERSISTENCE_KEY, SCORER_PERSISTENCE_KEY,
};

use super::waiting::METRICS_KEY;

/// How long a write waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until the write would survive a power cut.
    Done,
    /// Until a sync has begun. This applies to the channel manager: the disk must not delay LDK's
    /// next write of it, because until then a kill costs the channels that have moved on. Nothing
    /// relies on the sync: after a power cut, the next start finds the previous manager, as after
    /// an earlier power cut.
    Begun,
    /// No wait. Scores, graph and metrics can be learned again. The event queue is safe by its
    /// order in the log: LDK adds an event before it writes the manager that has forgotten the
    /// event. So the event is on the disk when that manager is. An event that was removed and is
    /// back after a power cut is handled again, which the ledger allows for.
    Not,
}

impl Wait {
    /// How long a write of this row waits.
    pub(super) fn of(primary: &str, key: &str) -> Self {
        match key {
            _ if !primary.is_empty() => Self::Done,
            CHANNEL_MANAGER_PERSISTENCE_KEY => Self::Begun,
            NETWORK_GRAPH_PERSISTENCE_KEY | SCORER_PERSISTENCE_KEY | "events" | METRICS_KEY => {
                Self::Not
            }
            _ => Self::Done,
        }
    }
}
