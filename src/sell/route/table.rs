//! The route table: the routes in the order in which they are tried, and the search for a request's
//! route.

use std::sync::Arc;

use http::Method;

use crate::base::price::Price;
use crate::base::secret_file::Secrets;

use super::entry::{Access, Route};
use super::path::{PathError, RequestPath};
use super::pattern::Pattern;

/// The result of looking up a request.
#[derive(Debug)]
pub enum Found<'a> {
    /// The request belongs to this route.
    Route(&'a Arc<Route>),
    /// The path matches, but the method is not served there. No less specific route is tried,
    /// because another method must not bypass a sold path.
    MethodNotTaken {
        /// The methods that the path supports, with HEAD if GET is among them.
        methods: Vec<Method>,
        /// Whether a route for this path is sold.
        is_paid: bool,
    },
    /// No route matches.
    Nothing,
    /// Servers could read the path in two ways that belong to different routes.
    Ambiguous(PathError),
}

/// Two routes that conflict: one can never be reached, or servers could confuse them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {second} (`{path}`) is shadowed by route {first}: {why}")]
pub struct Shadowed {
    /// The number of the first route, counted from 1.
    pub first: usize,
    /// The number of the second route.
    pub second: usize,
    /// The pattern of the second route.
    pub path: String,
    /// The reason for the conflict.
    pub why: &'static str,
}

/// All routes, the most specific first.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// The routes in the order in which they are tried.
    routes: Vec<Arc<Route>>,
    /// Their patterns in lower case, in the same order.
    folded: Vec<Pattern>,
    /// Whether a pattern has upper-case letters.
    has_upper_case: bool,
    /// Whether a route is sold.
    is_any_sold: bool,
    /// The secret files, which no route serves.
    secrets: Arc<Secrets>,
}

