//! CORS (Fetch standard): scripts of every origin may read sold resources and all of our own
//! answers.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::answer::{EXPIRES, list};

/// Lets scripts of any origin read an answer, without credentials.
const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// Request headers that scripts of other origins may always send. They are listed, because `*` does
/// not cover `Authorization`.
const ALLOWED: &str = "Authorization, Content-Type, Accept-Payment, Accept-Grant, X-Grpc-Web, X-User-Agent, Grpc-Timeout";
/// Response headers that scripts of other origins may read. A constant, because parsing a header
/// value checks every byte.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("WWW-Authenticate, Payment-Receipt, Retry-After");
/// The readable response headers of an answer that also reports the rest of a grant.
const EXPOSED_BEHIND_PAYMENT: HeaderValue = HeaderValue::from_static(
    "WWW-Authenticate, Payment-Receipt, Retry-After, L402-Remaining-Requests, L402-Remaining-Bytes, \
     L402-Remaining-Seconds, L402-Expires",
);

/// The origins that may send a browser's credentials: cookies, client certificates and HTTP
/// authentication.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<HeaderValue>);

/// Text that is not an origin in the form that browsers send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an origin as browsers send it: use lower case, no default port and no path, such as \"https://app.example\""
)]
pub struct NotAnOrigin(String);

impl Origins {
    /// Parses a list of origins.
    pub fn parse(list: &[String]) -> Result<Self, NotAnOrigin> {
        let refused = |text: &String| NotAnOrigin(text.clone());
        let origins = list.iter().map(|text| {
            let value = HeaderValue::from_str(text).map_err(|_| refused(text))?;
            if is_origin(text) {
                Ok(value)
            } else {
                Err(refused(text))
            }
        });
        origins.collect::<Result<_, _>>().map(Self)
    }

    /// The CORS headers for the origin of a request.
    pub(crate) fn words(&self, request: &HeaderMap) -> Words {
        if self.0.is_empty() {
            return Words::default();
        }
        let origin = request.get(ORIGIN);
        Words {
            credentialed: origin.filter(|origin| self.0.contains(origin)).cloned(),
            varies: true,
        }
    }
}

/// Whether this is an origin in the form that browsers send (RFC 6454, section 6.2).
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else {
        return false;
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return false;
    };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let is_plain = format!("{scheme}://{authority}") == text && !authority.as_str().contains('@');
    let has_other_port = match authority.port_u16() {
        Some(port) => port != default_port && authority.as_str().ends_with(&format!(":{port}")),
        None => authority.as_str() == authority.host(),
    };
    is_plain
        && has_other_port
        && !authority.host().is_empty()
        && !authority.host().contains('*')
        && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// The CORS headers that depend on the origin of the request.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// The origin, if its scripts may send credentials.
    credentialed: Option<HeaderValue>,
    /// Whether another origin would get other headers.
    varies: bool,
}

impl Words {
    /// Answers a preflight. Allows the headers that the browser asks for.
    pub(crate) fn preflight(&self, methods: &[Method], request: &HeaderMap) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed(request));
        let allowed = if methods.is_empty() {
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        } else {
            list(methods)
        };
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, allowed);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        headers.insert(
            VARY,
            HeaderValue::from_static(
                "Access-Control-Request-Method, Access-Control-Request-Headers",
            ),
        );
        self.say(headers);
        response
    }

    /// Lets scripts of other origins read sold resources, challenges and refusals. Keeps the CORS
    /// headers of the upstream, except for an origin that the settings name. Headers that the
    /// upstream exposes stay exposed.
    pub(crate) fn open(&self, headers: &mut HeaderMap) {
        let origin = headers.entry(ACCESS_CONTROL_ALLOW_ORIGIN);
        origin.or_insert(ANY_ORIGIN);
        let ours = if headers.contains_key(EXPIRES) {
            EXPOSED_BEHIND_PAYMENT
        } else {
            EXPOSED
        };
        expose(headers, ours);
        self.say(headers);
    }

    fn say(&self, headers: &mut HeaderMap) {
        if let Some(origin) = &self.credentialed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if self.varies && !elements(headers, &VARY).any(|name| name.eq_ignore_ascii_case("origin"))
        {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

/// The elements of a list header.
fn elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// The headers that a script may send: those in `ALLOWED`, and those that the browser asks for.
fn allowed(request: &HeaderMap) -> HeaderValue {
    let mut allowed = ALLOWED.to_owned();
    for name in elements(request, &ACCESS_CONTROL_REQUEST_HEADERS) {
        let is_there = ALLOWED
            .split(", ")
            .any(|known| known.eq_ignore_ascii_case(name));
        if !is_there && HeaderName::try_from(name).is_ok() {
            allowed.push_str(", ");
            allowed.push_str(name);
        }
    }
    HeaderValue::try_from(allowed).unwrap_or(HeaderValue::from_static(ALLOWED))
}

/// Adds our list of exposed headers to the existing one.
fn expose(headers: &mut HeaderMap, ours: HeaderValue) {
    if !headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ours);
        return;
    }
    let mut exposed: Vec<&str> = elements(headers, &ACCESS_CONTROL_EXPOSE_HEADERS).collect();
    for name in ours.to_str().unwrap_or_default().split(", ") {
        if !exposed.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            exposed.push(name);
        }
    }
    let exposed = HeaderValue::try_from(exposed.join(", ")).unwrap_or(ours);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_as_browsers_send_them_are_accepted() {
        for good in [
            "https://app.example",
            "http://localhost:5173",
            "https://[::1]:8443",
            "http://app.example:443",
        ] {
            assert!(Origins::parse(&[good.to_owned()]).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "app.example",
            "https://app.example/",
            "https://app.example/a",
            "https://app.example?a",
            "https://App.example",
            "HTTPS://app.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://app.example:",
            "https://app.example:08443",
            "http://127.0.0.1:80000000",
            "https://me@app.example",
            "ftp://app.example",
            "https://",
            "https://*.example",
        ] {
            assert!(Origins::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
