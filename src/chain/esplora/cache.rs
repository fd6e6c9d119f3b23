//! A cache of answers. An answer deep in the chain is kept for good, any other for a moment. Pure.

use std::collections::HashMap;
use std::time::Duration;

use bitcoin::{BlockHash, Txid};
use tokio::time::Instant;

use super::question::{Answer, Learned, Place, Question};

/// The number of blocks on top of a block after which answers about it no longer change: as many as
/// Bitcoin requires before a block's reward can be spent.
const DEEP: u32 = 100;

/// How long every answer is valid. One sync asks for the tip up to three times. A sync whose source
/// contradicts itself starts again at once, and would ask hundreds of times without this.
const MOMENT: Duration = Duration::from_secs(2);

/// How long fee estimates are valid: half as long as ldk-node waits between two requests for them.
const FEES_GOOD: Duration = Duration::from_secs(300);

/// The most answers in the cache. The headers and proofs of a hundred channels with ten
/// transactions each are 3,000.
const ENTRIES_MAX: usize = 4_096;

/// The most bytes of all answers in the cache; most answers have less than 2 KB.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// The most blocks and transactions whose place is remembered, about 100 bytes each. Beyond it, all
/// are forgotten, which only costs requests.
const PLACES_MAX: usize = 16_384;

/// The moment of a look-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The time.
    pub(super) now: Instant,
    /// The height of the chain.
    pub(super) height: u32,
    /// The newest block, if it was reported just now.
    pub(super) newest: Option<BlockHash>,
}

/// The cached answers.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: HashMap<Question, Kept>,
    /// The size of all bodies.
    bytes: usize,
    /// Counts look-ups, to find the answer whose last look-up is the longest ago.
    looks: u64,
    heights: HashMap<BlockHash, u32>,
    blocks: HashMap<Txid, BlockHash>,
}

#[derive(Debug)]
struct Kept {
    answer: Answer,
    place: Place,
    /// The time until which the answer is valid, wherever its place is.
    until: Instant,
    /// The number of the last look-up.
    looked: u64,
}

impl Cache {
    /// Returns the answer to this question, if it is known to be unchanged.
    pub(super) fn get(&mut self, question: &Question, moment: &Moment) -> Option<Answer> {
        let kept = self.kept.get(question)?;
        if moment.now >= kept.until && !self.is_unchanged(kept.place, moment) {
            return None;
        }
        self.looks += 1;
        let kept = self.kept.get_mut(question)?;
        kept.looked = self.looks;
        Some(kept.answer.clone())
    }

    /// Returns the height of a block that was in the best chain when it was last reported.
    pub(super) fn height(&self, hash: &BlockHash) -> Option<u32> {
        self.heights.get(hash).copied()
    }

    fn is_unchanged(&self, place: Place, moment: &Moment) -> bool {
        let is_below = |at: u32| at.saturating_add(DEEP) <= moment.height;
        match place {
            Place::Nowhere => false,
            Place::Everywhere => true,
            Place::Tip(hash) => moment.newest == Some(hash),
            Place::Height(at) => is_below(at),
            Place::Block(hash) => self.height(&hash).is_some_and(is_below),
            Place::Tx(txid) => {
                let block = self.blocks.get(&txid);
                let at = block.and_then(|hash| self.height(hash));
                at.is_some_and(is_below)
            }
        }
    }

    /// Keeps an answer and what it says about places in the chain.
    pub(super) fn put(
        &mut self,
        question: &Question,
        answer: &Answer,
        learned: &Learned,
        now: Instant,
    ) {
        if self.heights.len() + self.blocks.len() > PLACES_MAX {
            self.heights.clear();
            self.blocks.clear();
        }
        self.heights.extend(learned.heights.iter().copied());
        self.blocks.extend(learned.blocks.iter().copied());
        self.looks += 1;
        let good = if *question == Question::Fees {
            FEES_GOOD
        } else {
            MOMENT
        };
        let kept = Kept {
            answer: answer.clone(),
            place: learned.place,
            until: now + good,
            looked: self.looks,
        };
        self.bytes += bytes(answer);
        if let Some(before) = self.kept.insert(question.clone(), kept) {
            self.bytes -= bytes(&before.answer);
        }
        while self.kept.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let longest = self.kept.iter().min_by_key(|(_, kept)| kept.looked);
            let Some(question) = longest.map(|(question, _)| question.clone()) else {
                break;
            };
            self.remove(&question);
        }
    }

    /// Forgets all answers that are valid only for a moment, except fee estimates.
    pub(super) fn look_afresh(&mut self, now: Instant) {
        let gone: Vec<_> = self
            .kept
            .iter_mut()
            .filter(|(question, _)| **question != Question::Fees)
            .filter_map(|(question, kept)| {
                kept.until = now;
                (kept.place == Place::Nowhere).then(|| question.clone())
            })
            .collect();
        for question in gone {
            self.remove(&question);
        }
    }

    fn remove(&mut self, question: &Question) {
        if let Some(kept) = self.kept.remove(question) {
            self.bytes -= bytes(&kept.answer);
        }
    }
}

