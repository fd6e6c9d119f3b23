//! Decisions made before the call to the operator's price hook. They keep a client from overloading
//! the hook, whatever credentials it presents.

use std::sync::Arc;

use crate::account::ledger::LedgerError;
use crate::base::pace::Room;
use crate::protocol::l402::Proven;
use crate::sell::route::Offer;

use super::challenge::Denial;
use super::decision::{Admission, Asked, Decision};
use super::permit::Permit;
use super::price::Cost;
use super::state::Gate;
use super::why::Why;

/// A use that is reserved while the hook is asked for the price. Dropping this value withdraws the
/// use. For a while, the token's holder is then treated like a client without a token, because the
/// hook worked for nothing.
#[derive(Default)]
pub(super) struct Ahead {
    /// The use, and the index of its credential.
    reserved: Option<(usize, Permit)>,
    /// The number of credentials that need not be tried again once the price is known.
    pub(super) tried: usize,
    /// The reason why the last of the earlier credentials was refused.
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
    /// Returns the reserved use if its credential also holds at this price. Otherwise returns the
    /// reason why not, or why no use was reserved. `Ok(None)` means that the remaining credentials
    /// must be tried now that the price is known.
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
        // The use stays reserved during this check: if the check is cancelled, the use is
        // withdrawn.
        let verified = self
            .verify(offer, Some(cost), asked, &proven[index])
            .await?;
        Ok(match verified {
            // At this price the credential has narrower limits than those the use was reserved
            // under.
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

    /// Decides about a client without a usable token, without calling the hook. A free request
    /// needs no price, and a client over its limit is refused.
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

    /// Permits a paid request and gives back the challenge that was counted for it.
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

    /// Decides about a request whose price could not be determined.
    pub(super) fn uncosted<'a>(
        &self,
        name: &Arc<str>,
        offer: &Offer,
        asked: &Asked<'_>,
        (ahead, is_counted): (&mut Ahead, bool),
        denial: Denial,
    ) -> Decision<'a> {
        // If the hook was not kept busy, the use goes back without a mark against the token.
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

    /// Reserves a use before the hook call, for the first credential that could open the request at
    /// any price. Refuses a credential over its limit before the hook call. Skips a credential
    /// whose use was recently withdrawn, until the price is known.
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
            // Counts the credentials up to the first one that was skipped.
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
