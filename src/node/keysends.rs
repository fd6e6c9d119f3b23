//! Payments without an invoice (keysend). ldk-node accepts them from any payer, cannot refuse them,
//! and never deletes its records of them. So Tollhouse keeps only the newest records.
//!
//! While a payment's channel is closed and its claim is not final, LDK reports the payment again
//! after each start. Without a record, the payment would become a sale, so Tollhouse keeps the
//! payment hashes of deleted records.

use std::collections::{HashSet, VecDeque};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::payment::{PaymentDirection, PaymentKind};

use crate::base::secret_file;

/// The maximum number of records that are deleted at once. Each deletion waits for the disk, and
/// the next event waits for all of them.
const REMOVED_MAX: usize = 20;

/// The file with the payment hashes of deleted records, one a line, in the node's folder.
const FILE: &str = "keysends.forgotten";

/// At least this many of these hashes are kept, and at most twice as many. Each takes 100 bytes in
/// memory and 65 in the file. A channel has at most 483 payments in flight.
const FORGOTTEN_KEPT: usize = 10_000;

/// The node's records of keysends. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Keysends {
    max: usize,
    /// The payments whose records were deleted. A `std` mutex: held to look up a hash, or while a
    /// line is written on a thread that may block.
    forgotten: Arc<Mutex<Forgotten>>,
    /// The keysends that have a record, the oldest first; `None` until they were listed. A `std`
    /// mutex: held on a thread that may block, while records are deleted.
    known: Arc<Mutex<Option<VecDeque<PaymentId>>>>,
}

impl Keysends {
    /// Reads the payment hashes of the records that earlier runs deleted.
    pub(super) fn new(max: usize, folder: &Path) -> Self {
        Self {
            max,
            forgotten: Arc::new(Mutex::new(Forgotten::read(folder))),
            known: Arc::default(),
        }
    }

    /// Whether the record of this keysend was deleted.
    pub(super) fn has_forgotten(&self, payment_hash: &[u8; 32]) -> bool {
        self.forgotten().all.contains(payment_hash)
    }

    fn forgotten(&self) -> MutexGuard<'_, Forgotten> {
        self.forgotten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles a payment that has arrived. If it is a keysend, the oldest records beyond the limit
    /// are deleted. Blocks on the disk.
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
        let beyond = known.len().saturating_sub(self.max).min(REMOVED_MAX);
        // The id of an inbound payment is its payment hash.
        let hashes: Vec<_> = known.iter().take(beyond).map(|id| id.0).collect();
        if let Err(error) = self.forgotten().add(&hashes) {
            tracing::warn!(
                "Failed to store the hashes of old payments without an invoice (keysend), whose records are kept for now: {error}"
            );
            return;
        }
        for oldest in known.drain(..beyond) {
            if let Err(error) = ldk.remove_payment(&oldest) {
                tracing::warn!("Failed to forget a payment without an invoice: {error}");
            }
        }
    }
}

/// The payments whose records were deleted.
#[derive(Debug)]
struct Forgotten {
    file: PathBuf,
    /// Their payment hashes, the oldest first.
    order: VecDeque<[u8; 32]>,
    all: HashSet<[u8; 32]>,
}

impl Forgotten {
    fn read(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let text = secret_file::read_list_or_warn(&file);
        // The last line may be incomplete. The record of its payment still exists.
        let hashes = text
            .lines()
            .filter_map(|line| hex::decode(line).ok()?.try_into().ok());
        let order: VecDeque<[u8; 32]> = hashes.collect();
        Self {
            file,
            all: order.iter().copied().collect(),
            order,
        }
    }

    /// Adds these hashes; on return they are on the disk.
    fn add(&mut self, hashes: &[[u8; 32]]) -> io::Result<()> {
        let lines = |hashes: &mut dyn Iterator<Item = &[u8; 32]>| -> String {
            hashes.map(|hash| hex::encode(hash) + "\n").collect()
        };
        let added = || hashes.iter();
        if hashes.is_empty() {
            return Ok(());
        }
        if self.order.len() + hashes.len() > 2 * FORGOTTEN_KEPT {
            let beyond = self.order.len().saturating_sub(FORGOTTEN_KEPT);
            let text = lines(&mut self.order.iter().skip(beyond).chain(added()));
            secret_file::replace(&self.file, &text)?;
            for hash in self.order.drain(..beyond) {
                self.all.remove(&hash);
            }
        } else {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).open(&self.file)?;
            // The line break ends a line that an earlier write left incomplete.
            let text = String::from("\n") + &lines(&mut added());
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
        }
        self.order.extend(hashes);
        self.all.extend(hashes);
        Ok(())
    }
}

/// The keysends that the node has a record of, the oldest first.
fn in_order(ldk: &ldk_node::Node) -> VecDeque<PaymentId> {
    let mut all = ldk.list_payments_with_filter(|payment| {
        payment.direction == PaymentDirection::Inbound
            && matches!(payment.kind, PaymentKind::Spontaneous { .. })
    });
    all.sort_by_key(|payment| payment.latest_update_timestamp);
    all.into_iter().map(|payment| payment.id).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_forgotten_is_known_also_after_a_restart_and_a_torn_write() {
        let folder = tempfile::tempdir().unwrap();
        let mut forgotten = Forgotten::read(folder.path());
        forgotten.add(&[[1; 32], [2; 32]]).unwrap();
        let file = folder.path().join(FILE);
        let whole = fs::read_to_string(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 9]).unwrap();
        let mut again = Forgotten::read(folder.path());
        assert!(again.all.contains(&[1; 32]) && !again.all.contains(&[2; 32]));
        again.add(&[[3; 32]]).unwrap();
        let keysends = Keysends::new(10, folder.path());
        assert!(keysends.has_forgotten(&[1; 32]) && keysends.has_forgotten(&[3; 32]));
        assert!(!keysends.has_forgotten(&[4; 32]));
    }

    #[test]
    fn the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut forgotten = Forgotten::read(folder.path());
        let hash = |number: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            hash
        };
        let all: Vec<_> = (0..2 * FORGOTTEN_KEPT).map(hash).collect();
        forgotten.add(&all).unwrap();
        forgotten.add(&[hash(all.len())]).unwrap();
        let again = Forgotten::read(folder.path());
        assert_eq!(again.order.len(), FORGOTTEN_KEPT + 1);
        assert!(again.all.contains(&hash(all.len())) && again.all.contains(&hash(FORGOTTEN_KEPT)));
        assert!(!again.all.contains(&hash(0)));
    }
}
