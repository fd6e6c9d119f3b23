//! Changes that wait for the next write, and are lost with a kill: each by itself would cost the disk more than what it is for.

use std::time::{Duration, Instant};

/// The key of ldk-node's metrics: when it last synced, mostly. It writes them three times in every sync.
pub(super) const METRICS_KEY: &str = "node_metrics";

/// How long metrics wait for another write, which takes them along. Without one they are written after this time: on an idle node
/// they would be most of what is written.
const METRICS_WAIT: Duration = Duration::from_secs(600);

/// Updates that wait to be deleted, at most. LDK lets go of a hundred at once, each by itself: deleted one by one, they cost a
/// sale more of the disk than its books do.
pub(super) const STALE_MAX: usize = 128;

/// Primary namespace, secondary namespace and key.
pub(super) type Row = [String; 3];

/// What waits.
#[derive(Default)]
pub(super) struct Waiting {
    /// Updates that their monitor has taken in. After a kill they may be back, and are no more than a few bytes that nobody
    /// reads.
    stale: Vec<Row>,
    /// The newest metrics. After a kill older ones are found, as after a power cut.
    metrics: Option<Vec<u8>>,
    /// When metrics were last written.
    metrics_written: Option<Instant>,
}

impl Waiting {
    /// Keeps metrics for the next write, and says whether that will do: not if none has come for long.
    pub(super) fn hold(&mut self, row: [&str; 3], value: &[u8]) -> bool {
        if row != ["", "", METRICS_KEY] {
            return false;
        }
        let written = self.metrics_written;
        let is_soon = written.is_some_and(|written| written.elapsed() < METRICS_WAIT);
        self.metrics = is_soon.then(|| value.to_owned());
        if !is_soon {
            self.metrics_written = Some(Instant::now());
        }
        is_soon
    }

    /// Has this row deleted with the next write, and says whether it is time for one.
    pub(super) fn delete(&mut self, row: Row) -> bool {
        self.stale.push(row);
        self.stale.len() >= STALE_MAX
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.stale.is_empty() && self.metrics.is_none()
    }

    /// Gives the rows to delete, and the metrics to write.
    pub(super) fn take(&mut self) -> (Vec<Row>, Option<Vec<u8>>) {
        if self.metrics.is_some() {
            self.metrics_written = Some(Instant::now());
        }
        (std::mem::take(&mut self.stale), self.metrics.take())
    }

    /// Rows to delete.
    #[cfg(test)]
    pub(super) fn stale(&self) -> usize {
        self.stale.len()
    }

    /// Lets the time pass after which metrics are written.
    #[cfg(test)]
    pub(super) fn forget_written(&mut self) {
        self.metrics_written = None;
    }
}