fn bytes(answer: &Answer) -> usize {
    match answer {
        Answer::Body(body) => body.len(),
        Answer::NotThere => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::hashes::Hash as _;
    use bytes::Bytes;

    fn moment(height: u32, now: Instant) -> Moment {
        Moment {
            now,
            height,
            newest: None,
        }
    }

    fn answer(text: &'static str) -> Answer {
        Answer::Body(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn what_lies_deep_is_kept_and_the_rest_for_a_moment() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (question, good) = (Question::HashAt(7), answer("a"));
        let learned = Learned {
            place: Place::Height(7),
            ..Learned::default()
        };
        cache.put(&question, &good, &learned, now);
        assert_eq!(cache.get(&question, &moment(7, now)), Some(good.clone()));
        let later = now + MOMENT;
        assert_eq!(cache.get(&question, &moment(7 + DEEP - 1, later)), None);
        assert_eq!(cache.get(&question, &moment(7 + DEEP, later)), Some(good));
        cache.put(&Question::TipHash, &answer("b"), &Learned::default(), now);
        cache.look_afresh(now);
        assert_eq!(cache.get(&Question::TipHash, &moment(1_000, now)), None);
        assert!(cache.get(&question, &moment(1_000, later)).is_some());
    }

    #[test]
    fn a_proof_becomes_deep_when_its_block_is_heard_of() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (txid, hash) = (Txid::all_zeros(), BlockHash::all_zeros());
        let learned = Learned {
            place: Place::Block(hash),
            blocks: vec![(txid, hash)],
            ..Learned::default()
        };
        cache.put(&Question::Proof(txid), &answer("p"), &learned, now);
        let learned = Learned {
            place: Place::Tx(txid),
            ..Learned::default()
        };
        cache.put(&Question::RawTx(txid), &answer("r"), &learned, now);
        let later = now + MOMENT;
        assert_eq!(cache.get(&Question::Proof(txid), &moment(500, later)), None);
        let learned = Learned {
            heights: vec![(hash, 400)],
            ..Learned::default()
        };
        cache.put(&Question::BlockStatus(hash), &answer("s"), &learned, now);
        assert!(
            cache
                .get(&Question::Proof(txid), &moment(500, later))
                .is_some()
        );
        assert!(
            cache
                .get(&Question::RawTx(txid), &moment(500, later))
                .is_some()
        );
        assert_eq!(cache.get(&Question::RawTx(txid), &moment(499, later)), None);
    }

    #[test]
    fn the_newest_blocks_stay_the_same_until_there_is_another() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (hash, later) = (BlockHash::all_zeros(), now + MOMENT);
        let learned = Learned {
            place: Place::Tip(hash),
            ..Learned::default()
        };
        cache.put(&Question::Blocks, &answer("b"), &learned, now);
        cache.look_afresh(now);
        assert_eq!(cache.get(&Question::Blocks, &moment(9, later)), None);
        let newest = Some(hash);
        let still = Moment {
            newest,
            ..moment(9, later)
        };
        assert!(cache.get(&Question::Blocks, &still).is_some());
    }

    #[test]
    fn it_is_bounded_and_forgets_what_nobody_looked_at() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let learned = Learned {
            place: Place::Everywhere,
            ..Learned::default()
        };
        let count = u32::try_from(ENTRIES_MAX).unwrap();
        for height in 0..count {
            cache.put(&Question::HashAt(height), &answer("a"), &learned, now);
        }
        assert!(cache.get(&Question::HashAt(0), &moment(0, now)).is_some());
        cache.put(&Question::HashAt(count), &answer("a"), &learned, now);
        assert_eq!(cache.kept.len(), ENTRIES_MAX);
        assert!(cache.get(&Question::HashAt(0), &moment(0, now)).is_some());
        assert_eq!(cache.get(&Question::HashAt(1), &moment(0, now)), None);
        let big = Answer::Body(Bytes::from(vec![0; BYTES_MAX - 10]));
        cache.put(&Question::Blocks, &big, &learned, now);
        assert!(cache.bytes <= BYTES_MAX);
    }
}