impl RouteTable {
    /// Orders the routes. Refuses a pair of which one could never be reached.
    pub fn new(routes: Vec<Route>) -> Result<Self, Shadowed> {
        for (index, second) in routes.iter().enumerate() {
            for (earlier, first) in routes[..index].iter().enumerate() {
                let share_a_method = first.methods.is_empty()
                    || second.methods.is_empty()
                    || first.methods.iter().any(|method| second.takes(method))
                    || second.methods.iter().any(|method| first.takes(method));
                let why = if first.pattern == second.pattern {
                    share_a_method.then_some("both take the same path and method")
                } else {
                    let is_alike = first.pattern.folded() == second.pattern.folded();
                    is_alike.then_some(
                        "their paths differ in capital letters only, which many servers do not tell apart",
                    )
                };
                if let Some(why) = why {
                    return Err(Shadowed {
                        first: earlier + 1,
                        second: index + 1,
                        path: second.pattern.to_string(),
                        why,
                    });
                }
            }
        }
        let mut routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.pattern.specificity()));
        let folded: Vec<_> = routes.iter().map(|route| route.pattern.folded()).collect();
        Ok(Self {
            has_upper_case: routes
                .iter()
                .zip(&folded)
                .any(|(route, folded)| route.pattern != *folded),
            is_any_sold: routes
                .iter()
                .any(|route| matches!(route.access, Access::Paid(_))),
            folded,
            routes,
            secrets: Arc::default(),
        })
    }

    /// Returns the same routes, which never serve these files.
    #[must_use]
    pub fn without(self, secrets: Secrets) -> Self {
        Self {
            secrets: Arc::new(secrets),
            ..self
        }
    }

    /// The secret files, which no route serves.
    pub fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    /// Finds the route of a request. The most specific pattern applies. Routes with the same
    /// pattern differ by method.
    pub fn find(&self, method: &Method, path: &RequestPath) -> Found<'_> {
        let best = self.routes.iter().find(|route| route.pattern.matches(path));
        let Some(best) = best else {
            return path.slashes().map_or(Found::Nothing, Found::Ambiguous);
        };
        let error = match path.slashes() {
            None => self.lookalike(path, best),
            Some(error) => self
                .slashes(method, path, best)
                .err()
                .map(|other| other.unwrap_or(error)),
        };
        if let Some(error) = error {
            return Found::Ambiguous(error);
        }
        let same = || {
            self.routes
                .iter()
                .filter(|route| route.pattern == best.pattern)
        };
        match same().find(|route| route.takes(method)) {
            Some(route) => Found::Route(route),
            None => Found::MethodNotTaken {
                methods: same().flat_map(|route| route.methods_taken()).collect(),
                is_paid: same().any(|route| matches!(route.access, Access::Paid(_))),
            },
        }
    }

    /// Checks that the route accepts doubled or encoded slashes, and that the path belongs to the
    /// route in every reading. If not, the error holds any other fault of the path.
    fn slashes(
        &self,
        method: &Method,
        path: &RequestPath,
        best: &Route,
    ) -> Result<(), Option<PathError>> {
        let mut same = self
            .routes
            .iter()
            .filter(|route| route.pattern == best.pattern);
        if !same.any(|route| route.takes(method) && route.passes_slashes()) {
            return Err(None);
        }
        for reading in path.readings()? {
            let mut routes = self.routes.iter();
            let read = routes.find(|route| route.pattern.matches(&reading));
            if read.is_none_or(|read| read.pattern != best.pattern) {
                return Err(None);
            }
            if let Some(error) = self.lookalike(&reading, best) {
                return Err(Some(error));
            }
        }
        Ok(())
    }

    /// Returns an error if some servers would read this path as that of another, sold route. For
    /// example, the server behind a free `/*` must not receive `/Guarded/x` or `/guarded;a/x`.
    fn lookalike(&self, path: &RequestPath, best: &Route) -> Option<PathError> {
        let is_sold = |pattern: Option<(usize, &Pattern)>| {
            pattern.is_some_and(|(index, _)| {
                let route = &self.routes[index];
                matches!(route.access, Access::Paid(_)) && route.pattern != best.pattern
            })
        };
        let exact = |path: &RequestPath| {
            let mut patterns = self.routes.iter().map(|route| &route.pattern).enumerate();
            patterns.find(|(_, pattern)| pattern.matches(path))
        };
        let folded = |path: &RequestPath| {
            let mut patterns = self.folded.iter().enumerate();
            patterns.find(|(_, pattern)| pattern.matches(path))
        };
        let cut = match path.without_parameters() {
            Some(Ok(cut)) => Some(cut),
            // Without its parameters, the path is invalid, or servers read it differently.
            Some(Err(_)) if self.is_any_sold => return Some(PathError::Lookalike),
            Some(Err(_)) | None => None,
        };
        let is_lookalike = cut.as_ref().is_some_and(|cut| is_sold(exact(cut)))
            || std::iter::once(path).chain(&cut).any(|path| {
                let is_same = !self.has_upper_case && !path.has_upper_case();
                !is_same && is_sold(folded(&path.in_small_letters()))
            });
        is_lookalike.then_some(PathError::Lookalike)
    }

    /// The prices whose class differs in a later table, each with its service and both classes.
    pub fn classes_moved(&self, later: &Self) -> Vec<(Arc<str>, Price, u32, u32)> {
        let classes = |table: &Self| -> Vec<(Arc<str>, Price, u32)> {
            let offers = table.routes.iter().filter_map(|route| match &route.access {
                Access::Free => None,
                Access::Paid(offer) => Some(offer),
            });
            let of_offer = offers.flat_map(|offer| {
                let classes = offer.pricing.classes();
                classes.map(|class| (offer.service.clone(), class.price, class.tier))
            });
            of_offer.collect()
        };
        let after = classes(later);
        let mut moved: Vec<_> = classes(self)
            .into_iter()
            .filter_map(|(service, price, old)| {
                let mut same = after.iter();
                let (_, _, new) = same.find(|it| it.0 == service && it.1 == price)?;
                (*new != old).then_some((service, price, old, *new))
            })
            .collect();
        moved.dedup();
        moved
    }

    /// All routes in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sell::route::entry::Resource;
    use crate::sell::route::{Grant, Offer};

    fn route(path: &str, methods: &[Method]) -> Route {
        Route {
            name: path.into(),
            pattern: Pattern::parse(path).unwrap(),
            methods: methods.to_vec(),
            access: Access::Free,
            resource: Resource::Files { folder: "/".into() },
        }
    }

    fn paid(path: &str, service: &str) -> Route {
        Route {
            access: Access::Paid(Box::new(Offer::new(
                service,
                "1 sat".parse().unwrap(),
                Grant {
                    requests: None,
                    bytes: None,
                    seconds: None,
                    valid: Duration::from_secs(1),
                },
            ))),
            ..route(path, &[])
        }
    }

    fn found(table: &RouteTable, method: &Method, path: &str) -> Option<String> {
        match table.find(method, &RequestPath::parse(path).unwrap()) {
            Found::Route(route) => Some(route.name.to_string()),
            Found::MethodNotTaken { .. } => Some("405".to_owned()),
            Found::Nothing => None,
            Found::Ambiguous(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn the_most_specific_path_decides() {
        let table = RouteTable::new(vec![
            route("/*", &[]),
            route("/a/*", &[]),
            route("/a/b", &[]),
        ])
        .unwrap();
        for (path, name) in [
            ("/", "/*"),
            ("/ab", "/*"),
            ("/a", "/a/*"),
            ("/a/", "/a/*"),
            ("/a/c/d", "/a/*"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b"),
            ("/a/b/c", "/a/*"),
        ] {
            assert_eq!(
                found(&table, &Method::GET, path).as_deref(),
                Some(name),
                "{path}"
            );
        }
    }

    #[test]
    fn a_path_that_is_guarded_for_one_method_is_not_open_by_another() {
        let table = RouteTable::new(vec![route("/*", &[]), route("/a/*", &[Method::GET])]).unwrap();
        assert_eq!(found(&table, &Method::POST, "/a/x").as_deref(), Some("405"));
        assert_eq!(
            found(&table, &Method::HEAD, "/a/x").as_deref(),
            Some("/a/*")
        );
        let table = RouteTable::new(vec![
            route("/a", &[Method::GET]),
            route("/a", &[Method::POST]),
        ])
        .unwrap();
        assert_eq!(found(&table, &Method::POST, "/a").as_deref(), Some("/a"));
        assert_eq!(found(&table, &Method::PUT, "/a").as_deref(), Some("405"));
        assert_eq!(found(&table, &Method::GET, "/b"), None);
    }

    #[test]
    fn routes_that_shadow_each_other_are_refused() {
        for (first, second) in [
            (route("/a", &[]), route("/a", &[])),
            (route("/a", &[]), route("/a/", &[Method::GET])),
            (
                route("/a", &[Method::GET]),
                route("/a", &[Method::GET, Method::POST]),
            ),
            (route("/a", &[Method::GET]), route("/a", &[Method::HEAD])),
            (route("/Docs/*", &[]), route("/docs/*", &[])),
        ] {
            let error = RouteTable::new(vec![first, second]).unwrap_err();
            assert_eq!((error.first, error.second), (1, 2));
        }
    }

    #[test]
    fn a_guarded_path_is_guarded_in_every_spelling() {
        let table = RouteTable::new(vec![
            route("/*", &[]),
            paid("/c++/*", "a"),
            paid("/@vip", "b"),
            paid("/Premium/*", "c"),
            paid("/premium/dear/*", "d"),
            route("/premium/free/*", &[]),
        ])
        .unwrap();
        for (path, name) in [
            ("/c%2B%2b/x", "/c++/*"),
            ("/%63++/x", "/c++/*"),
            ("/%40vip", "/@vip"),
            ("/Premium/x;a", "/Premium/*"),
            ("/Premium/X", "/Premium/*"),
            ("/premium/dear/X", "/premium/dear/*"),
            ("/Other;a/x", "/*"),
        ] {
            assert_eq!(
                found(&table, &Method::GET, path).as_deref(),
                Some(name),
                "{path}"
            );
        }
        for path in [
            "/Premium;a/x",
            "/premium/x",
            "/PREMIUM%3Ba/x",
            "/;a/Premium/x",
            "/@VIP",
            "/@vip;a",
            "/Premium/Dear/x",
            "/Premium/dear;a/x",
            "/Premium;a/free/x",
        ] {
            let path = RequestPath::parse(path).unwrap();
            assert!(
                matches!(table.find(&Method::GET, &path), Found::Ambiguous(_)),
                "{path:?}"
            );
        }
    }
}
