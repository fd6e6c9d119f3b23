//! What is decided before the operator's hook is asked for a price: nobody keeps it busy beyond the limits, whatever they present.

use std::sync::Arc;

use crate::l402::Proven;
use crate::ledger::LedgerError;
use crate::pace::Room;
use crate::route::Offer;

use super::cost::Cost;
use super::{Admission, Asked, Decision, Denial, Gate, Permit, Why};

/// A use that is reserved while the price of a request is asked for. Dropped, it is withdrawn: whoever kept the hook busy for
/// nothing asks it as a stranger for a while.
#[derive(Default)]
pub(super) struct Ahead {
    /// The use, and which of the credentials it is of.
    reserved: Option<(usize, Permit)>,
    /// How many credentials need not be tried at the price.
    pub(super) tried: usize,
    /// What is wrong with those before.
    why: Option<Why>,
}

impl Ahead {
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved.is_some()
    }

    fn take(&mut self) -> Option<Permit> {
        self.reserved.take().map(|(_, permit)| permit)
    }

    fn withdraw(&mut self) {
        if let Some(permit) = self.take() {
            permit.withdraw();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.withdraw();
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
        let Some(index) = ahead.reserved.as_ref().map(|(index, _)| *index) else {
            return Ok(ahead.why.map_or(Ok(None), Err));
        };
        // It stays reserved meanwhile: if this does not come to its end, it was not used.
        let verified = self
            .verify(offer, Some(cost), asked, &proven[index])
            .await?;
        Ok(match verified {
            // The use was reserved within limits that are wider than those that hold at this price.
            Ok(verified) if cost.back_after(&verified.allowance).is_some() => {
                if let Some(permit) = ahead.take() {
                    permit.give_back();
                    ahead.tried = ahead.tried.min(index);
                }
                Ok(None)
            }
            Ok(_) => Ok(ahead.take().map(Permit::admitted_now)),
            Err(refused) => {
                ahead.withdraw();
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

    /// Lets a request through that is paid for; a challenge that was counted for it is not.
    pub(super) fn admitted<'a>(
        &self,
        permit: Permit,
        asked: &Asked<'_>,
        is_counted: bool,
    ) -> Decision<'a> {
        if is_counted {
            self.limiter.give_back_challenge(asked.client);
        }
        Decision::Permit(permit)
    }

    /// What is decided about a request whose price is not known.
    pub(super) fn uncosted<'a>(
        &self,
        name: &Arc<str>,
        offer: &Offer,
        asked: &Asked<'_>,
        (ahead, is_counted): (&mut Ahead, bool),
        denial: Denial,
    ) -> Decision<'a> {
        // Whoever kept nobody busy is no stranger for it.
        if denial.took_nothing()
            && let Some(permit) = ahead.take()
        {
            permit.give_back();
        }
        if offer.is_dry_run {
            return Decision::Permit(self.dry_run_permit(name, None, asked));
        }
        if is_counted && denial.took_nothing() {
            self.limiter.give_back_challenge(asked.client);
        }
        Decision::Denied(denial)
    }

    /// Reserves a use for a request whose price is still to be asked for, of the first of these that could open it at any price. What
    /// its limits refuse is refused before the hook is asked. One whose use was withdrawn a short while ago is tried at the price
    /// only.
    pub(super) async fn reserve_ahead(
        &self,
        name: &Arc<str>,
        offer: &Offer,
        asked: &Asked<'_>,
        proven: &[Arc<Proven>],
    ) -> Result<Result<Ahead, Room>, LedgerError> {
        let mut ahead = Ahead::default();
        for (index, proven) in proven.iter().enumerate() {
            if self.ledger.was_withdrawn(&proven.identifier().token_id) {
                continue;
            }
            // Up to the first that was passed over.
            ahead.tried += usize::from(ahead.tried == index);
            match self.admit(name, offer, None, asked, proven).await? {
                Admission::Admitted(permit) => {
                    ahead.reserved = Some((index, permit));
                    break;
                }
                Admission::TooFast(room) => return Ok(Err(room)),
                Admission::Not(why) => ahead.why = Some(why),
            }
        }
        Ok(Ok(ahead))
    }
}
