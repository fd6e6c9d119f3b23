//! The amounts that access tokens with a limit have spent. They are in a small file, which is on
//! the disk before a payment is sent. After a crash in between, the file counts too much for a
//! while, never too little.
//!
//! A payment first reserves its maximum cost. The reservation ends once, in one write: the real
//! cost counts as spent, and the rest is available again. The caller may be gone by then, so
//! [`following`](super::following) watches the node's payments and settles the reservations, also
//! after a restart.

mod account;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::base::secret_file::{self, SecretFileError};
use crate::protocol::l402::TokenId;

use account::Accounts;
pub(super) use account::Pending;

/// The maximum number of tokens whose spending is kept, 80 bytes each. Only the scope `admin` can
/// make tokens. Accounts of revoked and expired tokens are kept too: if an older copy of the access
/// list is put back, such a token is valid again, and its limit must not start from zero.
const TOKENS_MAX: usize = 10_000;

/// The maximum number of payments of one token under way at once. One channel carries at most 483.
const PENDING_MAX: usize = 1_000;

/// The amounts spent so far, by token.
#[derive(Debug)]
pub struct Spending {
    path: PathBuf,
    /// A `std` mutex: it is held while the file is written, off the threads that serve requests.
    kept: Mutex<Kept>,
    /// Notified when a reservation loses its owner and has to be followed.
    left: Notify,
}

#[derive(Debug)]
struct Kept {
    /// The accounts by token id in hex, equal to the content of the file.
    accounts: Accounts,
    /// Reservations with an owner that still holds a [`Reserved`].
    live: BTreeSet<u64>,
    /// The number of the next reservation.
    next: u64,
}

/// The payment that a reservation is for.
pub(super) struct Wanted {
    /// The payment's id in hex, if it is known before the payment is sent.
    pub(super) payment_id: Option<String>,
    /// The amount to pay, in msat.
    pub(super) amount_msat: u64,
    /// The maximum cost, in msat.
    pub(super) most_msat: u64,
    /// The current time, Unix seconds.
    pub(super) now_secs: u64,
}

/// A reservation with an owner. When it is dropped, [`following`](super::following) settles the
/// reservation.
#[derive(Debug)]
#[must_use = "dropping it leaves the reservation to `following`"]
pub(super) struct Reserved {
    spending: Arc<Spending>,
    number: u64,
}

