//! Payments without an invoice (keysend). ldk-node takes them from anybody and keeps a record of each for ever; nobody can refuse
//! them. So only the newest are remembered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::payment::{PaymentDirection, PaymentKind};

/// Records that are removed at once: each waits for the disk, and the next event waits for it.
const REMOVED_MAX: usize = 20;

/// The records that there are, the oldest first. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Keysends {
    max: usize,
    /// Nothing until they were counted. A `std` mutex: held on a thread that may block, while records are removed.
    known: Arc<Mutex<Option<VecDeque<PaymentId>>>>,
}

impl Keysends {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            known: Arc::default(),
        }
    }

    /// A payment has arrived: if it is one without an invoice, the oldest of them make room. Blocks on the disk.
    pub(super) fn arrived(&self, ldk: &ldk_node::Node, id: &PaymentId) {
        let record = ldk.payment(id);
        if !record.is_some_and(|it| matches!(it.kind, PaymentKind::Spontaneous { .. })) {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(|| in_order(ldk));
        if !known.contains(id) {
            known.push_back(*id);
        }
        for _ in 0..REMOVED_MAX {
            if known.len() <= self.max {
                return;
            }
            if let Some(oldest) = known.pop_front()
                && let Err(error) = ldk.remove_payment(&oldest)
            {
                tracing::warn!("Failed to forget a payment without an invoice: {error}");
            }
        }
    }
}

/// Those that the node remembers, the oldest first.
fn in_order(ldk: &ldk_node::Node) -> VecDeque<PaymentId> {
    let mut all = ldk.list_payments_with_filter(|payment| {
        payment.direction == PaymentDirection::Inbound
            && matches!(payment.kind, PaymentKind::Spontaneous { .. })
    });
    all.sort_by_key(|payment| payment.latest_update_timestamp);
    all.into_iter().map(|payment| payment.id).collect()
}
