//! Payments that arrived and are not safe: their channel was closed before its peer had signed a
//! commitment that pays them to this node. The node claims them on chain. A payment whose claim is
//! not confirmed before its timeout is lost to the peer.

use std::collections::HashMap;

use ldk_node::LightningBalance;
use lightning::chain::channelmonitor::BalanceSource;
use lightning::ln::types::ChannelId;

/// A payment that the node claims on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    channel: ChannelId,
    sat: u64,
    /// The block from which on the peer may take the payment.
    timeout_height: u32,
    /// Whether its money was seen awaiting confirmations.
    is_won: bool,
}

/// The key of a claim: its channel and payment hash, because a payment in parts may be claimed over
/// several channels.
type Key = (ChannelId, [u8; 32]);

/// The number of blocks for which LDK reports the money of a claim (its `ANTI_REORG_DELAY`). A
/// check that comes later cannot know the outcome of the claim.
const TOLD_FOR_BLOCKS: u32 = 6;

/// A change in the state of a payment, found by a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The node now claims the payment on chain.
    Contested {
        /// The payment hash.
        payment_hash: [u8; 32],
        /// The amount in sat.
        sat: u64,
        /// The block from which on the peer may take the payment.
        timeout_height: u32,
    },
    /// The outcome of the claim is unknown, because no check ran in time.
    Missed {
        /// The payment hash.
        payment_hash: [u8; 32],
        /// The amount in sat.
        sat: u64,
    },
    /// The peer has taken the payment back.
    Lost {
        /// The payment hash.
        payment_hash: [u8; 32],
        /// The amount in sat.
        sat: u64,
    },
}

/// The payments that are claimed on chain. After a restart, LDK reports the payments that are still
/// claimed. The outcome of a claim that ended while the program did not run is unknown.
#[derive(Debug, Default)]
pub(super) struct Contested {
    claims: HashMap<Key, Claim>,
    /// The height at the last check.
    height: u32,
    /// Whether so many blocks came between the last two checks that the money of a claim may have
    /// gone unseen.
    has_missed: bool,
}

impl Contested {
    /// Records the height, and returns whether it differs from the height at the last check.
    pub(super) fn is_due(&mut self, height: u32) -> bool {
        let before = std::mem::replace(&mut self.height, height);
        self.has_missed = height >= before.saturating_add(TOLD_FOR_BLOCKS);
        before != height
    }

    /// Compares the claims with the balances that the monitors of closed channels report, and
    /// returns the changes.
    pub(super) fn look(&mut self, balances: &[LightningBalance], height: u32) -> Vec<Turn> {
        let mut turns = Vec::new();
        let mut still = HashMap::new();
        for balance in balances {
            let LightningBalance::ContentiousClaimable {
                channel_id,
                amount_satoshis,
                timeout_height,
                payment_hash,
                ..
            } = balance
            else {
                continue;
            };
            let key = (*channel_id, payment_hash.0);
            let claim = Claim {
                channel: *channel_id,
                sat: *amount_satoshis,
                timeout_height: *timeout_height,
                is_won: false,
            };
            if still.insert(key, claim).is_none() && !self.claims.contains_key(&key) {
                turns.push(Turn::Contested {
                    payment_hash: payment_hash.0,
                    sat: claim.sat,
                    timeout_height: claim.timeout_height,
                });
            }
        }
        let claims = std::mem::take(&mut self.claims).into_iter();
        let mut gone: Vec<_> = claims.filter(|(key, _)| !still.contains_key(key)).collect();
        // Among claims of the same amount, match those with known funds first.
        gone.sort_by_key(|(key, claim)| (!claim.is_won, *key));
        let mut money: Vec<_> = balances.iter().collect();
        for (key, claim) in gone {
            if let Some(index) = money.iter().position(|balance| claim.is_for(balance)) {
                money.swap_remove(index);
                let is_won = true;
                still.insert(key, Claim { is_won, ..claim });
            } else if claim.is_won {
                // The money of the claim is in the wallet.
            } else if self.has_missed {
                turns.push(Turn::Missed {
                    payment_hash: key.1,
                    sat: claim.sat,
                });
            } else if height >= claim.timeout_height {
                turns.push(Turn::Lost {
                    payment_hash: key.1,
                    sat: claim.sat,
                });
            } else {
                // A reorganisation may have removed its transaction from the chain.
                still.insert(key, claim);
            }
        }
        self.claims = still;
        turns
    }
}

