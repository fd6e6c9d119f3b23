//! Decides whether a request gets a permit, a challenge or a denial. Only this module reads
//! credentials and makes a [`Permit`].

mod ahead;
mod bundle;
mod bundles;
mod challenge;
mod choice;
mod cost;
mod decision;
mod dry_run;
mod issue;
mod keyring;
mod limit;
mod permit;
mod price;
mod proven;
mod state;
mod why;

use std::sync::Arc;

use tracing::Level;

use crate::account::ledger::{Free, Ledger, LedgerError, Overrun, Unreserved};
use crate::base::clock::Clock;
use crate::base::live::Live;
use crate::base::sparing::Sparing;
use crate::protocol::invoice::Minter;
use crate::protocol::l402::caveat::Subject;
use crate::protocol::l402::credential::{Presented, presented};
use crate::protocol::l402::{Proven, Refusal, SoldAs, Verified, prove};

use super::route::{Access, Count, Offer, Pricing};
use ahead::Ahead;
use bundles::Bundles;
use choice::wanted;
use decision::{Admission, Held};
use dry_run::DryRuns;
use permit::Opened;
use price::Cost;
use proven::ProvenBefore;

pub use bundles::{Bundle, LaidReady};
pub use challenge::{Challenge, Choice, Denial};
pub use choice::{ACCEPT_GRANT, GRANT_PARAMETER, without_choice};
pub use decision::{Asked, Decision, Unpaid};
pub use dry_run::DryRun;
pub use issue::describe;
pub use keyring::{Epoch, Keyring, KeyringError};
pub use limit::{Limiter, Limits};
pub use permit::{Over, Permit, Reason};
pub use price::Quotes;
pub use state::Gate;
pub use why::Why;

pub(crate) use limit::network;
pub(crate) use permit::Cause;

/// The number of characters of a path that are logged.
const PATH_LOGGED_MAX: usize = 200;

impl Gate {
    /// Creates a gate with these keys in front of this ledger.
    pub fn new(
        keyring: Arc<Keyring>,
        minter: Minter,
        ledger: Arc<Ledger>,
        limiter: Limiter,
        quotes: Quotes,
        clock: Clock,
    ) -> Self {
        Self {
            keyring,
            proven: ProvenBefore::new(),
            minter,
            ledger,
            limiter,
            quotes: Live::new(quotes),
            dry_runs: DryRuns::default(),
            bundles: Bundles::default(),
            log: Sparing::new(&clock),
            clock,
        }
    }

    /// Replaces the limits and the quotes.
    pub fn change(&self, limits: Limits, quotes: Quotes) {
        self.limiter.set(limits);
        self.quotes.set(quotes);
    }

    /// The number and the value of the challenges that dry-run routes would have sent since the
    /// start.
    pub fn dry_run(&self) -> DryRun {
        self.dry_runs.so_far()
    }

    /// The limit on log lines that requests can cause.
    pub(crate) fn log(&self) -> &Sparing {
        &self.log
    }

    /// The current rates and hooks.
    pub fn quotes(&self) -> Arc<Quotes> {
        self.quotes.get()
    }

