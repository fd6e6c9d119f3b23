//! Finds routes that give away what another route sells. Two routes are compared by what they reach
//! behind the gate: paths of a server, after `strip_prefix` and `add_prefix`, or files of a folder.
//!
//! Server names are compared without resolving them. Two different names count as the same server
//! only if both are loopback names or addresses of this machine.

mod places;
mod regions;

use http::{HeaderValue, Method, header};

use crate::base::price::Price;
use crate::sell::route::{Access, Offer, Plan, Resource, Route};

use super::classes::{amount, units};
use super::meaning::Meaning;
use super::raw::RawRoute;
use super::settings::Config;
use places::Place;
use regions::{Reach, Region};

/// The most warnings about routes that sell the same on different terms. Further ones are only
/// counted.
const WARNINGS_MAX: usize = 20;

/// The places that one route reaches.
struct Reached<'a> {
    route: &'a Route,
    /// One place for each server, or one for the folder.
    places: Vec<(Place, Reach)>,
    /// The `Host` header that the settings set, because one server can host several sites.
    host: Option<&'a HeaderValue>,
}

impl Config {
    /// Logs the warnings about these settings.
    pub fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

impl Meaning<'_> {
    /// Refuses a route that gives away what another route sells, unless one of the two allows it.
    pub(super) fn nothing_given_away(&mut self, raw: &[RawRoute], routes: &[Route]) {
        let allowed = self.overlaps_allowed(raw);
        let reached: Vec<Reached<'_>> = (0..routes.len())
            .map(|index| Reached::of(index, routes))
            .collect();
        let mut warnings = Vec::new();
        for (sold_index, sold) in reached.iter().enumerate() {
            let Some(offer) = guarded(sold.route) else {
                continue;
            };
            for (index, other) in reached.iter().enumerate() {
                let Some(how) = given(other.route, offer).filter(|_| index != sold_index) else {
                    continue;
                };
                let Some(place) = sold.meets(other) else {
                    continue;
                };
                let what = format!(
                    "route {} (`{}`) {how} what route {} (`{}`) sells: both reach {place}",
                    index + 1,
                    other.route.pattern,
                    sold_index + 1,
                    sold.route.pattern,
                );
                if how == FOR_NOTHING && !(allowed[index] || allowed[sold_index]) {
                    self.complain(
                        &format!("route[{}].path", index + 1),
                        format!(
                            "{what}. Make it reach other paths (with `upstream`, `add_prefix`, `files` or `methods`), sell it \
                             too, or write overlap = \"allowed\" in it if this is intended"
                        ),
                    );
                } else {
                    warnings.push(what);
                }
            }
        }
        let more = warnings.len().saturating_sub(WARNINGS_MAX);
        warnings.truncate(WARNINGS_MAX);
        if more > 0 {
            warnings.push(format!(
                "{more} more pairs of routes reach the same paths at different prices"
            ));
        }
        self.warnings.extend(warnings);
    }

    fn overlaps_allowed(&mut self, raw: &[RawRoute]) -> Vec<bool> {
        let mut allowed = Vec::with_capacity(raw.len());
        for (number, raw) in (1..).zip(raw) {
            let text = raw.overlap.as_deref();
            if text.is_some_and(|text| !["allowed", "refused"].contains(&text)) {
                self.complain(
                    &format!("route[{number}].overlap"),
                    "write \"allowed\" if this route may give away what another route sells; otherwise remove this key",
                );
            }
            allowed.push(text == Some("allowed"));
        }
        allowed
    }
}

/// The offer of a route that requires payment.
fn guarded(route: &Route) -> Option<&Offer> {
    match &route.access {
        Access::Paid(offer) if !offer.is_dry_run => Some(offer),
        Access::Paid(_) | Access::Free => None,
    }
}

const FOR_NOTHING: &str = "serves for free";

/// How a route undercuts this offer; `None` if it does not.
fn given(route: &Route, sold: &Offer) -> Option<&'static str> {
    let Some(other) = guarded(route) else {
        return Some(FOR_NOTHING);
    };
    if other.free != sold.free && other.free.is_some() {
        return Some("has a free quota for");
    }
    if other.pricing == sold.pricing && other.plans == sold.plans {
        return None;
    }
    (!asks_as_much(other, sold)).then_some("asks less, or in another way, for")
}

/// Whether every price of `one` is known to be at least every price of `other`, for the same grant.
fn asks_as_much(one: &Offer, other: &Offer) -> bool {
    let alone = |offer: &Offer| match &offer.plans[..] {
        [Plan { grant, also, .. }] if also.is_empty() => Some(*grant),
        _ => None,
    };
    let is_same_grant = alone(one).is_some() && alone(one) == alone(other);
    let prices = |offer: &Offer| offer.prices().collect::<Vec<Price>>();
    let (ones, others) = (prices(one), prices(other));
    let is_known = !ones.is_empty() && !others.is_empty();
    let is_at_least = |one: &Price| {
        others
            .iter()
            .all(|other| units(*one) == units(*other) && amount(*one) >= amount(*other))
    };
    is_same_grant && is_known && ones.iter().all(is_at_least)
}

impl<'a> Reached<'a> {
    fn of(index: usize, routes: &'a [Route]) -> Self {
        let route = &routes[index];
        // The router chooses the most specific path for any method, so this route does not reach
        // these paths.
        let others = routes.iter().map(|other| &other.pattern);
        let hidden: Vec<_> = others
            .filter(|pattern| **pattern != route.pattern)
            .filter_map(|pattern| Region::within(pattern, &route.pattern))
            .collect();
        let (places, host) = match &route.resource {
            Resource::Files { folder } => {
                let reach = Reach::of_folder(folder, &hidden);
                (vec![(Place::Disk, reach)], None)
            }
            Resource::Upstream(forward) => {
                let place = |server: &http::Uri| {
                    let reach = Reach::of_server(server, forward, &route.pattern, &hidden);
                    (Place::of(server), reach)
                };
                let set = forward.request_headers.set.iter();
                let mut hosts = set.filter(|(name, _)| *name == header::HOST);
                (
                    forward.upstream.servers.iter().map(place).collect(),
                    hosts.next().map(|(_, value)| value),
                )
            }
        };
        Self {
            route,
            places,
            host,
        }
    }

    /// Describes a URL or a file that both routes serve for a common method.
    fn meets(&self, other: &Self) -> Option<String> {
        let is_elsewhere = self
            .host
            .zip(other.host)
            .is_some_and(|(one, other)| one != other);
        if is_elsewhere || !shares_a_method(self.route, other.route) {
            return None;
        }
        let pairs = self
            .places
            .iter()
            .flat_map(|one| other.places.iter().map(move |other| (one, other)));
        let mut met = pairs.filter(|((place, _), (other, _))| place == other);
        met.find_map(|((place, one), (_, other))| {
            let region = one.meets(other).or_else(|| match place {
                Place::Disk => one.meets_by_a_link(other),
                Place::Server { .. } => None,
            })?;
            Some(format!("{place}{region}"))
        })
    }
}

fn shares_a_method(one: &Route, other: &Route) -> bool {
    let taken = |route: &Route| match (&route.resource, route.methods.is_empty()) {
        (Resource::Files { .. }, true) => vec![Method::GET, Method::HEAD],
        _ => route.methods_taken(),
    };
    let (ones, others) = (taken(one), taken(other));
    ones.is_empty() || others.is_empty() || ones.iter().any(|method| others.contains(method))
}
