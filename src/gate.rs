//! The decision about a request: a permit, or why there is none. The one place that reads a credential, and the only one
//! that makes a [`Permit`].

mod bundle;
mod cost;
mod dry_run;
mod issue;
mod keyring;
mod limit;
mod permit;
mod proven;

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use bundle::Bundles;
pub use bundle::{Bundle, LaidReady};
use cost::Cost;
pub use cost::Quotes;
pub use dry_run::DryRun;
use dry_run::DryRuns;
pub use issue::{Challenge, Choice, Denial, describe};
pub use keyring::{Epoch, Keyring, KeyringError};
pub(crate) use limit::network;
pub use limit::{Limiter, Limits};
use permit::Opened;
pub use permit::{Permit, Reason};
use proven::ProvenBefore;

use crate::clock::Clock;
use crate::invoice::Minter;
use crate::l402::caveat::Subject;
use crate::l402::credential::{Presented, presented};
use crate::l402::{Proven, Refusal, prove};
use crate::ledger::{Free, Ledger, LedgerError, Overrun, Unreserved};
use crate::live::Live;
use crate::pace::Room;
use crate::route::{Access, Offer, Plan, Pricing, RequestPath};

/// The header in which a client names what it wants to buy, where a route sells several things.
pub const ACCEPT_GRANT: &str = "accept-grant";

/// The query parameter that does the same.
pub const GRANT_PARAMETER: &str = "l402-grant";

/// How much of a path is logged.
const PATH_LOGGED_MAX: usize = 200;

/// What the gate decides with.
#[derive(Debug)]
pub struct Gate {
    /// The keys of the tokens.
    keyring: Arc<Keyring>,
    /// Credentials that need not be proven again.
    proven: ProvenBefore,
    /// Makes the invoices.
    minter: Minter,
    /// Counts the uses, remembers the challenges.
    ledger: Arc<Ledger>,
    /// How often clients may ask.
    limiter: Limiter,
    /// What pricing asks the world.
    quotes: Live<Quotes>,
    /// What routes that let everybody through would have asked.
    dry_runs: DryRuns,
    /// What was laid ready for a node that cannot be paid.
    bundles: Bundles,
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
    /// The query, without its question mark.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Where it comes from, if that is known.
    pub client: Option<IpAddr>,
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
    /// The operator has revoked it.
    #[error("the credential is revoked")]
    Revoked,
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
    /// Neither.
    Denied(Denial),
}

/// A request that wants to be paid for: take it to [`Gate::challenge`].
#[derive(Debug)]
#[must_use = "a request that is not paid for is answered with a challenge"]
pub struct Unpaid<'a> {
    /// What is sold.
    offer: &'a Offer,
    /// What of it the client wants.
    plan: &'a Plan,
    /// What the request costs.
    cost: Cost,
    /// What it is called in the books.
    name: &'a Arc<str>,
    /// Who asks.
    client: Option<IpAddr>,
    /// Whether that was counted already.
    is_counted: bool,
    /// Why what was presented, if anything, did not do.
    why: Why,
}

/// What a request presents.
struct Held {
    /// What was sold here and paid for, in the order of its headers.
    proven: Vec<Arc<Proven>>,
    /// What is wrong with the rest.
    why: Why,
}

/// What came of one credential.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment, on the way of every paid request"
)]
enum Admission {
    Admitted(Permit),
    Not(Why),
    TooFast(Room),
}

