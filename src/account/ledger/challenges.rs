//! The challenges that may still be paid: a bounded table in memory, written behind in small
//! batches.
//!
//! An unpaid challenge must cost next to nothing, because a scanner makes thousands of them a
//! second. So a challenge is not on disk when the 402 goes out, and under a flood the oldest
//! challenges are dropped before they are written. A lost challenge costs only the description of
//! its sale: the settlement still makes a sale, and its token works.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::account::store::Entry;
use crate::base::price::Rate;

use super::record::{ChallengeBatch, ChallengeRecord};

/// How long a challenge is kept after its invoice expires. LDK accepts a payment until the time of
/// the newest block is two hours after the expiry, and that block may be an hour old. Such a late
/// payment is a sale like any other.
pub const LATE_MAX_MS: u64 = 3 * 3_600_000;

/// The most challenges in one record of the store: about 13 KB. With one record per challenge, sled
/// would copy its pages five hundred times a second and hold tens of megabytes for that.
const BATCH_MAX: usize = 64;

/// The room reserved from the start, so that the table does not copy itself as it grows. This is
/// the default maximum number of challenges.
const ROOM_MAX: usize = 20_000;

/// A challenge in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The invoice's payment hash.
    pub payment_hash: [u8; 32],
    /// The id of the token in the challenge.
    pub token_id: [u8; 32],
    /// The service that the token opens.
    pub service: Arc<str>,
    /// The requested route.
    pub route: Arc<str>,
    /// The price, in msat.
    pub price_msat: u64,
    /// The time of the challenge, in Unix milliseconds.
    pub challenged_ms: u64,
    /// The expiry of the invoice, in Unix milliseconds.
    pub expires_ms: u64,
    /// The grant that the invoice buys, if it is not the route's default grant.
    pub grant: Option<Arc<str>>,
    /// The rate that converted a price in a currency to bitcoin.
    pub rate: Option<Rate>,
}

/// The table of challenges. It uses a `std` mutex, which is held for a few hundred nanoseconds and
/// never across an await.
#[derive(Debug)]
pub(super) struct Challenges {
    /// The maximum number of challenges.
    max: usize,
    /// The table itself.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// The challenges in the order in which they were made. The first has the sequence number
    /// `first`.
    pub(super) ring: VecDeque<Challenge>,
    /// The sequence number of the oldest challenge in the ring.
    pub(super) first: u64,
    /// The number of challenges, counted from the oldest, that are already in the store.
    pub(super) written: usize,
    /// The first sequence number of this run of the program.
    pub(super) run_first: u64,
    /// Maps the first eight bytes of a payment hash to the sequence number. Payment hashes are
    /// random and made by us, so eight bytes suffice; [`Challenges::find`] compares the rest.
    pub(super) by_hash: HashMap<u64, u64>,
}

/// The changes that make the store match the table.
#[derive(Debug, Default)]
pub(super) struct WriteBehind {
    /// The records to write.
    pub(super) put: Vec<Entry<ChallengeBatch>>,
    /// The key below which the store deletes every batch.
    pub(super) remove_below: [u8; 8],
}

