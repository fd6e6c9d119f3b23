//! Changes that wait for the next write, because a write of their own would cost the disk too much.
//! A kill loses them.

use std::time::{Duration, Instant};

/// The key of ldk-node's metrics, which are mostly the times of its last syncs. ldk-node writes
/// them three times in every sync.
pub(super) const METRICS_KEY: &str = "node_metrics";

/// How long metrics wait for another write to join. After this time they are written alone. On an
/// idle node, they would otherwise be most of the written data.
const METRICS_WAIT: Duration = Duration::from_secs(600);

/// The maximum number of updates that wait for deletion. LDK deletes a hundred at once, with one
/// call for each. Deleted one by one, they would cost the disk more per sale than the ledger does.
pub(super) const STALE_MAX: usize = 128;

/// The primary namespace, secondary namespace and key of a row.
pub(super) type Row = [String; 3];

/// The waiting changes.
#[derive(Default)]
pub(super) struct Waiting {
    /// Updates that their monitor already contains. After a kill they may still exist: a few bytes
    /// that LDK does not read.
    stale: Vec<Row>,
    /// The newest metrics. After a kill the next start finds older ones, as after a power cut.
    metrics: Option<Vec<u8>>,
    /// When metrics were last written.
    metrics_written: Option<Instant>,
}

impl Waiting {
    /// Keeps metrics for the next write. Returns `false` if the caller must write the row now: it
    /// does not hold metrics, or the last write of metrics is too long ago.
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

    /// Queues this row for deletion with the next write. Returns whether that write is due.
    pub(super) fn delete(&mut self, row: Row) -> bool {
        self.stale.push(row);
        self.stale.len() >= STALE_MAX
    }

    /// Whether no change is waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.stale.is_empty() && self.metrics.is_none()
    }

    /// Takes the rows to delete and the metrics to write.
    pub(super) fn take(&mut self) -> (Vec<Row>, Option<Vec<u8>>) {
        if self.metrics.is_some() {
            self.metrics_written = Some(Instant::now());
        }
        (std::mem::take(&mut self.stale), self.metrics.take())
    }

    /// The number of rows that wait for deletion.
    #[cfg(test)]
    pub(super) fn stale(&self) -> usize {
        self.stale.len()
    }

    /// Makes the next metrics due at once.
    #[cfg(test)]
    pub(super) fn forget_written(&mut self) {
        self.metrics_written = None;
    }
}
