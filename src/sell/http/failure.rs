//! Answers to permitted requests that could not be served.

use axum::response::Response;
use http::header::ALLOW;
use http::{HeaderValue, StatusCode};
use tracing::Level;

use crate::base::error_chain::chain;
use crate::base::sparing::Sparing;
use crate::sell::resource::{BoxError, Failure};

use super::answer::{body_too_large, internal_error, problem, refusal};
use super::check::Refusal;

/// The answer to a permitted request that could not be served and whose use was given back.
pub(crate) fn answer(failure: &Failure, route: &str, log: &Sparing) -> Response {
    match failure {
        Failure::NotFound | Failure::IsFolder => refusal(&Refusal::NoRoute),
        Failure::MethodNotAllowed => {
            let mut response = problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not allowed",
                "A file supports GET and HEAD only.",
            );
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        Failure::BodyTooLarge(max) => body_too_large(*max),
        Failure::BodyTooSlow => problem(
            StatusCode::REQUEST_TIMEOUT,
            "Request timeout",
            "The request's body did not arrive in time.",
        ),
        Failure::BodyBroken => problem(
            StatusCode::BAD_REQUEST,
            "Bad body",
            "The request's body ended early or is invalid.",
        ),
        Failure::UpstreamUnreachable(why) => {
            unanswered("The upstream does not answer", Some(why), route, log);
            problem(
                StatusCode::BAD_GATEWAY,
                "Bad gateway",
                "The upstream server does not respond. The request was not counted; retry later.",
            )
        }
        Failure::UpstreamUnreadable(why) => {
            unanswered(
                "The upstream sent an invalid response",
                Some(why),
                route,
                log,
            );
            problem(
                StatusCode::BAD_GATEWAY,
                "Bad gateway",
                "The upstream server sent an invalid response. The request was not counted.",
            )
        }
        Failure::UpstreamTimeout => {
            unanswered("The upstream took too long", None, route, log);
            problem(
                StatusCode::GATEWAY_TIMEOUT,
                "Gateway timeout",
                "The upstream server took too long. The request was not counted; retry later.",
            )
        }
        // Another running answer used up the grant; the client can retry.
        Failure::UsedUp => refusal(&Refusal::Busy),
        Failure::Unreadable(error) => {
            if log.may(Level::ERROR, "Failed to read a file", route) {
                tracing::error!(
                    route.name = route,
                    "Failed to read a file of {route}: {error}"
                );
            }
            internal_error()
        }
    }
}

/// Logs why an upstream did not answer.
fn unanswered(kind: &'static str, why: Option<&BoxError>, route: &str, log: &Sparing) {
    if !log.may(Level::WARN, kind, route) {
        return;
    }
    let what = kind.strip_prefix("The upstream ").unwrap_or(kind);
    match why {
        Some(why) => tracing::warn!(
            route.name = route,
            "The upstream of {route} {what}: {}",
            chain(why.as_ref())
        ),
        None => tracing::warn!(route.name = route, "The upstream of {route} {what}"),
    }
}