/// Why a payment is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpendingError {
    /// The payment may cost more than is left.
    #[error(
        "{asked_msat} msat, fees included, are more than the {left_msat} msat that are left to this access token"
    )]
    AboveLimit {
        /// The maximum cost of the payment, in msat.
        asked_msat: u64,
        /// The rest of the limit, in msat.
        left_msat: u64,
    },
    /// The file has no room for another token.
    #[error(
        "what is spent is kept for {TOKENS_MAX} access tokens with a limit, those included that have ended, and this would be one more. \
         Stop the program, remove access.spent and admin.token from its data folder, and start it again: all access tokens end \
         by that, and new ones can spend"
    )]
    Full,
    /// Too many payments are under way.
    #[error(
        "{PENDING_MAX} payments of this access token are under way: wait until some have ended"
    )]
    Busy,
    /// The file could not be written.
    #[error("failed to note what is spent")]
    File(#[from] io::Error),
    /// The file could not be read.
    #[error(transparent)]
    Unreadable(#[from] SecretFileError),
}

impl Spending {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, SpendingError> {
        let accounts: Accounts = if path.exists() {
            serde_json::from_str(&secret_file::read(path)?).map_err(io::Error::from)?
        } else {
            BTreeMap::new()
        };
        let pending = accounts.values().flat_map(|account| &account.pending);
        let last = pending.map(|it| it.number).max();
        Ok(Self {
            path: path.to_owned(),
            kept: Mutex::new(Kept {
                accounts,
                live: BTreeSet::new(),
                next: last.map_or(0, |last| last + 1),
            }),
            left: Notify::new(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // After a panic the memory still equals the file, so the lock can be used again.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the maximum cost of a payment from the rest of this token's limit. The reservation
    /// is on the disk when this returns. Blocks.
    pub(super) fn reserve(
        self: &Arc<Self>,
        token_id: &TokenId,
        max_msat: u64,
        wanted: Wanted,
    ) -> Result<Reserved, SpendingError> {
        let mut kept = self.kept();
        let number = kept.next;
        self.change(&mut kept, |accounts| {
            let (key, tokens) = (token_id.to_string(), accounts.len());
            if !accounts.contains_key(&key) && tokens >= TOKENS_MAX {
                return Err(SpendingError::Full);
            }
            let account = accounts.entry(key).or_default();
            let left_msat = max_msat.saturating_sub(account.taken_msat());
            if wanted.most_msat > left_msat {
                return Err(SpendingError::AboveLimit {
                    asked_msat: wanted.most_msat,
                    left_msat,
                });
            }
            if account.pending.len() >= PENDING_MAX {
                return Err(SpendingError::Busy);
            }
            account.pending.push(Pending {
                number,
                payment_id: wanted.payment_id,
                amount_msat: wanted.amount_msat,
                most_msat: wanted.most_msat,
                made_secs: wanted.now_secs,
                is_begun: false,
                is_unsure: false,
            });
            Ok(())
        })?;
        kept.next += 1;
        kept.live.insert(number);
        Ok(Reserved {
            spending: Arc::clone(self),
            number,
        })
    }

    /// The amounts spent and reserved for the token of this id in hex, in msat.
    pub(super) fn of(&self, token_id: &str) -> (u64, u64) {
        let kept = self.kept();
        kept.accounts.get(token_id).map_or((0, 0), |account| {
            let pending_msat = account.taken_msat().saturating_sub(account.spent_msat);
            (account.spent_msat, pending_msat)
        })
    }

    /// The reservations without an owner.
    pub(super) fn left(&self) -> Vec<Pending> {
        let kept = self.kept();
        let pending = kept.accounts.values().flat_map(|account| &account.pending);
        let left = pending.filter(|it| !kept.live.contains(&it.number));
        left.cloned().collect()
    }

    /// Waits until a reservation loses its owner.
    pub(super) async fn is_left(&self) {
        self.left.notified().await;
    }

    /// Ends a reservation with the amount that was spent. A reservation that has already ended does
    /// not change. Blocks.
    pub(super) fn settle(&self, number: u64, spent_msat: u64) -> Result<(), SpendingError> {
        self.change(&mut self.kept(), |accounts| {
            let mut accounts = accounts.values_mut();
            let found = accounts.find_map(|account| {
                let at = account.pending.iter().position(|it| it.number == number)?;
                Some((account, at))
            });
            if let Some((account, at)) = found {
                account.pending.remove(at);
                account.spent_msat = account.spent_msat.saturating_add(spent_msat);
            }
            Ok(())
        })
    }

    /// Changes one reservation, unless it has ended.
    pub(super) fn note(
        &self,
        number: u64,
        note: impl FnOnce(&mut Pending),
    ) -> Result<(), SpendingError> {
        self.change(&mut self.kept(), |accounts| {
            let mut pending = accounts.values_mut().flat_map(|it| &mut it.pending);
            if let Some(it) = pending.find(|it| it.number == number) {
                note(it);
            }
            Ok(())
        })
    }

    /// Changes the accounts and their file together; if the write fails, neither changes.
    fn change(
        &self,
        kept: &mut Kept,
        change: impl FnOnce(&mut Accounts) -> Result<(), SpendingError>,
    ) -> Result<(), SpendingError> {
        let mut after = kept.accounts.clone();
        change(&mut after)?;
        if after == kept.accounts {
            return Ok(());
        }
        let text = serde_json::to_string(&after).map_err(io::Error::from)?;
        secret_file::replace(&self.path, &text)?;
        kept.accounts = after;
        Ok(())
    }
}

impl Reserved {
    /// Records that the payment is sent next. Ends earlier reservations for the same payment that
    /// have no owner. Those attempts failed and cost nothing, because the node refuses a payment
    /// that is under way. Blocks.
    pub(super) fn begin(&self) -> Result<(), SpendingError> {
        let mut kept = self.spending.kept();
        let live = kept.live.clone();
        self.spending.change(&mut kept, |accounts| {
            let pending = accounts.values_mut().flat_map(|it| &mut it.pending);
            let mut payment_id = None;
            for it in pending.filter(|it| it.number == self.number) {
                it.is_begun = true;
                payment_id.clone_from(&it.payment_id);
            }
            let is_over = |it: &Pending| {
                it.payment_id == payment_id
                    && payment_id.is_some()
                    && !it.is_unsure
                    && !live.contains(&it.number)
            };
            for account in accounts.values_mut() {
                account.pending.retain(|it| !is_over(it));
            }
            Ok(())
        })
    }

    /// Records that the payment was sent with this id. Blocks.
    pub(super) fn sent(&self, payment_id: &str) -> Result<(), SpendingError> {
        self.spending.note(self.number, |it| {
            it.payment_id = Some(payment_id.to_owned());
        })
    }

    /// Records that the payment was not sent. Blocks.
    pub(super) fn not_sent(&self) -> Result<(), SpendingError> {
        self.spending.note(self.number, |it| it.is_begun = false)
    }

    /// Records that the payment may have been sent although the node has no record of it. Blocks.
    pub(super) fn unsure(&self) -> Result<(), SpendingError> {
        self.spending.note(self.number, |it| it.is_unsure = true)
    }

    /// Ends the reservation with the amount that was spent. Blocks.
    pub(super) fn settle(&self, spent_msat: u64) -> Result<(), SpendingError> {
        self.spending.settle(self.number, spent_msat)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.spending.kept().live.remove(&self.number);
        self.spending.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TokenId = TokenId([1; 32]);

    fn open(folder: &Path) -> Arc<Spending> {
        Arc::new(Spending::open(&folder.join("access.spent")).unwrap())
    }

    fn wanted(most_msat: u64, payment_id: &str) -> Wanted {
        Wanted {
            payment_id: Some(payment_id.to_owned()),
            amount_msat: most_msat,
            most_msat,
            now_secs: 0,
        }
    }

    /// The spent and the reserved amount of the test token.
    fn figures(spending: &Spending) -> (u64, u64) {
        spending.of(&ONE.to_string())
    }

    #[test]
    fn a_limit_holds_over_restarts_and_for_each_token_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let other = TokenId([2; 32]);
        let spending = open(folder.path());
        let reserved = spending.reserve(&ONE, 1_000, wanted(600, "a")).unwrap();
        let error = spending.reserve(&ONE, 1_000, wanted(401, "b")).unwrap_err();
        assert!(
            error.to_string().contains("400 msat that are left"),
            "{error}"
        );
        spending
            .reserve(&other, 1_000, wanted(1_000, "c"))
            .unwrap()
            .settle(1_000)
            .unwrap();
        reserved.settle(500).unwrap();
        let spending = open(folder.path());
        assert_eq!(figures(&spending), (500, 0));
        let all = spending.reserve(&ONE, 1_000, wanted(500, "d")).unwrap();
        assert!(spending.reserve(&ONE, 1_000, wanted(1, "e")).is_err());
        drop(all);
        // The payment's outcome is not known yet.
        let spending = open(folder.path());
        assert_eq!(figures(&spending), (500, 500));
        assert!(spending.reserve(&ONE, 1_000, wanted(1, "e")).is_err());
    }

    #[test]
    fn a_payment_ends_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let spending = open(folder.path());
        let reserved = spending.reserve(&ONE, 1_000, wanted(600, "a")).unwrap();
        assert_eq!(spending.left(), [], "the reservation has an owner");
        let number = reserved.number;
        drop(reserved);
        assert_eq!(spending.left().len(), 1);
        for _ in 0..3 {
            spending.settle(number, 7).unwrap();
            spending.settle(number, 0).unwrap();
            assert_eq!(figures(&spending), (7, 0));
        }
        let spending = open(folder.path());
        spending.settle(number, 7).unwrap();
        assert_eq!(figures(&spending), (7, 0));
    }

    #[test]
    fn a_second_attempt_ends_the_failed_first_one_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let spending = open(folder.path());
        let reserve = |id| spending.reserve(&ONE, 10_000, wanted(600, id)).unwrap();
        let (first, other) = (reserve("a"), reserve("b"));
        first.begin().unwrap();
        drop((first, other));
        // A reservation for the same payment that still has an owner and whose payment was not
        // sent.
        let live = reserve("a");
        assert_eq!(figures(&spending), (0, 1_800));
        let second = reserve("a");
        second.begin().unwrap();
        assert_eq!(
            figures(&spending),
            (0, 1_800),
            "the first of four has ended"
        );
        live.settle(0).unwrap();
        second.settle(600).unwrap();
        assert_eq!(figures(&spending), (600, 600));
        let left = spending.left();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].payment_id.as_deref(), Some("b"));
    }

    #[test]
    fn files_of_an_older_program_are_read_and_it_reads_files_without_pending_payments() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.spent");
        secret_file::replace(&path, &format!("{{\"{ONE}\":700}}")).unwrap();
        let spending = open(folder.path());
        assert_eq!(figures(&spending), (700, 0));
        let reserved = spending.reserve(&ONE, 1_000, wanted(300, "a")).unwrap();
        reserved.settle(1).unwrap();
        let text = secret_file::read(&path).unwrap();
        assert_eq!(text.trim(), format!("{{\"{ONE}\":701}}"));
    }

    #[test]
    fn when_there_is_room_for_no_more_tokens_the_others_go_on_and_the_reason_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.spent");
        let full: BTreeMap<String, u64> = (0..10_000_u32)
            .map(|number| {
                let mut id = [9; 32];
                id[..4].copy_from_slice(&number.to_be_bytes());
                (TokenId(id).to_string(), 1)
            })
            .collect();
        secret_file::replace(&path, &serde_json::to_string(&full).unwrap()).unwrap();
        let spending = open(folder.path());
        let error = spending.reserve(&ONE, 1_000, wanted(1, "a")).unwrap_err();
        assert!(matches!(error, SpendingError::Full), "{error}");
        let mut known = [9; 32];
        known[..4].copy_from_slice(&7_u32.to_be_bytes());
        let known = spending.reserve(&TokenId(known), 1_000, wanted(999, "a"));
        known.unwrap().settle(999).unwrap();
    }

    #[test]
    fn many_at_once_take_no_more_than_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let spending = open(folder.path());
        let reserve =
            |number: u32| spending.reserve(&ONE, 3_000, wanted(1_000, &number.to_string()));
        let taken = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|number| scope.spawn(move || reserve(number).is_ok()))
                .collect();
            let taken = takers.into_iter().map(|taker| taker.join().unwrap());
            taken.filter(|is_taken| *is_taken).count()
        });
        assert_eq!(taken, 3);
    }
}
