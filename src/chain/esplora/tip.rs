//! The newest block: never backwards.
//!
//! A server that is told of a block later than another is a block behind for a while; one that hangs is so for ever. To LDK
//! fewer blocks than before are a reorganisation in which transactions vanish, and for a vanished funding transaction it
//! closes the channel. So a tip below one that was seen before counts as a fault of whoever shows it. A reorganisation that
//! really happened has more work behind it, hence after a block or two more height too; until then nothing is read. Nor is a
//! greater height believed of somebody who is not known to be of our chain, see `ours.rs`.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::BlockHash;
use tokio::time::Instant;

use super::Relay;
use super::fault::Fault;
use super::question::{Answer, Question, Tip};

/// After this long a lower tip is believed if nobody shows another and its branch is another than ours: six blocks' time, in
/// which no chain of any network stays the shorter one, and half of what channels can do without. A server that hangs has our
/// own blocks, and is never believed.
const LOWER_BELIEVED_AFTER: Duration = Duration::from_secs(3_600);

/// How long no block may come until other endpoints are asked whether they know one: of all blocks one in four hundred takes
/// longer (e^-6), and the question costs one request, or two of one that knows more.
const STILL: Duration = Duration::from_secs(3_600);

/// The least time between two such questions.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(600);

/// Blocks that another one must be ahead by: one may be a matter of seconds.
const AHEAD: u32 = 2;

/// How long what an endpoint said of its height is enough to switch to it.
const HEIGHT_GOOD: Duration = Duration::from_secs(30);

/// How long the newest block is taken for that: as long as one look at the chain goes on.
const TIP_GOOD: Duration = Duration::from_secs(30);

/// How long to wait before something unusual is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Until a lower tip of another branch is taken for a reorganisation.
    pub lower: Duration,
    /// Without a block, until other endpoints are asked.
    pub still: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            lower: LOWER_BELIEVED_AFTER,
            still: STILL,
        }
    }
}

/// What is known of the newest block.
#[derive(Debug)]
pub(super) struct TipSeen {
    waits: Waits,
    /// The greatest height that was seen.
    highest: u32,
    /// The newest block, and since when.
    newest: Option<(BlockHash, Instant)>,
    /// When it was last said to be that, unless fresh answers are wanted since.
    said: Option<Instant>,
    /// Since when only lower ones are seen.
    lower_since: Option<Instant>,
    /// When others were last asked because no block came.
    looked_around: Option<Instant>,
}

impl TipSeen {
    /// Nothing was seen yet.
    pub(super) fn new(waits: Waits) -> Self {
        Self {
            waits,
            highest: 0,
            newest: None,
            said: None,
            lower_since: None,
            looked_around: None,
        }
    }

    /// The greatest height that was seen.
    pub(super) fn height(&self) -> u32 {
        self.highest
    }

    /// The newest block, if somebody has just said so.
    pub(super) fn newest(&self, now: Instant) -> Option<BlockHash> {
        let said = self.said?;
        let (hash, _) = self.newest?;
        (now < said + TIP_GOOD).then_some(hash)
    }

    /// From now on it wants to be heard of again.
    pub(super) fn look_afresh(&mut self) {
        self.said = None;
    }

    /// Whether a tip at this height is lower, and only lower ones have been seen for long.
    fn is_lower_for_long(&mut self, height: u32, now: Instant) -> bool {
        if height >= self.highest {
            return false;
        }
        let since = *self.lower_since.get_or_insert(now);
        now >= since + self.waits.lower
    }

    /// Whether a tip at this height is to be believed. A lower one only after long, and if it is of another branch.
    fn judge(&mut self, height: u32, is_other_branch: bool, now: Instant) -> Result<(), Fault> {
        let is_lower = height < self.highest;
        if is_lower && !(self.is_lower_for_long(height, now) && is_other_branch) {
            let blocks = self.highest - height;
            return Err(Fault::Behind { blocks });
        }
        Ok(())
    }