impl Gate {
    /// A gate with these keys, in front of this ledger.
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
            clock,
        }
    }

    /// Has other limits and quotes in force from now on.
    pub fn change(&self, limits: Limits, quotes: Quotes) {
        self.limiter.set(limits);
        self.quotes.set(quotes);
    }

    /// What routes that let everybody through would have asked since the start.
    pub fn dry_run(&self) -> DryRun {
        self.dry_runs.so_far()
    }

    /// What pricing asks the world now.
    pub fn quotes(&self) -> Arc<Quotes> {
        self.quotes.get()
    }

    /// Decides about what has this name in books and logs. Never waits for the node, nor for the disk but at a token's first
    /// use. Only faults of the ledger are errors.
    pub async fn decide<'a>(
        &self,
        name: &'a Arc<str>,
        access: &'a Access,
        asked: &Asked<'_>,
    ) -> Result<Decision<'a>, LedgerError> {
        let offer = match access {
            Access::Free => return Ok(Decision::Permit(Permit::free())),
            Access::Paid(offer) => &**offer,
        };
        let held = self.held(asked);
        // A hook is asked for who has paid before, and for others only as often as they may ask for a challenge: a stranger
        // must not keep it busy. A free request needs no price.
        let is_asked_of_a_hook = matches!(offer.pricing, Pricing::Hook(_));
        let is_holder = || held.proven.iter().any(|it| self.may_open(offer, asked, it));
        let is_stranger = is_asked_of_a_hook && !offer.is_dry_run && !is_holder();
        if is_stranger {
            if let Some(permit) = self.free_permit(offer, asked) {
                return Ok(Decision::Permit(permit));
            }
            if let Err(room) = self.limiter.take_challenge(asked.client) {
                return Ok(Decision::Denied(Denial::TooMany(room)));
            }
        }
        let cost = match self.cost(name, offer, asked).await {
            Ok(cost) => cost,
            Err(_) if offer.is_dry_run => {
                return Ok(Decision::Permit(self.dry_run_permit(name, None, asked)));
            }
            Err(denial) => {
                if is_stranger && denial.took_nothing() {
                    self.limiter.give_back_challenge(asked.client);
                }
                return Ok(Decision::Denied(denial));
            }
        };
        let mut why = held.why;
        for proven in &held.proven {
            match self.admit(offer, &cost, asked, proven).await? {
                Admission::Admitted(permit) => return Ok(Decision::Permit(permit)),
                Admission::TooFast(_) if offer.is_dry_run => {}
                Admission::TooFast(room) => return Ok(Decision::Denied(Denial::TooMany(room))),
                Admission::Not(refused) => why = refused,
            }
        }
        if offer.is_dry_run {
            let permit = self.dry_run_permit(name, Some(&cost), asked);
            return Ok(Decision::Permit(permit));
        }
        if !is_stranger && let Some(permit) = self.free_permit(offer, asked) {
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
            why,
        }))
    }

    /// What is presented, as far as it can be proven without looking at the request.
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
        // Of several, which one is meant is decided each time.
        if let ([_], [proven]) = (credentials.as_slice(), held.proven.as_slice()) {
            self.proven.keep(asked.headers, proven);
        }
        held
    }

    /// Whether this could open the door at some price: of this service, in its time, and not taken back. How much of it was
    /// used is not looked at.
    fn may_open(&self, offer: &Offer, asked: &Asked<'_>, proven: &Proven) -> bool {
        let subject = Subject {
            service: &offer.service,
            tier: 0,
            price_msat: 0,
            path: asked.path.as_str(),
            method: asked.method.as_str(),
            client: asked.client,
            now_secs: self.clock.unix_secs(),
        };
        let verified = proven.verify(&self.keyring.in_force(), &subject);
        verified.is_ok_and(|verified| {
            let token_id = &verified.identifier.token_id;
            verified.allowance.is_priced && !self.ledger.is_revoked(token_id, &offer.service)
        })
    }

    /// What lets a request through on a route that lets all of them through.
    fn dry_run_permit(&self, name: &str, cost: Option<&Cost>, asked: &Asked<'_>) -> Permit {
        let price = cost.and_then(|cost| self.in_msat(cost.class.price).ok());
        let price = price.map(|(price, _)| price);
        self.dry_runs.count(price);
        let asked_for: String = asked.path.as_str().chars().take(PATH_LOGGED_MAX).collect();
        let price = price.map_or_else(|| "what is not known".to_owned(), |it| it.to_string());
        tracing::info!(
            route.name = name,
            "Dry run: {} {asked_for} would have been asked to pay {price}",
            asked.method,
        );
        Permit::dry_run()
    }

    /// What lets a request through that nobody has to pay for.
    fn free_permit(&self, offer: &Offer, asked: &Asked<'_>) -> Option<Permit> {
        let free = offer.free.map(|free| Free {
            requests: free.requests,
            per: free.per,
        });
        // Nobody is counted whose address is not known, and who is not counted has nothing free.
        let used = self
            .ledger
            .reserve_free(&offer.service, asked.client?, free?)?;
        Some(Permit::quota(used))
    }

    /// Holds one credential against the request and reserves its use.
    async fn admit(
        &self,
        offer: &Offer,
        cost: &Cost,
        asked: &Asked<'_>,
        proven: &Proven,
    ) -> Result<Admission, LedgerError> {
        let subject = Subject {
            service: &offer.service,
            tier: cost.class.tier,
            // Of a price that is not known in bitcoin now, no limit holds.
            price_msat: self
                .in_msat(cost.class.price)
                .map_or(u64::MAX, |(price, _)| price.msat()),
            path: asked.path.as_str(),
            method: asked.method.as_str(),
            client: asked.client,
            now_secs: self.clock.unix_secs(),
        };
        let verified = match proven.verify(&self.keyring.in_force(), &subject) {
            Ok(verified) => verified,
            Err(refusal) => return Ok(Admission::Not(refusal.into())),
        };
        // Where each request has a price of its own, a token that was not sold at one opens none, whatever its holder adds.
        if cost.price_msat().is_some() && !verified.allowance.is_priced {
            return Ok(Admission::Not(Refusal::OtherService.into()));
        }
        let token_id = verified.identifier.token_id;
        if self.ledger.is_revoked(&token_id, &offer.service) {
            return Ok(Admission::Not(Why::Revoked));
        }
        let overrun = if offer.cuts_overrun {
            Overrun::Cut
        } else {
            Overrun::Serve
        };
        let pace = self.limiter.of_tokens();
        let reserved = self
            .ledger
            .reserve(&verified, &offer.service, overrun, pace)
            .await?;
        Ok(match reserved {
            Ok(reservation) => {
                let opened = Opened {
                    ledger: Arc::clone(&self.ledger),
                    service: Arc::clone(&offer.service),
                };
                Admission::Admitted(Permit::paid(reservation, opened, offer.metered_by.as_ref()))
            }
            Err(Unreserved::UsedUp) => Admission::Not(Why::UsedUp),
            Err(Unreserved::TooFast(room)) => Admission::TooFast(room),
        })
    }
}

