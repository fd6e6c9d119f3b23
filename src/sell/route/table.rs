//! The table itself: the routes in the order in which they are tried, and what it says of a request.

use std::sync::Arc;

use http::Method;

use crate::base::price::Price;
use crate::base::secret_file::Secrets;

use super::{Access, PathError, Pattern, RequestPath, Route};

/// What the table says of a request.
#[derive(Debug)]
pub enum Found<'a> {
    /// This route.
    Route(&'a Arc<Route>),
    /// The path is known, the method is not taken there. Never a less specific route: a guarded path must not be open by
    /// another method.
    MethodNotTaken {
        /// What is taken there, HEAD with GET.
        methods: Vec<Method>,
        /// Whether any of it is sold.
        is_paid: bool,
    },
    /// No route.
    Nothing,
    /// Two servers could read the path in two ways that belong to different routes.
    Ambiguous(PathError),
}

/// Two routes, of which one can never be reached, or not be told from the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {second} (`{path}`) is shadowed by route {first}: {why}")]
pub struct Shadowed {
    /// The first one's number, counted from 1.
    pub first: usize,
    /// The second one's number.
    pub second: usize,
    /// The path of the second.
    pub path: String,
    /// What they have in common.
    pub why: &'static str,
}

/// All routes, the most specific first.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// In the order in which they are tried.
    routes: Vec<Arc<Route>>,
    /// Their patterns in small letters, in the same order.
    folded: Vec<Pattern>,
    /// Whether that makes a difference to any of them.
    has_upper_case: bool,
    /// Whether any of them is sold.
    is_any_sold: bool,
    /// What is not served, whatever folder of a route it is in.
    secrets: Arc<Secrets>,
}

impl RouteTable {
    /// Orders the routes; refuses a pair of which one could never be reached.
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

    /// The same routes, which serve none of these files.
    #[must_use]
    pub fn without(self, secrets: Secrets) -> Self {
        Self {
            secrets: Arc::new(secrets),
            ..self
        }
    }

    /// What is not served.
    pub fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    /// The route of a request. The most specific path decides; its routes may share it by method.
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

    /// Whether the route passes a path with doubled or encoded slashes on, and the path belongs to it however servers read it.
    /// If not, the error holds anything else that is wrong with the path.
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

    /// Whether some servers would take this path for one that is sold, and that is not the one it belongs to: the server
    /// behind a free `/*` must not be asked for `/Guarded/x` or `/guarded;a/x`.
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
            // Without its parameters it has no meaning at all, or one that differs from server to server.
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

    /// Prices that are in another class in a later table, each with its service, and both classes.
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

    /// All routes, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sell::route::{Grant, Offer, Resource};

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
