//! The route table. It maps a path and a method to a service, a price and a resource. Pure.
//!
//! Matching and forwarding see the same path, which [`RequestPath::parse`] normalises once.

mod check;
mod entry;
mod header;
mod offer;
mod path;
mod pattern;
mod pricing;
mod table;
mod upstream;

pub use check::{OfferError, PLANS_MAX, SERVICES_MAX, VALUES_MAX, not_undercut};
pub use entry::{Access, Resource, Route};
pub use header::{Disputed, folded, remove_alike, undisputed};
pub use offer::{Count, DEFAULT_PLAN, FreeQuota, Grant, NotABundle, Offer, Plan, Span, is_name};
pub use path::{PathError, RequestPath};
pub use pattern::{Pattern, PatternError};
pub use pricing::{Class, PriceTable, Pricing, Selected, Selector, Unclassed};
pub use table::{Found, RouteTable, Shadowed};
pub use upstream::{
    CONNECT_TIMEOUT, CONNECTION_AGE_MAX, Forward, HeaderEdits, Health, Protocol, Upstream,
};