impl Challenges {
    /// Makes a table of at most `max` challenges and fills it with the stored challenges.
    pub(super) fn new(max: usize, stored: impl IntoIterator<Item = (u64, ChallengeBatch)>) -> Self {
        let room = max.min(ROOM_MAX);
        let mut table = Table {
            ring: VecDeque::with_capacity(room),
            by_hash: HashMap::with_capacity(room),
            ..Table::default()
        };
        let stored = stored
            .into_iter()
            .flat_map(|(first, batch)| (first..).zip(batch.0));
        for (sequence, record) in stored {
            if table.ring.len() >= max {
                table.drop_oldest();
            }
            if table.ring.is_empty() {
                table.first = sequence;
            }
            // Sequence numbers have no gaps. After a gap, only the newer challenges are kept.
            let expected = table.first + table.ring.len() as u64;
            if sequence != expected {
                table.ring.clear();
                table.by_hash.clear();
                table.first = sequence;
            }
            table
                .by_hash
                .insert(beginning(&record.payment_hash), sequence);
            table.ring.push_back(record.into());
        }
        table.written = table.ring.len();
        table.run_first = table.first + table.ring.len() as u64;
        Self {
            max,
            table: Mutex::new(table),
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // A panic breaks no invariant of the table for good: at worst the description of a sale is
        // lost.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a challenge. If the table is full, drops the oldest.
    pub(super) fn keep(&self, challenge: Challenge) {
        let mut table = self.table();
        if table.ring.len() >= self.max {
            table.drop_oldest();
        }
        let sequence = table.first + table.ring.len() as u64;
        table
            .by_hash
            .insert(beginning(&challenge.payment_hash), sequence);
        table.ring.push_back(challenge);
    }

    /// Returns the challenge for this payment, if it is still kept, and whether it was made in this
    /// run of the program.
    pub(super) fn find(&self, payment_hash: &[u8; 32]) -> Option<(Challenge, bool)> {
        let table = self.table();
        let sequence = *table.by_hash.get(&beginning(payment_hash))?;
        let index = usize::try_from(sequence.checked_sub(table.first)?).ok()?;
        let challenge = table.ring.get(index)?;
        (challenge.payment_hash == *payment_hash)
            .then(|| (challenge.clone(), sequence >= table.run_first))
    }

    /// Returns the number of challenges.
    pub(super) fn len(&self) -> usize {
        self.table().ring.len()
    }

    /// Drops challenges that can no longer be paid, and returns the writes for the store. It writes
    /// at most `max_puts` challenges, all made before `made_before_ms`.
    pub(super) fn write_behind(
        &self,
        now_ms: u64,
        made_before_ms: u64,
        max_puts: usize,
    ) -> WriteBehind {
        let mut table = self.table();
        while table
            .ring
            .front()
            .is_some_and(|oldest| oldest.expires_ms.saturating_add(LATE_MAX_MS) <= now_ms)
        {
            table.drop_oldest();
        }
        let first = table.first;
        let mut next = first + table.written as u64;
        let behind: Vec<ChallengeRecord> = table
            .ring
            .iter()
            .skip(table.written)
            .take(max_puts)
            // A challenge with a time in the future was made before the clock was set back.
            .take_while(|challenge| {
                challenge.challenged_ms < made_before_ms || challenge.challenged_ms > now_ms
            })
            .map(Into::into)
            .collect();
        table.written += behind.len();
        let mut put = Vec::with_capacity(behind.len().div_ceil(BATCH_MAX));
        for batch in behind.chunks(BATCH_MAX) {
            put.push((next.to_be_bytes().to_vec(), ChallengeBatch(batch.to_vec())));
            next += batch.len() as u64;
        }
        // A batch is deleted only when its last challenge is dropped.
        let reaches = if table.ring.is_empty() {
            0
        } else {
            BATCH_MAX as u64 - 1
        };
        let gone_below = first.saturating_sub(reaches);
        WriteBehind {
            put,
            remove_below: gone_below.to_be_bytes(),
        }
    }
}

impl Table {
    fn drop_oldest(&mut self) {
        let Some(oldest) = self.ring.pop_front() else {
            return;
        };
        let hash = beginning(&oldest.payment_hash);
        if self.by_hash.get(&hash) == Some(&self.first) {
            self.by_hash.remove(&hash);
        }
        self.first += 1;
        self.written = self.written.saturating_sub(1);
    }
}

/// Returns the first eight bytes of a payment hash, the key of `by_hash`.
fn beginning(payment_hash: &[u8; 32]) -> u64 {
    let (first, _) = payment_hash
        .split_first_chunk()
        .expect("eight bytes are less than 32");
    u64::from_be_bytes(*first)
}

impl From<ChallengeRecord> for Challenge {
    fn from(record: ChallengeRecord) -> Self {
        Self {
            payment_hash: record.payment_hash,
            token_id: record.token_id,
            service: record.service.into(),
            route: record.route.into(),
            price_msat: record.price_msat,
            challenged_ms: record.challenged_ms,
            expires_ms: record.expires_ms,
            grant: record.grant.map(Into::into),
            rate: record.rate.and_then(|rate| rate.try_into().ok()),
        }
    }
}

impl From<&Challenge> for ChallengeRecord {
    fn from(challenge: &Challenge) -> Self {
        Self {
            payment_hash: challenge.payment_hash,
            token_id: challenge.token_id,
            service: challenge.service.to_string(),
            route: challenge.route.to_string(),
            price_msat: challenge.price_msat,
            challenged_ms: challenge.challenged_ms,
            expires_ms: challenge.expires_ms,
            grant: challenge.grant.as_deref().map(str::to_owned),
            rate: challenge.rate.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(number: u8, challenged_ms: u64) -> Challenge {
        Challenge {
            payment_hash: [number; 32],
            token_id: [number; 32],
            service: "chain".into(),
            route: "/chain/*".into(),
            price_msat: 10_000,
            challenged_ms,
            expires_ms: challenged_ms + 1_000,
            grant: None,
            rate: None,
        }
    }

    #[test]
    fn the_oldest_gives_way_when_the_table_is_full() {
        let challenges = Challenges::new(2, []);
        for number in 1..=3 {
            challenges.keep(challenge(number, 0));
        }
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges.find(&[1; 32]), None);
        assert_eq!(challenges.find(&[3; 32]), Some((challenge(3, 0), true)));
    }

    #[test]
    fn an_expired_challenge_is_kept_for_as_long_as_it_can_be_paid() {
        let challenges = Challenges::new(100, []);
        challenges.keep(challenge(1, 0));
        challenges.write_behind(LATE_MAX_MS + 999, 0, 100);
        assert!(challenges.find(&[1; 32]).is_some());
        challenges.write_behind(LATE_MAX_MS + 1_000, 0, 100);
        assert_eq!(challenges.len(), 0);
    }

    #[test]
    fn expired_ones_go_and_the_store_follows_batch_by_batch() {
        let challenges = Challenges::new(100, []);
        for number in 0..80 {
            challenges.keep(challenge(number, 0));
        }
        challenges.keep(challenge(80, 500));
        let first = challenges.write_behind(900, 900, 100);
        assert_eq!(first.put.len(), 2);
        assert_eq!(first.remove_below, 0_u64.to_be_bytes());
        // The second batch starts at 64 and still holds the last challenge.
        let second = challenges.write_behind(LATE_MAX_MS + 1_000, 1_000, 100);
        assert!(second.put.is_empty());
        assert_eq!(second.remove_below, 17_u64.to_be_bytes());
        assert_eq!(challenges.len(), 1);
        let third = challenges.write_behind(LATE_MAX_MS + 1_500, 1_500, 100);
        assert_eq!(third.remove_below, 81_u64.to_be_bytes());
        assert_eq!(challenges.len(), 0);
    }

    #[test]
    fn many_are_written_in_batches_and_read_back_in_order() {
        let challenges = Challenges::new(500, []);
        for number in 0..200 {
            challenges.keep(challenge(number, 0));
        }
        let stored = |behind: WriteBehind| {
            let number = |key: Vec<u8>| u64::from_be_bytes(key.try_into().unwrap());
            behind
                .put
                .into_iter()
                .map(move |(key, batch)| (number(key), batch))
        };
        let mut behind: Vec<_> = stored(challenges.write_behind(1, 1, 150)).collect();
        behind.extend(stored(challenges.write_behind(1, 1, 150)));
        let keys: Vec<u64> = behind.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [0, 64, 128, 150]);
        let after = Challenges::new(100, behind);
        assert_eq!(after.len(), 100);
        assert_eq!(after.find(&[99; 32]), None);
        assert_eq!(after.find(&[199; 32]), Some((challenge(199, 0), false)));
    }

    #[test]
    fn under_a_flood_little_reaches_the_store() {
        let challenges = Challenges::new(10, []);
        for round in 0..100 {
            for number in 0..100 {
                challenges.keep(challenge(number, round * 10));
            }
            // Newer challenges push out every challenge before it is two seconds old.
            let behind =
                challenges.write_behind(round * 10, (round * 10).saturating_sub(2_000), 500);
            assert!(behind.put.is_empty());
        }
        assert_eq!(challenges.len(), 10);
    }

    #[test]
    fn what_was_stored_is_found_again_and_known_to_be_of_an_earlier_run() {
        let before = Challenges::new(10, []);
        before.keep(challenge(1, 0));
        before.keep(challenge(2, 0));
        let stored = before.write_behind(1, 1, 10).put;
        let stored = stored
            .into_iter()
            .map(|(key, record)| (u64::from_be_bytes(key.try_into().unwrap()), record));
        let after = Challenges::new(10, stored);
        assert_eq!(after.find(&[2; 32]), Some((challenge(2, 0), false)));
        after.keep(challenge(3, 1));
        assert_eq!(
            after.find(&[3; 32]).map(|(_, of_this_run)| of_this_run),
            Some(true)
        );
        assert_eq!(after.write_behind(2, 2, 10).put[0].1.0.len(), 1);
    }
}
