//! What a request that is not served is answered with: a challenge or a denial.

use std::sync::Arc;

use crate::base::amount::Msat;
use crate::base::pace::Room;
use crate::protocol::invoice::{Invoice, Unready};
use crate::sell::quote::{AskError, HookError, Unpriced};
use crate::sell::route::{Grant, Unclassed};

use super::why::Why;

/// A challenge, ready to be written as headers and a body.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The invoice to pay.
    pub invoice: Invoice,
    /// The token, in standard base64.
    pub macaroon: String,
    /// The price of the grant.
    pub price: Msat,
    /// The grant that the payment buys.
    pub grant: Grant,
    /// The service that the token opens.
    pub service: Arc<str>,
    /// All the grants on sale; empty if there is only one.
    pub choice: Vec<Choice>,
    /// The reason why the request was not served.
    pub why: Why,
}

/// A grant that the client can buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The name by which the client asks for the grant.
    pub name: Arc<str>,
    /// The price of the grant; `None` while an exchange rate is missing.
    pub price: Option<Msat>,
    /// The grant that the payment buys.
    pub grant: Grant,
    /// The other services that the token opens.
    pub also: Vec<Arc<str>>,
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is left out: with a preimage it is worth money.
        f.debug_struct("Challenge")
            .field("service", &self.service)
            .field("price", &self.price)
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

/// The reason why the request does not even get a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The node cannot receive the payment now.
    Unpayable {
        /// The reason why.
        why: Unready,
        /// The name of a plan that the client can buy instead.
        instead: Option<Arc<str>>,
    },
    /// The operating system provides no randomness, so no secret can be made.
    NoRandomness,
    /// None of the route's prices applies to the request.
    Unclassed(Unclassed),
    /// The client asked for a grant that the route does not sell. Holds the names of those on sale.
    UnknownGrant(String),
    /// The client or the token exceeds its rate limit.
    TooMany(Room),
    /// The price is unknown at the moment.
    Unpriced(Unpriced),
}

impl Denial {
    /// Whether this denial does not count against the client's limit, because the client was not at
    /// fault and no hook was kept busy. A hook that answered was kept busy, whatever its answer.
    pub(super) fn took_nothing(&self) -> bool {
        match self {
            Self::Unpayable { .. } | Self::NoRandomness => true,
            Self::Unpriced(Unpriced::Hook { why, .. }) => matches!(
                why,
                HookError::Busy | HookError::Ask(AskError::Unreachable { .. })
            ),
            Self::Unpriced(_) => true,
            Self::Unclassed(_) | Self::UnknownGrant(_) | Self::TooMany(_) => false,
        }
    }
}
