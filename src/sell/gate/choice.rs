//! The client's choice among the grants that a route sells.

use http::Uri;

use crate::sell::route::{Offer, Plan};

use super::challenge::Denial;
use super::decision::Asked;

/// The header that names the grant to buy, where a route sells several.
pub const ACCEPT_GRANT: &str = "accept-grant";

/// The query parameter that names the grant to buy.
pub const GRANT_PARAMETER: &str = "l402-grant";

/// The plan that the client chose, or the default one.
pub(super) fn wanted<'a>(offer: &'a Offer, asked: &Asked<'_>) -> Result<&'a Plan, Denial> {
    if !offer.has_choice() {
        return Ok(offer.default_plan());
    }
    let of_header = asked.headers.get(ACCEPT_GRANT);
    let of_header = of_header.map(|name| name.to_str().unwrap_or_default().trim());
    let of_query = asked.query.and_then(|query| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(key, value)| (key == GRANT_PARAMETER).then_some(value))
    });
    let Some(name) = of_header.or(of_query) else {
        return Ok(offer.default_plan());
    };
    offer.plan(name).ok_or_else(|| {
        let names: Vec<_> = offer.plans.iter().map(|plan| &*plan.name).collect();
        Denial::UnknownGrant(names.join(", "))
    })
}

/// The URI without the client's choice of a grant; `None` if it contains none.
pub fn without_choice(offer: &Offer, uri: &Uri) -> Option<Uri> {
    let query = uri.query().filter(|_| offer.has_choice())?;
    let is_choice = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        name == GRANT_PARAMETER
    };
    if !query.split('&').any(|pair| is_choice(&pair)) {
        return None;
    }
    let rest: Vec<_> = query.split('&').filter(|pair| !is_choice(pair)).collect();
    let path = uri.path();
    let path_and_query = if rest.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", rest.join("&"))
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path_and_query.parse().ok();
    Uri::from_parts(parts).ok()
}
