//! The decision about a request: a permit, or why there is none. The one place that reads a credential, and the only one
//! that makes a [`Permit`].

mod issue;
mod permit;

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method};

pub use issue::{Challenge, Denial};
pub use permit::{Permit, Reason};

use crate::clock::Clock;
use crate::invoice::Minter;
use crate::l402::caveat::Subject;
use crate::l402::credential::{Presented, presented};
use crate::l402::{Credential, Refusal, RootKeys, verify};
use crate::ledger::{Ledger, LedgerError, Overrun};
use crate::route::{Access, Offer, RequestPath, Route};

/// What the gate decides with.
#[derive(Debug)]
pub struct Gate {
    /// The keys of the tokens.
    keys: RootKeys,
    /// Makes the invoices.
    minter: Minter,
    /// Counts the uses, remembers the challenges.
    ledger: Arc<Ledger>,
    /// Where the time comes from.
    clock: Clock,
}

/// A request, as far as the gate looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The normalised path.
    pub path: &'a RequestPath,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Where it comes from.
    pub client: IpAddr,
}

/// Why what was presented does not open the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No credential.
    #[error("this resource is sold: pay the invoice and ask again with the token and the preimage")]
    NotPaid,
    /// Something that cannot be read as a credential.
    #[error("the credential cannot be read: write `Authorization: L402 <macaroon>:<preimage>`")]
    Unreadable,
    /// The credential was read and does not hold.
    #[error("the credential is refused: {0}")]
    Refused(#[from] Refusal),
    /// Everything it bought has been served.
    #[error("the credential is used up")]
    UsedUp,
}

/// What the gate says of a request.
#[derive(Debug)]
#[must_use]
pub enum Decision<'a> {
    /// It may be served.
    Permit(Permit),
    /// It wants to be paid for.
    Unpaid(Unpaid<'a>),
}

/// A request that wants to be paid for: take it to [`Gate::challenge`].
#[derive(Debug)]
#[must_use = "a request that is not paid for is answered with a challenge"]
pub struct Unpaid<'a> {
    /// What is sold.
    offer: &'a Offer,
    /// The route's name.
    route: &'a Arc<str>,
    /// Why what was presented, if anything, did not do.
    why: Why,
}

impl Gate {
    /// A gate with these keys, in front of this ledger.
    pub fn new(keys: RootKeys, minter: Minter, ledger: Arc<Ledger>, clock: Clock) -> Self {
        Self {
            keys,
            minter,
            ledger,
            clock,
        }
    }

    /// Decides. Never waits for the node, nor for the disk but at a token's first use. Only faults of the ledger are errors.
    pub async fn decide<'a>(
        &self,
        route: &'a Route,
        asked: &Asked<'_>,
    ) -> Result<Decision<'a>, LedgerError> {
        let offer = match &route.access {
            Access::Free => return Ok(Decision::Permit(Permit::free())),
            Access::Paid(offer) => offer,
        };
        let mut why = Why::NotPaid;
        match presented(asked.headers) {
            Presented::Nothing => {}
            Presented::Unreadable => why = Why::Unreadable,
            Presented::Credentials(credentials) => {
                for credential in &credentials {
                    match self.admit(offer, asked, credential).await? {
                        Ok(permit) => return Ok(Decision::Permit(permit)),
                        Err(refused) => why = refused,
                    }
                }
            }
        }
        Ok(Decision::Unpaid(Unpaid {
            offer,
            route: &route.name,
            why,
        }))
    }

    /// Verifies one credential and reserves its use.
    async fn admit(
        &self,
        offer: &Offer,
        asked: &Asked<'_>,
        credential: &Credential,
    ) -> Result<Result<Permit, Why>, LedgerError> {
        let subject = Subject {
            service: &offer.service,
            tier: issue::TIER,
            price_msat: offer.price.msat(),
            path: asked.path.as_str(),
            method: asked.method.as_str(),
            client: Some(asked.client),
            now_secs: self.clock.unix_secs(),
        };
        let verified = match verify(&self.keys, credential, &subject) {
            Ok(verified) => verified,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let reservation = self
            .ledger
            .reserve(&verified, &offer.service, Overrun::Serve)
            .await?;
        Ok(reservation.map(Permit::paid).ok_or(Why::UsedUp))
    }
}