/// What a client wants to buy, where there is a choice.
fn wanted<'a>(offer: &'a Offer, asked: &Asked<'_>) -> Result<&'a Plan, Denial> {
    if !offer.has_choice() {
        return Ok(offer.default_plan());
    }
    let of_header = asked.headers.get(ACCEPT_GRANT);
    let of_header = of_header.map(|name| name.to_str().unwrap_or_default().trim());
    let of_query = asked.query.and_then(|query| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(key, value)| (key == GRANT_PARAMETER).then_some(value))
    });
    let Some(name) = of_header.or(of_query) else {
        return Ok(offer.default_plan());
    };
    offer.plan(name).ok_or_else(|| {
        let names: Vec<_> = offer.plans.iter().map(|plan| &*plan.name).collect();
        Denial::UnknownGrant(names.join(", "))
    })
}

/// What is asked for without what it said to the gate: which of several grants it wants to buy. `None` if it said nothing.
pub fn without_choice(offer: &Offer, uri: &Uri) -> Option<Uri> {
    let query = uri.query().filter(|_| offer.has_choice())?;
    let is_choice = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        name == GRANT_PARAMETER
    };
    if !query.split('&').any(|pair| is_choice(&pair)) {
        return None;
    }
    let rest: Vec<_> = query.split('&').filter(|pair| !is_choice(pair)).collect();
    let path = uri.path();
    let path_and_query = if rest.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", rest.join("&"))
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path_and_query.parse().ok();
    Uri::from_parts(parts).ok()
}
