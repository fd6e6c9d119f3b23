//! Builds the responses to requests that are not served. This module holds the texts for clients.
//! Log lines are written where a fault occurs.

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Serialize;
use tracing::Level;

use crate::account::ledger::{LedgerError, Left};
use crate::base::amount::Msat;
use crate::base::error_chain::chain;
use crate::base::pace::Room;
use crate::base::sparing::Sparing;
use crate::base::via::Circle;
use crate::protocol::invoice::Unready;
use crate::protocol::l402::challenge::www_authenticate;
use crate::sell::gate::{Challenge, Choice, Denial, GRANT_PARAMETER};
use crate::sell::quote::Unpriced;
use crate::sell::route::Grant;

use super::check::Refusal;
use super::head_limits::{HEADER_BYTES_MAX, HEADERS_MAX};

/// `Retry-After` in seconds while the node cannot receive payments. Peers and chain sources usually
/// come back within minutes.
const RETRY_AFTER_SECS: HeaderValue = HeaderValue::from_static("30");

/// `Retry-After` in seconds while the server is busy. Most requests end within seconds.
const BUSY_RETRY_AFTER_SECS: HeaderValue = HeaderValue::from_static("1");

/// The requests left on a token after this one.
const REMAINING_REQUESTS: HeaderName = HeaderName::from_static("l402-remaining-requests");
/// The response bytes that were left on the token when the answer began.
const REMAINING_BYTES: HeaderName = HeaderName::from_static("l402-remaining-bytes");
/// The metered seconds that were left on the token when the answer began.
const REMAINING_SECONDS: HeaderName = HeaderName::from_static("l402-remaining-seconds");
/// When the token expires, in Unix seconds.
pub(super) const EXPIRES: HeaderName = HeaderName::from_static("l402-expires");

/// The title of a challenge.
const PAYMENT_REQUIRED: &str = "Payment Required";

/// The media type of RFC 9457.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A short title of the problem. All answers that we generate carry one. gRPC sends only this
/// title.
#[derive(Clone, Copy, Debug)]
pub(super) struct Title(pub(super) &'static str);

/// Whether we made this answer, rather than the upstream or handler.
pub(super) fn is_ours(response: &Response) -> bool {
    response.extensions().get::<Title>().is_some()
}

/// A problem body (RFC 9457).
#[derive(Debug, Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
}

/// The body of a 402.
#[derive(Debug, Serialize)]
struct ChallengeBody<'a> {
    #[serde(flatten)]
    problem: Problem<'a>,
    service: &'a str,
    price_msat: u64,
    invoice: &'a str,
    payment_hash: String,
    macaroon: &'a str,
    /// When the invoice expires, in Unix seconds.
    expires_at: u64,
    grant: GrantBody,
    /// All the grants on sale; empty if there is only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grants: Vec<ChoiceBody<'a>>,
    how_to_pay: String,
}

/// The grant that the payment buys.
#[derive(Debug, Serialize)]
struct GrantBody {
    /// `null` for any number.
    requests: Option<u64>,
    /// Response bytes; missing for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// Metered seconds; missing for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    valid_secs: u64,
}

impl From<&Grant> for GrantBody {
    fn from(grant: &Grant) -> Self {
        Self {
            requests: grant.requests,
            bytes: grant.bytes,
            seconds: grant.seconds,
            valid_secs: grant.valid.as_secs(),
        }
    }
}

/// A grant on sale.
#[derive(Debug, Serialize)]
struct ChoiceBody<'a> {
    name: &'a str,
    /// `null` while an exchange rate is missing.
    price_msat: Option<u64>,
    #[serde(flatten)]
    grant: GrantBody,
    /// The other services that the token opens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also_opens: Vec<&'a str>,
}

impl<'a> From<&'a Choice> for ChoiceBody<'a> {
    fn from(choice: &'a Choice) -> Self {
        Self {
            name: &choice.name,
            price_msat: choice.price.map(Msat::msat),
            grant: (&choice.grant).into(),
            also_opens: choice.also.iter().map(|name| &**name).collect(),
        }
    }
}

