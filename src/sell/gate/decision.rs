//! The request as the gate sees it, and the decision about it.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::base::pace::Room;
use crate::protocol::l402::Proven;
use crate::sell::route::{Offer, Plan, RequestPath};

use super::challenge::Denial;
use super::permit::Permit;
use super::price::Cost;
use super::why::Why;

/// The parts of a request that the gate looks at.
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
    /// The address of the client, if known.
    pub client: Option<IpAddr>,
}

/// The gate's decision about a request.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once or twice; a box would cost every paid request an allocation"
)]
#[derive(Debug)]
#[must_use]
pub enum Decision<'a> {
    /// The request may be served.
    Permit(Permit),
    /// The request must be paid for.
    Unpaid(Unpaid<'a>),
    /// The request is neither served nor offered for sale.
    Denied(Denial),
}

/// A request that must be paid for. `Gate::challenge` makes the challenge.
#[derive(Debug)]
#[must_use = "a request that is not paid for is answered with a challenge"]
pub struct Unpaid<'a> {
    /// The offer of the route.
    pub(super) offer: &'a Offer,
    /// The plan that the client chose.
    pub(super) plan: &'a Plan,
    /// The cost of the request.
    pub(super) cost: Cost,
    /// The name of the route in the ledger and the log.
    pub(super) name: &'a Arc<str>,
    /// The address of the client, if known.
    pub(super) client: Option<IpAddr>,
    /// Whether this request was already counted as a challenge.
    pub(super) is_counted: bool,
    /// The client's network for the limit on bundles; `None` if no limit applies.
    pub(super) network: Option<IpAddr>,
    /// The reason why the presented credential, if any, did not open the request.
    pub(super) why: Why,
}

/// The credentials of a request.
pub(super) struct Held {
    /// The credentials that passed the proof, in the order of the headers.
    pub(super) proven: Vec<Arc<Proven>>,
    /// The reason why the last of the remaining credentials failed the proof.
    pub(super) why: Why,
}

/// The result of admitting one credential.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment, on the way of every paid request"
)]
pub(super) enum Admission {
    Admitted(Permit),
    Not(Why),
    TooFast(Room),
}
