//! The cache of a hook's answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::answer::Quoted;
use super::config::HookError;

/// The most questions in the cache. Each takes about 500 bytes, or twice that with a long
/// description. When the cache is full, the oldest question is removed.
const SLOTS_MAX: usize = 10_000;

/// The result of a question.
pub(super) type Outcome = Result<Quoted, HookError>;

/// The cached answer to one question. The slot is locked while the hook is asked.
pub(super) type Slot = tokio::sync::Mutex<Option<Kept>>;

/// A result and the time span in which it is valid.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    outcome: Outcome,
    from_ms: u64,
    until_ms: u64,
}

impl Kept {
    pub(super) fn new(outcome: Outcome, now_ms: u64, time: Duration) -> Self {
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            outcome,
            from_ms: now_ms,
            until_ms: now_ms.saturating_add(time_ms),
        }
    }

    /// The result, if it is still valid. Setting the clock back does not extend its validity.
    pub(super) fn at(&self, now_ms: u64) -> Option<Outcome> {
        (self.from_ms..self.until_ms)
            .contains(&now_ms)
            .then(|| self.outcome.clone())
    }
}

/// The cached answers to all questions.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// The cache. A `std` mutex: held for a look-up and never across an await.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The slots by the hash of the question, because the question may be long and a stranger
    /// chooses it.
    slots: HashMap<[u8; 32], Arc<Slot>>,
    /// The keys of `slots`, the oldest first.
    order: VecDeque<[u8; 32]>,
}

impl Slots {
    /// Returns the slot of this question, or a new slot.
    pub(super) fn of(&self, question: &[u8]) -> Arc<Slot> {
        let key: [u8; 32] = Sha256::digest(question).into();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = inner.slots.get(&key) {
            return Arc::clone(slot);
        }
        if inner.order.len() >= SLOTS_MAX
            && let Some(first) = inner.order.pop_front()
        {
            inner.slots.remove(&first);
        }
        let slot = Arc::new(Slot::default());
        inner.slots.insert(key, Arc::clone(&slot));
        inner.order.push_back(key);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_questions_fills_no_memory() {
        let slots = Slots::default();
        let first = slots.of(b"first");
        assert!(Arc::ptr_eq(&first, &slots.of(b"first")));
        for n in 0..SLOTS_MAX as u64 + 10 {
            slots.of(&n.to_le_bytes());
        }
        let inner = slots.inner.lock().unwrap();
        assert_eq!(
            (inner.slots.len(), inner.order.len()),
            (SLOTS_MAX, SLOTS_MAX)
        );
        drop(inner);
        assert!(
            !Arc::ptr_eq(&first, &slots.of(b"first")),
            "the oldest made room"
        );
    }

    #[test]
    fn an_outcome_is_good_for_its_time_and_not_before() {
        let kept = Kept::new(Err(HookError::Zero), 1_000, Duration::from_millis(500));
        for (now_ms, is_good) in [(999, false), (1_000, true), (1_499, true), (1_500, false)] {
            assert_eq!(kept.at(now_ms).is_some(), is_good, "{now_ms}");
        }
    }
}
