//! The newest block, which must never go backwards.
//!
//! A server that learns of a block late is a block behind for a while; a stalled server stays
//! behind. To LDK, fewer blocks look like a reorganisation in which transactions vanish, and it
//! closes a channel whose funding transaction vanishes. So a tip below the highest one seen counts
//! as a fault of the endpoint. A real reorganisation has more work, so it also has more height
//! after a block or two; until then nothing is read. A greater height is believed only of an
//! endpoint on our chain (see `same_chain.rs`).

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::BlockHash;
use tokio::time::Instant;

use super::Relay;
use super::fault::Fault;
use super::question::{Answer, Question, Tip};

/// A lower tip is believed after this time, if no endpoint shows a higher one and the tip is on
/// another branch. In the time of six blocks, no branch stays the shorter one, and channels can go
/// without chain data for twice as long. A stalled server has our own blocks and is never believed.
const LOWER_BELIEVED_AFTER: Duration = Duration::from_secs(3_600);

/// How long no block may come before other endpoints are asked for their height. One block in four
/// hundred takes longer (e^-6). Asking costs one request, or two to an endpoint that is ahead.
const STILL: Duration = Duration::from_secs(3_600);

/// The least time between two such rounds of asking.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(600);

/// The number of blocks that another endpoint must be ahead: one block may be a matter of seconds.
const AHEAD: u32 = 2;

/// How long an endpoint's reported height is recent enough to switch to the endpoint.
const HEIGHT_GOOD: Duration = Duration::from_secs(30);

/// How long the newest block counts as the newest: as long as one sync of the chain lasts.
const TIP_GOOD: Duration = Duration::from_secs(30);

/// The waits before something unusual is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// The wait until a lower tip of another branch counts as a reorganisation.
    pub lower: Duration,
    /// The time without a block until other endpoints are asked.
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

/// The state of the newest block.
#[derive(Debug)]
pub(super) struct TipSeen {
    waits: Waits,
    /// The greatest height that an endpoint in use has shown, or that the node knows.
    highest: u32,
    /// The newest block, and the time at which it was first seen.
    newest: Option<(BlockHash, Instant)>,
    /// The time at which it was last reported; `None` if a fresh answer is wanted.
    said: Option<Instant>,
    /// The time since which only lower tips are seen.
    lower_since: Option<Instant>,
    /// The time at which other endpoints were last asked because no block came.
    looked_around: Option<Instant>,
}

impl TipSeen {
    /// Starts without any known block.
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

    /// Returns the greatest height that was seen.
    pub(super) fn height(&self) -> u32 {
        self.highest
    }

    /// Returns the newest block, if an endpoint has just reported it.
    pub(super) fn newest(&self, now: Instant) -> Option<BlockHash> {
        let said = self.said?;
        let (hash, _) = self.newest?;
        (now < said + TIP_GOOD).then_some(hash)
    }

    /// Requires the next answer about the tip to be fresh.
    pub(super) fn look_afresh(&mut self) {
        self.said = None;
    }

    /// Whether this height is below the highest known one, and all tips have been lower for a long
    /// time.
    fn is_lower_for_long(&mut self, height: u32, now: Instant) -> bool {
        if height >= self.highest {
            return false;
        }
        let since = *self.lower_since.get_or_insert(now);
        now >= since + self.waits.lower
    }

    /// Checks whether a tip at this height is believed. A lower tip is believed only after a long
    /// time, and only if it is on another branch.
    fn judge(&mut self, height: u32, is_other_branch: bool, now: Instant) -> Result<(), Fault> {
        let is_lower = height < self.highest;
        if is_lower && !(self.is_lower_for_long(height, now) && is_other_branch) {
            let blocks = self.highest - height;
            return Err(Fault::Behind { blocks });
        }
        Ok(())
    }

    /// Records the tip of the endpoint in use. Fails if the tip is not believed.
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

    /// Whether no block has come for so long that other endpoints should be asked. After `true`,
    /// returns `false` for a while.
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

    /// Records that the node knows the chain up to this height. Endpoints with fewer blocks are not
    /// trusted.
    pub fn seen(&self, height: u32) {
        let mut tip = self.tip();
        tip.highest = tip.highest.max(height);
    }

    /// Checks whether the tip that an endpoint has shown is believed, and records it.
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

    /// Returns the height of an endpoint's newest block. The node asks for it next and gets the
    /// same answer.
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

    /// Whether a lower tip, after the wait, is on a branch that left ours. If the endpoint has our
    /// own block at this height, it is only behind. If we have forgotten our block at this height,
    /// the endpoint counts as behind.
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

    /// Checks that an endpoint has as many blocks as are known, without which it is not switched
    /// to. Its height does not count as the height of our chain, because the endpoint may be on
    /// another one.
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

    /// Asks the other endpoints for their height if no block has come for long: the one in use may
    /// be stalled.
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

    /// Returns by how many blocks an endpoint is ahead; 0 if that is not worth a switch. Fails if
    /// the endpoint is on another chain.
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
        // The hour begins with the first lower tip, not with a pause in which no endpoint was
        // asked.
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