/// Answers 402 with an invoice and a token.
pub(crate) fn challenge(challenge: &Challenge) -> Response {
    let invoice = &challenge.invoice;
    let detail = challenge.why.to_string();
    let body = ChallengeBody {
        problem: Problem {
            r#type: "about:blank",
            title: PAYMENT_REQUIRED,
            status: 402,
            detail: &detail,
        },
        service: &challenge.service,
        price_msat: challenge.price.msat(),
        invoice: &invoice.bolt11,
        payment_hash: hex::encode(invoice.payment_hash),
        macaroon: &challenge.macaroon,
        expires_at: invoice.expires_at_secs,
        grant: (&challenge.grant).into(),
        grants: challenge.choice.iter().map(Into::into).collect(),
        how_to_pay: how_to_pay(challenge),
    };
    let mut response = json(StatusCode::PAYMENT_REQUIRED, Title(PAYMENT_REQUIRED), &body);
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept, Authorization"));
    // Each scheme has a header line of its own, because clients read only the first line.
    for line in www_authenticate(&challenge.macaroon, &invoice.bolt11)
        .into_iter()
        .flatten()
    {
        headers.append(WWW_AUTHENTICATE, line);
    }
    response
}

/// Explains the payment in one or two plain sentences, which a language model can follow too.
fn how_to_pay(challenge: &Challenge) -> String {
    let pay = format!(
        "Pay the Lightning invoice in `invoice` ({}), which gives you a preimage (64 hex digits), then send the same \
         request again with the header `Authorization: L402 <macaroon>:<preimage>`; it buys {}.",
        challenge.price, challenge.grant
    );
    if challenge.choice.is_empty() {
        return pay;
    }
    format!(
        "{pay} To buy something else from `grants`, first ask again with the header `Accept-Grant: <name>` or with \
         `{GRANT_PARAMETER}=<name>` in the query."
    )
}

/// Adds headers that tell the holder the rest of its grant after this answer. Replaces headers of
/// the same names from an upstream.
pub(crate) fn tell_left(headers: &mut HeaderMap, left: &Left) {
    for (name, value) in [
        (REMAINING_REQUESTS, left.requests),
        (REMAINING_BYTES, left.bytes),
        (REMAINING_SECONDS, left.seconds),
        (EXPIRES, left.expires_secs),
    ] {
        if let Some(value) = value {
            headers.insert(name, value.into());
        }
    }
}

/// The answer to a request that does not even get a challenge.
pub(crate) fn denial(denial: &Denial) -> Response {
    let detail = match denial {
        Denial::Unclassed(unclassed) => {
            let detail = sentence(&unclassed.to_string());
            return problem(StatusCode::BAD_REQUEST, "No price", &detail);
        }
        Denial::UnknownGrant(names) => {
            let detail = format!("There is no such grant here; there are: {names}.");
            return problem(StatusCode::BAD_REQUEST, "No such grant", &detail);
        }
        Denial::TooMany(room) => return too_many(room),
        Denial::Unpriced(unpriced) => return self::unpriced(unpriced),
        Denial::Unpayable {
            instead: Some(name),
            ..
        } => &format!(
            "This cannot be received at the moment, and the grant {name} can: ask for it with the header `Accept-Grant: {name}`. \
                 Nothing was charged."
        ),
        Denial::Unpayable { why, instead: None } => {
            let shown = match why {
                // The exact reason is for the operator. The client only needs to know that it
                // cannot pay now.
                Unready::Starting
                | Unready::ChainSourceUnreachable
                | Unready::StoreUnreachable
                | Unready::StoreRefuses
                | Unready::Behind
                | Unready::NoChannel
                | Unready::PeersOffline
                | Unready::KeyMismatch
                | Unready::Recovering
                | Unready::DiskFull
                | Unready::ClockBehind
                | Unready::Stopping => {
                    "No invoice can be paid here at the moment. Nothing was charged; ask again later."
                }
                Unready::NoInboundCapacity => {
                    "This amount cannot be received at the moment. Nothing was charged; ask again later."
                }
            };
            tracing::debug!("No challenge: {why}");
            shown
        }
        Denial::NoRandomness => {
            tracing::error!("No challenge: the operating system gives no randomness");
            "No invoice can be made at the moment. Nothing was charged; ask again later."
        }
    };
    let mut response = problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "Cannot be paid now",
        detail,
    );
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECS);
    response
}

/// Answers 503, because a challenge needs a known price. The cause was logged where it was found.
fn unpriced(unpriced: &Unpriced) -> Response {
    tracing::debug!("No challenge: {unpriced}");
    let detail = sentence(unpriced.detail());
    let mut response = problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "Cannot be priced now",
        &detail,
    );
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECS);
    response
}

/// Answers 429 (RFC 6585) with rate limit headers (draft-ietf-httpapi-ratelimit-headers-07).
fn too_many(room: &Room) -> Response {
    let mut response = problem(
        StatusCode::TOO_MANY_REQUESTS,
        "Too many requests",
        "You ask too often. Nothing was charged; wait as long as `Retry-After` says.",
    );
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, room.reset_secs.into());
    headers.insert("ratelimit-limit", room.limit.into());
    headers.insert("ratelimit-remaining", room.remaining.into());
    headers.insert("ratelimit-reset", room.reset_secs.into());
    response
}

