//! One entry of the route table: what it matches, what it costs and what answers.

use std::path::PathBuf;
use std::sync::Arc;

use http::Method;

use super::offer::Offer;
use super::pattern::Pattern;
use super::upstream::Forward;

/// The condition for access to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// The route is open to all clients.
    Free,
    /// The route requires a payment.
    Paid(Box<Offer>),
}

/// The source of a route's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Another HTTP server, or several equivalent ones.
    Upstream(Arc<Forward>),
    /// The files of a folder.
    Files {
        /// The folder, absolute and without links.
        folder: PathBuf,
    },
}

/// One entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The name of the route in the ledger and the log: its pattern as written.
    pub name: Arc<str>,
    /// The paths that the route matches.
    pub pattern: Pattern,
    /// The methods that the route serves; empty for all. GET includes HEAD.
    pub methods: Vec<Method>,
    /// The condition for access to the route.
    pub access: Access,
    /// The source of the answers.
    pub resource: Resource,
}

impl Route {
    /// The methods that the route serves, with HEAD if GET is among them; empty for all.
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

    /// Whether the route serves this method.
    pub fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}
