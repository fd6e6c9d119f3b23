//! The route table: which path and method belong to which service, at which price, for which resource. Pure.
//!
//! Matching and forwarding see one and the same path, normalised once by [`RequestPath::parse`].

mod path;
mod pattern;
mod table;
mod upstream;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

pub use path::{PathError, RequestPath};
pub use pattern::{Pattern, PatternError};
pub use table::{Found, RouteTable, Shadowed};
pub use upstream::{CONNECT_TIMEOUT, Forward, HeaderEdits, Health, Protocol, Upstream};

use crate::amount::Msat;

/// What one payment buys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How many requests; `None` for any number.
    pub requests: Option<u64>,
    /// How long the token is good, from the latest moment at which its invoice can be paid in time.
    pub valid: Duration,
}

/// `5 requests within 1h`
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.requests {
            Some(1) => f.write_str("1 request")?,
            Some(requests) => write!(f, "{requests} requests")?,
            None => f.write_str("any number of requests")?,
        }
        write!(f, " within {}", Span(self.valid))
    }
}

/// A span of time in the largest unit that it is a whole number of, as the settings take it.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        for (unit_secs, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
            if secs != 0 && secs.is_multiple_of(unit_secs) {
                return write!(f, "{}{unit}", secs / unit_secs);
            }
        }
        write!(f, "{secs}s")
    }
}

/// A service: what a token opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The name that stands in the token.
    pub service: Arc<str>,
    /// What one payment costs.
    pub price: Msat,
    /// What one payment buys.
    pub grant: Grant,
}

/// Who may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Free,
    /// Who has paid.
    Paid(Offer),
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

    /// Whether the route takes this method.
    pub fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_reads_like_a_sentence() {
        let grant = |requests, secs| {
            Grant {
                requests,
                valid: Duration::from_secs(secs),
            }
            .to_string()
        };
        assert_eq!(grant(Some(5), 3_600), "5 requests within 1h");
        assert_eq!(grant(Some(1), 90), "1 request within 90s");
        assert_eq!(grant(None, 86_400), "any number of requests within 1d");
    }
}