    /// Decides about a request for the route of this name. Waits for the disk only at a token's
    /// first use and once a token has expired. Waits for the node only while it claims a payment
    /// that arrived after its invoice expired. Returns an error only for a fault of the ledger.
    pub async fn decide<'a>(
        &self,
        name: &'a Arc<str>,
        access: &'a Access,
        asked: &Asked<'_>,
    ) -> Result<Decision<'a>, LedgerError> {
        let offer = match access {
            Access::Free => return Ok(Decision::Permit(Permit::free(self.cause(name)))),
            Access::Paid(offer) => &**offer,
        };
        let held = self.held(asked);
        // The hook is called for clients that hold a token for this request. For other clients it
        // is called only as often as they may ask for a challenge, so that they cannot overload it.
        let is_asked_of_a_hook = matches!(offer.pricing, Pricing::Hook(_));
        let presented: &[_] = if is_asked_of_a_hook {
            &held.proven
        } else {
            &[]
        };
        let mut ahead = match self.reserve_ahead(name, offer, asked, presented).await? {
            Ok(ahead) => ahead,
            Err(_) if offer.is_dry_run => Ahead::default(),
            Err(room) => return Ok(Decision::Denied(Denial::TooMany(room))),
        };
        let is_stranger = is_asked_of_a_hook && !ahead.is_reserved();
        if is_stranger && let Some(decision) = self.unasked(name, offer, asked) {
            return Ok(decision);
        }
        let cost = match self.cost(name, offer, asked, is_stranger).await {
            Ok(cost) => cost,
            Err(denial) => {
                let ahead = (&mut ahead, is_stranger);
                return Ok(self.uncosted(name, offer, asked, ahead, denial));
            }
        };
        let mut why = held.why;
        match self
            .take_ahead(&mut ahead, offer, &cost, asked, &held.proven)
            .await?
        {
            Ok(Some(permit)) => return Ok(Decision::Permit(permit)),
            Ok(None) => {}
            Err(refused) => why = refused,
        }
        for proven in &held.proven[ahead.tried..] {
            match self.admit(name, offer, Some(&cost), asked, proven).await? {
                Admission::Admitted(permit) => {
                    return Ok(self.admitted(permit, asked, is_stranger));
                }
                Admission::TooFast(_) if offer.is_dry_run => {}
                Admission::TooFast(room) => return Ok(Decision::Denied(Denial::TooMany(room))),
                Admission::Not(refused) => why = refused,
            }
        }
        if offer.is_dry_run {
            let permit = self.dry_run_permit(name, Some(&cost), asked);
            return Ok(Decision::Permit(permit));
        }
        if !is_stranger && let Some(permit) = self.free_permit(name, offer, asked) {
            return Ok(Decision::Permit(permit));
        }
        let plan = match wanted(offer, asked) {
            Ok(plan) => plan,
            Err(denial) => return Ok(Decision::Denied(denial)),
        };
        Ok(Decision::Unpaid(Unpaid {
            offer,
            plan,
            cost,
            name,
            client: asked.client,
            is_counted: is_stranger,
            network: asked.client.and_then(bundles::network),
            why,
        }))
    }

    /// Collects the credentials whose proof holds, independent of the request.
    fn held(&self, asked: &Asked<'_>) -> Held {
        if let Some(proven) = self.proven.find(asked.headers) {
            return Held {
                proven: vec![proven],
                why: Why::NotPaid,
            };
        }
        let mut held = Held {
            proven: Vec::new(),
            why: Why::NotPaid,
        };
        let credentials = match presented(asked.headers) {
            Presented::Nothing => return held,
            Presented::Unreadable => {
                held.why = Why::Unreadable;
                return held;
            }
            Presented::Credentials(credentials) => credentials,
        };
        let keys = self.keyring.in_force();
        for credential in &credentials {
            match prove(&keys, credential, self.clock.unix_secs()) {
                Ok(proven) => held.proven.push(Arc::new(proven)),
                Err(refusal) => held.why = refusal.into(),
            }
        }
        // With several credentials, each request decides which one applies, so no proof is cached.
        if let ([_], [proven]) = (credentials.as_slice(), held.proven.as_slice()) {
            self.proven.keep(asked.headers, proven);
        }
        held
    }

    /// Permits a request on a route that serves every request for now, and counts its price.
    fn dry_run_permit(&self, name: &Arc<str>, cost: Option<&Cost>, asked: &Asked<'_>) -> Permit {
        let price = cost.and_then(|cost| self.in_msat(cost.class.price).ok());
        let price = price.map(|(price, _)| price);
        self.dry_runs.count(price);
        if self.log.may(Level::INFO, "Dry run", name) {
            let asked_for: String = asked.path.as_str().chars().take(PATH_LOGGED_MAX).collect();
            let price = price.map_or_else(|| "what is not known".to_owned(), |it| it.to_string());
            tracing::info!(
                route.name = &**name,
                "Dry run: {} {asked_for} would have been asked to pay {price}",
                asked.method,
            );
        }
        Permit::dry_run(self.cause(name))
    }

    /// The source of log lines about this request.
    fn cause(&self, name: &Arc<str>) -> Cause {
        Cause {
            log: Arc::clone(&self.log),
            route: Arc::clone(name),
        }
    }

    /// Permits a request from the client's free quota, if some of it is left.
    fn free_permit(&self, name: &Arc<str>, offer: &Offer, asked: &Asked<'_>) -> Option<Permit> {
        let free = offer.free.map(|free| Free {
            requests: free.requests,
            per: free.per,
        });
        // A client without a known address cannot be counted, so it has no free quota.
        let used = self
            .ledger
            .reserve_free(&offer.service, asked.client?, free?)?;
        Some(Permit::quota(used, self.cause(name)))
    }

    /// Verifies a credential. A token whose invoice was paid late, after its expiry, stays valid
    /// longer by that delay. LDK can accept such a payment hours after the expiry.
    async fn verified(
        &self,
        proven: &Proven,
        subject: &Subject<'_>,
    ) -> Result<Result<Verified, Refusal>, LedgerError> {
        let keys = self.keyring.in_force();
        let verified = proven.verify(&keys, subject);
        let is_expired = match &verified {
            Ok(_) => false,
            Err(Refusal::Expired) => true,
            Err(_) => return Ok(verified),
        };
        let identifier = proven.identifier();
        let end_secs = match identifier.token_id.minted_secs() {
            0 => u64::MAX,
            minted_secs => self.minter.end_secs(minted_secs),
        };
        let late_secs = self.ledger.late_secs(identifier, end_secs, is_expired);
        Ok(match late_secs.await? {
            0 => verified,
            late_secs => proven.verify_late(&keys, subject, late_secs),
        })
    }

    /// Verifies one credential against the request and its cost. While the cost is unknown, checks
    /// only the conditions that do not depend on the cost.
    async fn verify(
        &self,
        offer: &Offer,
        cost: Option<&Cost>,
        asked: &Asked<'_>,
        proven: &Proven,
    ) -> Result<Result<Verified, Why>, LedgerError> {
        // A price without a current exchange rate exceeds every limit.
        let price_msat = |cost: &Cost| {
            let price = self.in_msat(cost.class.price);
            price.map_or(u64::MAX, |(price, _)| price.msat())
        };
        let subject = Subject {
            service: &offer.service,
            tier: cost.map_or(0, |cost| cost.class.tier),
            price_msat: cost.map_or(0, price_msat),
            path: asked.path.as_str(),
            method: asked.method.as_str(),
            client: asked.client,
            now_secs: self.clock.unix_secs(),
        };
        let mut verified = match self.verified(proven, &subject).await? {
            Ok(verified) => verified,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        // Where a hook prices each request, only a token that was sold at such a price opens one. A
        // holder cannot add the caveat for it to another token.
        let is_priced_singly = cost.is_none_or(|cost| cost.price_msat().is_some());
        if is_priced_singly && !verified.allowance.is_priced {
            return Ok(Err(Refusal::OtherRequests.into()));
        }
        // A token with a price limit of zero opens no request, so the price does not matter.
        if cost.is_none() && verified.allowance.price_max_msat == Some(0) {
            return Ok(Err(Refusal::OutsideScope.into()));
        }
        let is_sold_as = match cost {
            Some(cost) => cost.is_sold_as(&verified.allowance, offer),
            None => verified.allowance.sold_as != Some(SoldAs::Nothing),
        };
        if !is_sold_as {
            return Ok(Err(Refusal::OtherRequests.into()));
        }
        if let Some(cost) = cost
            && let Err(refusal) = cost.limit(&mut verified.allowance, subject.now_secs)
        {
            return Ok(Err(refusal.into()));
        }
        let token_id = &verified.identifier.token_id;
        if self.ledger.is_revoked(token_id, &offer.service) {
            return Ok(Err(Why::Revoked));
        }
        Ok(Ok(verified))
    }

    /// Verifies one credential for the request and reserves its use.
    async fn admit(
        &self,
        name: &Arc<str>,
        offer: &Offer,
        cost: Option<&Cost>,
        asked: &Asked<'_>,
        proven: &Proven,
    ) -> Result<Admission, LedgerError> {
        let verified = match self.verify(offer, cost, asked, proven).await? {
            Ok(verified) => verified,
            Err(refused) => return Ok(Admission::Not(refused)),
        };
        let overrun = if offer.cuts_overrun {
            Overrun::Cut
        } else {
            Overrun::Serve
        };
        let pace = self.limiter.of_tokens();
        let (ledger, service) = (&self.ledger, &offer.service);
        let reserved = match offer.count {
            Count::File => {
                let path = asked.path.as_str();
                ledger
                    .reserve_file(&verified, service, overrun, pace, path)
                    .await?
            }
            Count::Delivered | Count::All => {
                ledger.reserve(&verified, service, overrun, pace).await?
            }
        };
        Ok(match reserved {
            Ok(reservation) => {
                let opened = Opened {
                    ledger: Arc::clone(&self.ledger),
                    service: Arc::clone(&offer.service),
                    keyring: Arc::clone(&self.keyring),
                    clock: self.clock.clone(),
                };
                let cause = self.cause(name);
                Admission::Admitted(Permit::paid(reservation, opened, offer, cause))
            }
            Err(Unreserved::UsedUp) => Admission::Not(Why::UsedUp),
            Err(Unreserved::TooFast(room)) => Admission::TooFast(room),
        })
    }
}
