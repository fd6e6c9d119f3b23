//! The newest block: never backwards.
//!
//! A server that is told of a block later than another is a block behind for a while; one that hangs is so for ever. To LDK
//! fewer blocks than before are a reorganisation in which transactions vanish, and for a vanished funding transaction it
//! closes the channel. So a tip below one that was seen before counts as a fault of whoever shows it. A reorganisation that
//! really happened has more work behind it, hence after a block or two more height too; until then nothing is read.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::BlockHash;
use tokio::time::Instant;

use super::Relay;
use super::endpoint::Fault;
use super::question::{Answer, Question, Tip};

/// After this long a lower tip is believed if nobody shows another: six blocks' time, in which no chain of any network stays
/// the shorter one, and half of what channels can do without.
const LOWER_BELIEVED_AFTER: Duration = Duration::from_secs(3_600);

/// How long no block may come until other endpoints are asked whether they know one: of all blocks one in four hundred takes
/// longer (e^-6), and the question costs one request.
const STILL: Duration = Duration::from_secs(3_600);

/// The least time between two such questions.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(600);

/// Blocks that another one must be ahead by: one may be a matter of seconds.
const AHEAD: u32 = 2;

/// How long what an endpoint said of its height is enough to switch to it.
const HEIGHT_GOOD: Duration = Duration::from_secs(30);

/// How long the newest block is taken for that: as long as one look at the chain goes on.
const TIP_GOOD: Duration = Duration::from_secs(30);

/// What is known of the newest block.
#[derive(Debug, Default)]
pub(super) struct TipSeen {
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

    /// Somebody shows this tip; an error if that is not to be believed.
    fn show(&mut self, height: u32, now: Instant) -> Result<(), Fault> {
        if height < self.highest {
            let since = *self.lower_since.get_or_insert(now);
            if now < since + LOWER_BELIEVED_AFTER {
                let blocks = self.highest - height;
                return Err(Fault::Behind { blocks });
            }
            tracing::warn!(
                "Nobody has shown block {} for an hour: the chain is at {height} from now on",
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
        let is_still = since.is_some() && is_old(since, STILL);
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
        let now = Instant::now();
        self.endpoints[index].state().height = Some((height, now));
        let mut seen = self.tip();
        seen.show(height, now)?;
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
        let (answer, learned) = self.send(index, &question).await?;
        let height = learned.heights.first().map(|(_, height)| *height);
        let height = height.ok_or(Fault::Contradiction)?;
        self.cache()
            .put(&question, &answer, &learned, Instant::now());
        Ok(height)
    }

    /// Whether an endpoint has all blocks that are known: only then it is switched to.
    pub(super) async fn is_level(&self, index: usize) -> Result<(), Fault> {
        let now = Instant::now();
        let known = self.endpoints[index].state().height;
        match known {
            Some((height, said)) if now < said + HEIGHT_GOOD => self.tip().show(height, now),
            Some(_) | None => {
                let height = self.ask_height(index).await?;
                self.tip().show(height, Instant::now())
            }
        }
    }

    async fn ask_height(&self, index: usize) -> Result<u32, Fault> {
        let (answer, learned) = self.send(index, &Question::TipHeight).await?;
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
            match self.ask_height(index).await {
                Ok(height) if height >= ours.saturating_add(AHEAD) => {
                    let blocks = height - ours;
                    self.failed(self.current(), &Fault::Behind { blocks });
                    self.use_from_now_on(index);
                    return;
                }
                Ok(_) => {}
                Err(fault) => self.failed(index, &fault),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_tip_is_not_believed_until_nobody_shows_another_for_an_hour() {
        let (mut tip, now) = (TipSeen::default(), Instant::now());
        tip.show(100, now).unwrap();
        assert_eq!(tip.show(99, now), Err(Fault::Behind { blocks: 1 }));
        let later = now + LOWER_BELIEVED_AFTER - Duration::from_secs(1);
        assert!(tip.show(99, later).is_err());
        tip.show(100, later).unwrap();
        let after = now + LOWER_BELIEVED_AFTER * 2;
        // The hour begins with the first lower one, not with a pause in which nothing was asked.
        assert!(tip.show(98, after).is_err());
        assert_eq!(tip.show(98, after + LOWER_BELIEVED_AFTER), Ok(()));
        assert_eq!(tip.height(), 98);
    }

    #[test]
    fn others_are_asked_when_no_block_has_come_for_an_hour_and_not_again_at_once() {
        let (mut tip, now) = (TipSeen::default(), Instant::now());
        assert!(!tip.is_still(now + STILL));
        tip.newest = Some((bitcoin::hashes::Hash::all_zeros(), now));
        assert!(!tip.is_still(now));
        assert!(tip.is_still(now + STILL));
        assert!(!tip.is_still(now + STILL + Duration::from_secs(1)));
        assert!(tip.is_still(now + STILL + LOOK_AROUND_EVERY));
    }
}
