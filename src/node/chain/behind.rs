//! Limits on how far the node may fall behind the chain. Pure.

// These limits are for a running program that does not see new blocks. A stopped program sells
// nothing, so only a payment in progress at its end is at risk: the peer has the preimage, but the
// channel still holds the payment. Such a payment expires at the earliest 40 blocks after its
// arrival, because LDK accepts no earlier expiry (invoices ask for 42). If the program is back:
//
// - within 3 blocks, half an hour: it settles the payment with the peer as usual.
// - later: fewer than LDK's 36 blocks are left (`CLTV_CLAIM_BUFFER`). LDK closes the channel at the
//   first block that it sees, to claim the payment on chain. The channel is lost, but the money is
//   safe while the remaining blocks suffice for two transactions, one after the other. LDK counts
//   on 18 blocks for one (`MAX_BLOCKS_FOR_CONF`). If these 18 must do for both, the program may be
//   away for 22 blocks, less than four hours.
// - after 40 blocks, between six and seven hours: the peer may have taken the payment back. The
//   buyer has then paid the peer, and the merchant loses this payment but nothing else.
//
// Without such a payment, the limit is the time to answer a revoked state: 144 blocks
// (`our_to_self_delay`), one day, less the time that the answer takes to confirm.

use std::time::Duration;

use crate::protocol::invoice::{Reach, Unready};

/// The time without new blocks after which the node makes no new sales: two hours, twelve blocks.
///
/// If a peer does not settle a payment, LDK must claim it on chain before it expires. LDK begins 36
/// blocks before the expiry (`CLTV_CLAIM_BUFFER`): 18 for the commitment transaction and 18 for the
/// claim. A node that is twelve blocks late begins with 24, which leaves twelve for each. The fees
/// for that are higher, as for a confirmation within one hour instead of two. An invoice's 42
/// blocks (`MIN_FINAL_CLTV_EXPIRY_DELTA`) and the 144 blocks to answer a revoked state
/// (`our_to_self_delay`) leave more room. Two hours have more than 24 blocks once in 1,400 times,
/// and then 12 are left.
pub(super) const LIMIT: Duration = Duration::from_secs(2 * 3_600);

/// The time without new blocks after which an error is logged. It is half of the limit, so the
/// operator has an hour to act.
pub(super) const ALARM: Duration = Duration::from_secs(3_600);

/// The time since the chain was last seen; `None` if it never was.
pub(super) fn since(seen_secs: Option<u64>, now_secs: u64) -> Option<Duration> {
    let seen_secs = seen_secs?;
    Some(Duration::from_secs(now_secs.saturating_sub(seen_secs)))
}

/// Makes the node unready if the chain was last seen too long ago, or never. This applies to a node
/// without channels, too: a first payment can open a channel, and LDK computes an invoice's expiry
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
        // A clock that was set back does not make the node unready.
        assert_eq!(judged(ready(), Some(seen), seen - 10), ready());
        let offline = Reach::Unready(Unready::PeersOffline);
        assert_eq!(judged(offline.clone(), None, seen), offline);
        let alone = || Reach::Unready(Unready::NoChannel);
        assert_eq!(judged(alone(), Some(seen), seen), alone());
        assert_eq!(judged(alone(), None, seen), Reach::Unready(Unready::Behind));
        assert!(ALARM < LIMIT);
    }
}