/// The answer to a request that the listener refuses.
pub(crate) fn refusal(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::HeadersTooLarge => headers_too_large(),
        Refusal::Host => problem(
            StatusCode::BAD_REQUEST,
            "Bad Host",
            "A request names exactly one host in its `Host` header, and none besides it.",
        ),
        Refusal::Scheme => problem(
            StatusCode::BAD_REQUEST,
            "Bad scheme",
            "Only http and https are served here.",
        ),
        Refusal::Length => problem(
            StatusCode::BAD_REQUEST,
            "Bad length",
            "The `Content-Length` is one number, that of the bytes in the body.",
        ),
        Refusal::Twice(name) => twice(name),
        Refusal::NotForUs => problem(
            StatusCode::NOT_IMPLEMENTED,
            "Not implemented",
            "CONNECT and TRACE are not served here.",
        ),
        Refusal::Path(error) => problem(
            StatusCode::BAD_REQUEST,
            "Bad path",
            &sentence(&error.to_string()),
        ),
        Refusal::BodyTooLarge(max) => body_too_large(*max),
        Refusal::Method { methods, .. } => {
            let mut response = problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not allowed",
                "This path does not take this method.",
            );
            response.headers_mut().insert(ALLOW, list(methods));
            response
        }
        Refusal::Blocked => problem(
            StatusCode::FORBIDDEN,
            "Forbidden",
            "Your address is not served here.",
        ),
        Refusal::Circle(circle) => self::circle(*circle),
        Refusal::NoRoute => problem(StatusCode::NOT_FOUND, "Not found", "There is nothing here."),
        Refusal::Stopping => {
            let mut response = problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "Stopping",
                "This server is stopping. Nothing was counted; ask again later.",
            );
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECS);
            response
        }
        Refusal::Busy => {
            let mut response = problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "Busy",
                "Too many requests are being answered. This one was not counted; ask again later.",
            );
            response
                .headers_mut()
                .insert(RETRY_AFTER, BUSY_RETRY_AFTER_SECS);
            response
        }
    }
}

/// Answers 500, for an internal fault.
pub(super) fn internal_error() -> Response {
    problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "Internal error",
        "The request was not counted.",
    )
}

/// Logs a fault of the ledger, and answers 500.
pub(crate) fn fault(fault: &LedgerError, route: &str, log: &Sparing) -> Response {
    if log.may(Level::ERROR, "Failed to decide about a request", route) {
        tracing::error!(
            route.name = route,
            "Failed to decide about a request: {}",
            chain(fault)
        );
    }
    internal_error()
}

/// Answers 508 (RFC 5842) to a looping request.
fn circle(circle: Circle) -> Response {
    let detail = match circle {
        Circle::Seen => {
            "This request has passed this server before: the upstream forwards it back."
        }
        Circle::TooMany => "This request has passed through too many servers.",
    };
    problem(StatusCode::LOOP_DETECTED, "Loop detected", detail)
}

fn twice(name: &HeaderName) -> Response {
    let detail = format!("Send `{name}` only once, and no header with a similar name.");
    problem(StatusCode::BAD_REQUEST, "Header given twice", &detail)
}

fn headers_too_large() -> Response {
    let kib = HEADER_BYTES_MAX / 1024;
    let detail = format!("A request may have {HEADERS_MAX} headers, of {kib} KiB in all.");
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    problem(status, "Headers too large", &detail)
}

pub(super) fn body_too_large(max: u64) -> Response {
    let detail = format!("The body of a request may have {max} bytes.");
    problem(StatusCode::PAYLOAD_TOO_LARGE, "Body too large", &detail)
}

pub(super) fn problem(status: StatusCode, title: &'static str, detail: &str) -> Response {
    json(
        status,
        Title(title),
        &Problem {
            r#type: "about:blank",
            // A problem of the type `about:blank` has the title of its status (RFC 9457, section
            // 4.2.1).
            title: status.canonical_reason().unwrap_or(title),
            status: status.as_u16(),
            detail,
        },
    )
}

/// Writes a problem body. It must not be cached, because the same request can succeed a moment
/// later.
fn json(status: StatusCode, title: Title, body: &impl Serialize) -> Response {
    let body =
        serde_json::to_vec(body).expect("these types have no maps with other keys than strings");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.extensions_mut().insert(title);
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn list(methods: &[Method]) -> HeaderValue {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static("GET"))
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars
        .next()
        .map(|first| first.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}