    /// Whoever is in use shows this tip; an error if that is not to be believed.
    fn show(&mut self, height: u32, is_other_branch: bool, now: Instant) -> Result<(), Fault> {
        self.judge(height, is_other_branch, now)?;
        if height < self.highest {
            tracing::warn!(
                "Nobody has shown block {} for an hour, and another branch is at {height}: that is the chain from now on",
                self.highest
            );
        }
        self.highest = height;
        self.lower_since = None;
        Ok(())
    }

    /// Whether no block has come for so long that others should be asked; they are not asked again soon.
    fn is_still(&mut self, now: Instant) -> bool {
        let is_old = |since: Option<Instant>, age| since.is_none_or(|since| now >= since + age);
        let since = self.newest.map(|(_, since)| since);
        let is_still = since.is_some() && is_old(since, self.waits.still);
        let is_time = is_old(self.looked_around, LOOK_AROUND_EVERY);
        if is_still && is_time {
            self.looked_around = Some(now);
        }
        is_still && is_time
    }
}

impl Relay {
    pub(super) fn tip(&self) -> MutexGuard<'_, TipSeen> {
        self.tip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node knows the chain up to this height: nobody who shows less is listened to.
    pub fn seen(&self, height: u32) {
        let mut tip = self.tip();
        tip.highest = tip.highest.max(height);
    }

    /// Judges the tip that an endpoint has shown.
    pub(super) async fn examine(&self, index: usize, tip: Tip) -> Result<(), Fault> {
        let height = match (tip.height, tip.hash) {
            (Some(height), _) => height,
            (None, Some(hash)) => self.height_of(index, hash).await?,
            (None, None) => return Ok(()),
        };
        self.endpoints[index].state().height = Some((height, Instant::now()));
        let is_other_branch = self.is_other_branch(index, height, tip.hash).await?;
        let now = Instant::now();
        let mut seen = self.tip();
        seen.show(height, is_other_branch, now)?;
        if let Some(hash) = tip.hash {
            if seen.newest.is_none_or(|(newest, _)| newest != hash) {
                seen.newest = Some((hash, now));
            }
            seen.said = Some(now);
        }
        Ok(())
    }

    /// The height of an endpoint's newest block. The node asks for it next, and is told the same.
    async fn height_of(&self, index: usize, hash: BlockHash) -> Result<u32, Fault> {
        if let Some(height) = self.cache().height(&hash) {
            return Ok(height);
        }
        let question = Question::BlockStatus(hash);
        let (answer, learned) = self.send(index, &question, question.worth()).await?;
        let height = learned.heights.first().map(|(_, height)| *height);
        let height = height.ok_or(Fault::Contradiction)?;
        self.cache()
            .put(&question, &answer, &learned, Instant::now());
        Ok(height)
    }

    /// Whether a lower tip, after all that time, is of a branch that left ours. Whoever has our own block there is behind, and so
    /// is, for all we know, whoever is at a height of which we have forgotten the block.
    async fn is_other_branch(
        &self,
        index: usize,
        height: u32,
        hash: Option<BlockHash>,
    ) -> Result<bool, Fault> {
        if !self.tip().is_lower_for_long(height, Instant::now()) {
            return Ok(false);
        }
        let Some(ours) = self.ours().at(height) else {
            return Ok(false);
        };
        let theirs = match hash {
            Some(hash) => hash,
            None => self.hash_at(index, height).await?,
        };
        Ok(ours.is_this(theirs).is_err())
    }

    /// Whether an endpoint has as many blocks as are known: only then it is switched to. What it says is not taken for the height
    /// of the chain, of which it may not be.
    pub(super) async fn is_level(&self, index: usize) -> Result<(), Fault> {
        let known = self.endpoints[index].state().height;
        let height = match known {
            Some((height, said)) if Instant::now() < said + HEIGHT_GOOD => height,
            Some(_) | None => self.ask_height(index).await?,
        };
        let is_other_branch = self.is_other_branch(index, height, None).await?;
        self.tip().judge(height, is_other_branch, Instant::now())
    }

