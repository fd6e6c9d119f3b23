//! What is decided before the operator's hook is asked for a price: nobody keeps it busy beyond the limits, whatever they present.

use std::sync::Arc;

use crate::l402::Proven;
use crate::ledger::LedgerError;
use crate::pace::Room;
use crate::route::Offer;

use super::cost::Cost;
use super::{Admission, Asked, Decision, Denial, Gate, Permit, Why};

/// A use that is reserved while the price of a request is asked for. Dropped, it goes back.
#[derive(Default)]
pub(super) struct Ahead {
    /// The use.
    pub(super) permit: Option<Permit>,
    /// How many credentials were tried; it is that of the last of them.
    pub(super) tried: usize,
    /// What is wrong with those before.
    pub(super) why: Option<Why>,
}

impl Ahead {
    pub(super) fn is_reserved(&self) -> bool {
        self.permit.is_some()
    }

    /// The use and its credential, which is one of these.
    pub(super) fn take<'a>(&mut self, proven: &'a [Arc<Proven>]) -> Option<(&'a Proven, Permit)> {
        let permit = self.permit.take()?;
        Some((&proven[self.tried - 1], permit))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.give_back();
        }
    }
}

impl Gate {
    /// The use that was reserved, if its credential holds at this price, too; otherwise why it does not, or why none was reserved.
    /// `None` if the credentials that are not tried have to be, now that the price is known.
    pub(super) async fn take_ahead(
        &self,
        ahead: &mut Ahead,
        offer: &Offer,
        cost: &Cost,
        asked: &Asked<'_>,
        proven: &[Arc<Proven>],
    ) -> Result<Result<Option<Permit>, Why>, LedgerError> {
        let Some((proven, permit)) = ahead.take(proven) else {
            return Ok(ahead.why.map_or(Ok(None), Err));
        };
        Ok(match self.verify(offer, Some(cost), asked, proven).await? {
            // The use was reserved within limits that are wider than those that hold at this price.
            Ok(verified) if cost.back_after(&verified.allowance).is_some() => {
                permit.give_back();
                ahead.tried -= 1;
                Ok(None)
            }
            Ok(_) => Ok(Some(permit.admitted_now())),
            Err(refused) => {
                permit.give_back();
                Err(refused)
            }
        })
    }

    /// What is decided about a stranger without asking the hook: a free request needs no price, and who asks too often gets none.
    pub(super) fn unasked<'a>(
        &self,
        name: &Arc<str>,
        offer: &Offer,
        asked: &Asked<'_>,
    ) -> Option<Decision<'a>> {
        if !offer.is_dry_run
            && let Some(permit) = self.free_permit(name, offer, asked)
        {
            return Some(Decision::Permit(permit));
        }
        let room = self.limiter.take_challenge(asked.client).err()?;
        Some(if offer.is_dry_run {
            Decision::Permit(self.dry_run_permit(name, None, asked))
        } else {
            Decision::Denied(Denial::TooMany(room))
        })
    }

    /// What is decided about a request whose price is not known.
    pub(super) fn uncosted<'a>(
        &self,
        name: &Arc<str>,
        offer: &Offer,
        asked: &Asked<'_>,
        is_counted: bool,
        denial: Denial,
    ) -> Decision<'a> {
        if offer.is_dry_run {
            return Decision::Permit(self.dry_run_permit(name, None, asked));
        }
        if is_counted && denial.took_nothing() {
            self.limiter.give_back_challenge(asked.client);
        }
        Decision::Denied(denial)
    }

    /// Reserves a use for a request whose price is still to be asked for, of the first of these that could open it at any price. What
    /// its limits refuse is refused before the hook is asked.
    pub(super) async fn reserve_ahead(
        &self,
        name: &Arc<str>,
        offer: &Offer,
        asked: &Asked<'_>,
        proven: &[Arc<Proven>],
    ) -> Result<Result<Ahead, Room>, LedgerError> {
        let mut ahead = Ahead::default();
        for proven in proven {
            ahead.tried += 1;
            match self.admit(name, offer, None, asked, proven).await? {
                Admission::Admitted(permit) => {
                    ahead.permit = Some(permit);
                    break;
                }
                Admission::TooFast(room) => return Ok(Err(room)),
                Admission::Not(why) => ahead.why = Some(why),
            }
        }
        Ok(Ok(ahead))
    }
}