impl Claim {
    /// Whether this balance is the money of the claim, awaiting its confirmations.
    fn is_for(&self, balance: &LightningBalance) -> bool {
        matches!(
            balance,
            LightningBalance::ClaimableAwaitingConfirmations {
                channel_id,
                amount_satoshis,
                source: BalanceSource::Htlc,
                ..
            } if *channel_id == self.channel && *amount_satoshis == self.sat
        )
    }
}

#[cfg(test)]
mod tests {
    use ldk_node::lightning::types::payment::{PaymentHash, PaymentPreimage};

    use super::super::reach::testing::peer;
    use super::*;

    const CHANNEL: ChannelId = ChannelId([1; 32]);

    fn claiming(hash: u8, sat: u64) -> LightningBalance {
        LightningBalance::ContentiousClaimable {
            channel_id: CHANNEL,
            counterparty_node_id: peer(1),
            amount_satoshis: sat,
            timeout_height: 140,
            payment_hash: PaymentHash([hash; 32]),
            payment_preimage: PaymentPreimage([hash; 32]),
        }
    }

    fn won(sat: u64) -> LightningBalance {
        LightningBalance::ClaimableAwaitingConfirmations {
            channel_id: CHANNEL,
            counterparty_node_id: peer(1),
            amount_satoshis: sat,
            confirmation_height: 200,
            source: BalanceSource::Htlc,
        }
    }

    #[test]
    fn a_claim_that_is_gone_after_its_time_is_lost_unless_its_money_waits() {
        let lost = Turn::Lost {
            payment_hash: [1; 32],
            sat: 50_000,
        };
        let begun = || {
            let mut contested = Contested::default();
            let turns = contested.look(&[claiming(1, 50_000)], 100);
            assert!(matches!(
                turns[..],
                [Turn::Contested {
                    timeout_height: 140,
                    ..
                }]
            ));
            assert_eq!(contested.look(&[claiming(1, 50_000)], 101), []);
            contested
        };
        assert_eq!(begun().look(&[won(50_000)], 120), []);
        assert_eq!(begun().look(&[won(50_000)], 150), []);
        assert_eq!(begun().look(&[], 140), [lost]);
        assert_eq!(begun().look(&[won(40_000)], 150), [lost]);
        let mut undecided = begun();
        assert_eq!(undecided.look(&[], 120), []);
        assert_eq!(undecided.look(&[claiming(1, 50_000)], 121), []);
        assert_eq!(undecided.look(&[], 141), [lost]);
        assert_eq!(undecided.look(&[], 142), [], "it is told once");
    }

    #[test]
    fn one_balance_is_the_money_of_one_claim() {
        let mut contested = Contested::default();
        let both = [claiming(1, 50_000), claiming(2, 50_000)];
        assert_eq!(contested.look(&both, 100).len(), 2);
        assert_eq!(contested.look(&[won(50_000), claiming(2, 50_000)], 130), []);
        let lost = Turn::Lost {
            payment_hash: [2; 32],
            sat: 50_000,
        };
        assert_eq!(contested.look(&[won(50_000)], 140), [lost]);
        assert_eq!(contested.look(&[], 141), [], "the first is in the wallet");
    }

    #[test]
    fn what_was_decided_while_nobody_looked_is_not_known() {
        let mut contested = Contested::default();
        assert!(contested.is_due(100));
        assert_eq!(contested.look(&[claiming(1, 50_000)], 100).len(), 1);
        assert!(contested.is_due(150));
        let missed = Turn::Missed {
            payment_hash: [1; 32],
            sat: 50_000,
        };
        assert_eq!(contested.look(&[], 150), [missed]);
        assert!(contested.is_due(151));
        assert_eq!(contested.look(&[], 151), []);
    }

    #[test]
    fn a_look_is_due_with_each_block() {
        let mut contested = Contested::default();
        assert!(contested.is_due(100));
        assert!(!contested.is_due(100));
        assert!(contested.is_due(101));
    }
}
