//! The routes of a settings file: the path and resource of each, and whether they fit together.

use std::sync::Arc;

use http::Method;

use crate::sell::route::{Access, Count, Pattern, Resource, Route, RouteTable};

use super::meaning::Meaning;
use super::raw::RawRoute;

/// The methods that a route can accept (RFC 9110, RFC 5789). CONNECT and TRACE are never served.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

impl Meaning<'_> {
    pub(super) fn routes(&mut self, raw: &[RawRoute]) -> RouteTable {
        let mut routes = Vec::with_capacity(raw.len());
        // Routes are numbered from 1, as people count tables.
        for (number, raw) in (1..).zip(raw) {
            routes.extend(self.route(&format!("route[{number}]"), raw));
        }
        if routes.len() < raw.len() {
            return RouteTable::default();
        }
        self.no_secrets_for_sale(&routes);
        self.price_classes(&mut routes);
        self.nothing_given_away(raw, &routes);
        let table = RouteTable::new(routes).unwrap_or_else(|shadowed| {
            self.complain(
                &format!("route[{}].path", shadowed.second),
                format!("{shadowed}; take one of them out, or give them different methods"),
            );
            RouteTable::default()
        });
        table.without(std::mem::take(&mut self.secrets))
    }

    /// Reads one route. Returns `None` after reporting a mistake in it.
    fn route(&mut self, key: &str, raw: &RawRoute) -> Option<Route> {
        let before = self.complaints.len();
        let pattern = Pattern::parse(&raw.path)
            .map_err(|error| self.complain(&format!("{key}.path"), error.to_string()));
        let methods = self.methods(key, raw);
        let access = self.access(key, raw);
        let resource = self.resource(key, raw);
        let (pattern, access, resource) = (pattern.ok()?, access?, resource?);
        if matches!(pattern, Pattern::Exact(_)) && raw.strip_prefix == Some(true) {
            self.complain(
                &format!("{key}.strip_prefix"),
                "an exact path has no prefix: let the path end with `/*`, or leave this key out",
            );
        }
        if matches!(pattern, Pattern::Exact(_)) && raw.encoded_slashes.as_deref() == Some("pass") {
            self.complain(
                &format!("{key}.encoded_slashes"),
                "an exact path cannot contain such slashes: end the path with `/*`, or remove this key",
            );
        }
        if matches!(resource, Resource::Files { .. })
            && let Some(method) = methods
                .iter()
                .find(|method| !matches!(**method, Method::GET | Method::HEAD))
        {
            self.complain(
                &format!("{key}.methods"),
                format!("a file takes GET and HEAD only, not {method}"),
            );
        }
        if matches!(resource, Resource::Files { .. }) && matches!(pattern, Pattern::Exact(_)) {
            self.complain(
                &format!("{key}.path"),
                "a route of `files` sells a folder: let its path end with `/*`",
            );
        }
        if !matches!(resource, Resource::Files { .. })
            && matches!(&access, Access::Paid(offer) if offer.count == Count::File)
        {
            self.complain(
                &format!("{key}.count"),
                "\"file\" counts the parts of a file as one request: use it only on a route with `files`",
            );
        }
        (self.complaints.len() == before).then(|| Route {
            name: raw.path.as_str().into(),
            pattern,
            methods,
            access,
            resource,
        })
    }

    fn methods(&mut self, key: &str, raw: &RawRoute) -> Vec<Method> {
        let Some(names) = &raw.methods else {
            return Vec::new();
        };
        let key = format!("{key}.methods");
        if names.is_empty() {
            self.complain(
                &key,
                "without a method nothing can be asked for: leave the key out for all of them",
            );
        }
        let mut methods = Vec::with_capacity(names.len());
        for name in names {
            match name.parse::<Method>() {
                Ok(method) if METHODS.contains(&method) => methods.push(method),
                _ => self.complain(
                    &key,
                    format!(
                        "`{name}` is no method that a route can take: write them in capitals, as in [\"GET\", \"POST\"]"
                    ),
                ),
            }
        }
        methods
    }

    fn resource(&mut self, key: &str, raw: &RawRoute) -> Option<Resource> {
        match (&raw.upstream, &raw.files) {
            (Some(upstream), None) => self
                .forward(key, raw, upstream)
                .map(|forward| Resource::Upstream(Arc::new(forward))),
            (None, Some(files)) => {
                if raw.strip_prefix.is_some() {
                    self.complain(
                        &format!("{key}.strip_prefix"),
                        "a route of `files` always takes its prefix off: leave this key out",
                    );
                    return None;
                }
                self.nothing_forwarded(key, raw)?;
                self.files(key, files)
            }
            (None, None) => {
                self.complain(
                    key,
                    "give what is sold: `upstream` (a URL) or `files` (a folder)",
                );
                None
            }
            (Some(_), Some(_)) => {
                self.complain(key, "a route sells one thing: `upstream` or `files`");
                None
            }
        }
    }

    fn files(&mut self, key: &str, text: &str) -> Option<Resource> {
        let folder = self.folder.join(text);
        match folder.canonicalize() {
            Ok(folder) if folder.is_dir() => Some(Resource::Files { folder }),
            Ok(_) => {
                self.complain(
                    &format!("{key}.files"),
                    format!("{} is no folder", folder.display()),
                );
                None
            }
            Err(error) => {
                self.complain(
                    &format!("{key}.files"),
                    format!("the folder {} cannot be opened: {error}", folder.display()),
                );
                None
            }
        }
    }
}
