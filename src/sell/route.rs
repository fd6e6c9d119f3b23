//! The route table: which path and method belong to which service, at which price, for which resource. Pure.
//!
//! Matching and forwarding see one and the same path, normalised once by [`RequestPath::parse`].

mod check;
mod header;
mod offer;
mod path;
mod pattern;
mod pricing;
mod table;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;

use http::Method;

pub use check::{OfferError, PLANS_MAX, SERVICES_MAX, VALUES_MAX, not_undercut};
pub use header::{Disputed, folded, remove_alike, undisputed};
pub use offer::{Count, DEFAULT_PLAN, FreeQuota, Grant, NotABundle, Offer, Plan, Span, is_name};
pub use path::{PathError, RequestPath};
pub use pattern::{Pattern, PatternError};
pub use pricing::{Class, PriceTable, Pricing, Selected, Selector, Unclassed};
pub use table::{Found, RouteTable, Shadowed};
pub use upstream::{
    CONNECT_TIMEOUT, CONNECTION_AGE_MAX, Forward, HeaderEdits, Health, Protocol, Upstream,
};

/// Who may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Free,
    /// Who has paid.
    Paid(Box<Offer>),
}

/// What is behind a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Another HTTP server, or several that do the same.
    Upstream(Arc<Forward>),
    /// The files of a folder.
    Files {
        /// The folder, absolute and without links.
        folder: PathBuf,
    },
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What the route is called in books and logs: its pattern as written.
    pub name: Arc<str>,
    /// The paths it is for.
    pub pattern: Pattern,
    /// The methods it takes; empty for all. HEAD goes with GET.
    pub methods: Vec<Method>,
    /// Who may pass.
    pub access: Access,
    /// What is behind it.
    pub resource: Resource,
}

impl Route {
    /// The methods that the route takes, if they are limited: HEAD with GET.
    pub fn methods_taken(&self) -> Vec<Method> {
        let mut methods = self.methods.clone();
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        methods
    }

    /// Whether paths with doubled or encoded slashes are passed on.
    pub(crate) fn passes_slashes(&self) -> bool {
        match &self.resource {
            Resource::Upstream(forward) => forward.pass_slashes,
            Resource::Files { .. } => false,
        }
    }

    /// Whether the route takes this method.
    pub fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}
