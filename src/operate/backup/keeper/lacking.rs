//! The record of changes that the newest backup lacks.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, watch};

/// The record of changes that the newest backup lacks.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    is_some: AtomicBool,
    noted: Notify,
    /// Counts the attempts to send a backup to the store.
    pub(super) tries: watch::Sender<u64>,
}

impl Lacking {
    pub(super) fn note(&self) {
        self.is_some.store(true, Ordering::Release);
        self.noted.notify_one();
    }

    pub(super) async fn noted(&self) {
        self.noted.notified().await;
    }

    pub(super) fn is_some(&self) -> bool {
        self.is_some.load(Ordering::Acquire)
    }

    /// Records that nothing is lacking, and returns whether something was.
    pub(super) fn take(&self) -> bool {
        self.is_some.swap(false, Ordering::AcqRel)
    }

    /// Records again that something is lacking. The next check finds it.
    pub(super) fn put_back(&self) {
        self.is_some.store(true, Ordering::Release);
    }

    /// Records an attempt to send a backup to the store.
    pub(super) fn tried(&self) {
        self.tries.send_modify(|tries| *tries += 1);
    }
}
