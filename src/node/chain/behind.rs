//! How far the node may fall behind the chain. Pure.
//!
//! This is about a program that runs and does not see new blocks. One that does not run sells nothing meanwhile, so only what was
//! being paid when it ended counts: a payment whose preimage had left for the peer, and that the channel still holds. It expires
//! at the earliest 40 blocks after it came (LDK accepts none that is nearer; invoices ask for 42). Who is back
//!
//! - within 3 blocks, half an hour, settles it with the peer as if nothing had been;
//! - later than that finds less than LDK's 36 blocks left (`CLTV_CLAIM_BUFFER`), and LDK closes the channel at the first block
//!   that it sees, to claim the payment on chain: the channel is lost, and the money is not, while what is left suffices for two
//!   transactions, one after the other. With the 18 blocks that LDK counts on for one (`MAX_BLOCKS_FOR_CONF`) left for both, that
//!   is 22 blocks away, less than four hours;
//! - after 40 blocks, between six and seven hours, may find that the peer has taken it back. The buyer has then paid the peer, and
//!   the merchant loses that payment; nothing else.
//!
//! Without such a payment the limit is the time in which a revoked state has to be answered: 144 blocks (`our_to_self_delay`), a
//! day, less what the answer takes to confirm.

use std::time::Duration;

use crate::protocol::invoice::{Reach, Unready};

/// Beyond this nothing new is sold: two hours, twelve blocks.
///
/// A payment that a peer does not let us settle has to be claimed on chain before it expires. LDK begins with that 36 blocks
/// before (`CLTV_CLAIM_BUFFER`): 18 for the commitment transaction and 18 for the claim. Whoever sees the chain twelve blocks
/// late begins with 24, two thirds, which leaves twelve to each of the two: in fees that is the difference between the next
/// hour and the next two. The invoice's 42 blocks (`MIN_FINAL_CLTV_EXPIRY_DELTA`) and the 144 in which a revoked state has to
/// be answered (`our_to_self_delay`) leave more room than that. Blocks come when they like: in two hours there are more than
/// 24 once in 1,400 times, and then 12 are left.
pub(super) const LIMIT: Duration = Duration::from_secs(2 * 3_600);

/// From here on it is an error in the log: half of the limit, an hour in which somebody can do something.
pub(super) const ALARM: Duration = Duration::from_secs(3_600);

/// How long ago the chain was last seen; `None` if it never was.
pub(super) fn since(seen_secs: Option<u64>, now_secs: u64) -> Option<Duration> {
    let seen_secs = seen_secs?;
    Some(Duration::from_secs(now_secs.saturating_sub(seen_secs)))
}

/// How the node is reached by somebody who has last seen the chain then: not at all beyond the limit, nor before it has ever
/// seen it. That goes for a node without channels, too: a first payment can open one, and LDK takes the end of an invoice's time
/// from the last block that it has seen.
pub(in crate::node) fn judged(reach: Reach, seen_secs: Option<u64>, now_secs: u64) -> Reach {
    let is_within = since(seen_secs, now_secs).is_some_and(|behind| behind <= LIMIT);
    match reach {
        Reach::Ready(_) | Reach::Unready(Unready::NoChannel) if !is_within => {
            Reach::Unready(Unready::Behind)
        }
        reach @ (Reach::Ready(_) | Reach::Unready(_)) => reach,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::invoice::Inbound;

    #[test]
    fn beyond_the_limit_and_before_the_first_look_nothing_is_sold() {
        let ready = || Reach::Ready(Inbound::default());
        let seen = 1_000_000;
        let at = |secs| judged(ready(), Some(seen), seen + secs);
        assert_eq!(at(0), ready());
        assert_eq!(at(LIMIT.as_secs()), ready());
        assert_eq!(at(LIMIT.as_secs() + 1), Reach::Unready(Unready::Behind));
        assert_eq!(judged(ready(), None, seen), Reach::Unready(Unready::Behind));
        // A clock that was set back is no reason.
        assert_eq!(judged(ready(), Some(seen), seen - 10), ready());
        let offline = Reach::Unready(Unready::PeersOffline);
        assert_eq!(judged(offline.clone(), None, seen), offline);
        let alone = || Reach::Unready(Unready::NoChannel);
        assert_eq!(judged(alone(), Some(seen), seen), alone());
        assert_eq!(judged(alone(), None, seen), Reach::Unready(Unready::Behind));
        assert!(ALARM < LIMIT);
    }
}