    async fn ask_height(&self, index: usize) -> Result<u32, Fault> {
        let question = Question::TipHeight;
        let (answer, learned) = self.send(index, &question, question.worth()).await?;
        match (answer, learned.tip.and_then(|tip| tip.height)) {
            (Answer::Body(_), Some(height)) => {
                self.endpoints[index].state().height = Some((height, Instant::now()));
                Ok(height)
            }
            (Answer::NotThere, _) | (Answer::Body(_), None) => Err(Fault::Contradiction),
        }
    }

    /// Asks the other endpoints for their height if no block has come for long: the one in use may hang.
    pub(super) async fn look_around(&self) {
        if self.endpoints.len() < 2 || !self.tip().is_still(Instant::now()) {
            return;
        }
        let ours = self.tip().height();
        for index in self.order().skip(1) {
            let worth = Question::TipHeight.worth();
            if self.endpoints[index]
                .waits_until(worth, Instant::now())
                .is_some()
            {
                continue;
            }
            match self.is_ahead(index, ours).await {
                Ok(0) => {}
                Ok(blocks) => {
                    self.failed(self.current(), &Fault::Behind { blocks });
                    self.use_from_now_on(index);
                    return;
                }
                Err(fault) => self.failed(index, &fault),
            }
        }
    }

    /// By how many blocks an endpoint is ahead; 0 if it is not worth a change. An error if it is of another chain.
    async fn is_ahead(&self, index: usize, ours: u32) -> Result<u32, Fault> {
        let blocks = self.ask_height(index).await?.saturating_sub(ours);
        if blocks < AHEAD {
            return Ok(0);
        }
        self.is_ours(index).await?;
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_tip_is_not_believed_until_nobody_shows_another_for_an_hour_and_then_only_of_another_branch()
     {
        let (mut tip, now) = (TipSeen::new(Waits::default()), Instant::now());
        tip.show(100, false, now).unwrap();
        let behind = |blocks| Err(Fault::Behind { blocks });
        assert_eq!(tip.show(99, true, now), behind(1));
        let later = now + LOWER_BELIEVED_AFTER - Duration::from_secs(1);
        assert_eq!(tip.show(99, true, later), behind(1));
        tip.show(100, false, later).unwrap();
        let after = now + LOWER_BELIEVED_AFTER * 2;
        // The hour begins with the first lower one, not with a pause in which nothing was asked.
        assert_eq!(tip.show(98, true, after), behind(2));
        let long_after = after + LOWER_BELIEVED_AFTER * 100;
        assert_eq!(tip.show(98, false, long_after), behind(2));
        assert_eq!(tip.judge(98, true, long_after), Ok(()));
        assert_eq!(tip.height(), 100);
        assert_eq!(tip.show(98, true, long_after), Ok(()));
        assert_eq!(tip.height(), 98);
    }

    #[test]
    fn what_somebody_says_who_is_not_in_use_does_not_raise_the_height() {
        let (mut tip, now) = (TipSeen::new(Waits::default()), Instant::now());
        tip.show(100, false, now).unwrap();
        tip.judge(500, false, now).unwrap();
        assert_eq!(tip.height(), 100);
        tip.show(100, false, now).unwrap();
    }

    #[test]
    fn others_are_asked_when_no_block_has_come_for_an_hour_and_not_again_at_once() {
        let (mut tip, now) = (TipSeen::new(Waits::default()), Instant::now());
        assert!(!tip.is_still(now + STILL));
        tip.newest = Some((bitcoin::hashes::Hash::all_zeros(), now));
        assert!(!tip.is_still(now));
        assert!(tip.is_still(now + STILL));
        assert!(!tip.is_still(now + STILL + Duration::from_secs(1)));
        assert!(tip.is_still(now + STILL + LOOK_AROUND_EVERY));
    }
}
