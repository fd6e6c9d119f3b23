//! Asking another server one thing: a deadline over all of it, a limit on the answer, no redirects, and only 200 counts.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::causes::chain;
use crate::via::Via;

use super::Address;

/// The longest answer that is read: a price is a line, and a list of every currency some 20 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long an unused connection is kept: below the 5 s after which Node, uvicorn and Apache drop theirs, for a request that
/// crosses such an end is lost.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// How much of what somebody said goes into the log.
const SAID_CHARS_MAX: usize = 200;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Some sources refuse whoever does not say who it is.
const OURSELVES: HeaderValue =
    HeaderValue::from_static(concat!("tollhouse/", env!("CARGO_PKG_VERSION")));

/// Asks, and keeps connections.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Not in time.
    #[error("it did not answer within {0:?}")]
    Late(Duration),
    /// Nobody there, or nobody who can prove it.
    #[error("it cannot be reached: {why}")]
    Unreachable {
        /// The error with its causes.
        why: String,
    },
    /// It was there, and then it was not.
    #[error("it broke off: {why}")]
    BrokeOff {
        /// The error with its causes.
        why: String,
    },
    /// It says that it has no answer, or wants to send us elsewhere.
    #[error("it answered with status {status} instead of 200 and said: {said}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The beginning of what it said.
        said: String,
    },
    /// More than is read.
    #[error("it answered with more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

impl Asker {
    pub(super) fn new() -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let https = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(https);
        Self { client }
    }

    /// GET.
    pub(super) async fn get(&self, address: &Address, within: Duration) -> Result<Bytes, AskError> {
        self.ask(address, Method::GET, Bytes::new(), within).await
    }

    /// POST of JSON.
    pub(super) async fn post(
        &self,
        address: &Address,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, AskError> {
        self.ask(address, Method::POST, body, within).await
    }

    async fn ask(
        &self,
        address: &Address,
        method: Method,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, AskError> {
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = address.uri().clone();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, JSON);
        headers.insert(USER_AGENT, OURSELVES);
        if method == Method::POST {
            headers.insert(CONTENT_TYPE, JSON);
            // One that leads back to us would have us ask without end.
            Via::of_process().say(headers);
        }
        *request.method_mut() = method;
        tokio::time::timeout(within, self.answer(request))
            .await
            .unwrap_or(Err(AskError::Late(within)))
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Bytes, AskError> {
        let response = self.client.request(request).await.map_err(|error| {
            let why = chain(&error);
            if error.is_connect() {
                AskError::Unreachable { why }
            } else {
                AskError::BrokeOff { why }
            }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                AskError::TooLong
            } else {
                let why = chain(&*error);
                AskError::BrokeOff { why }
            }
        })?;
        let body = body.to_bytes();
        if status != StatusCode::OK {
            return Err(AskError::Status {
                status,
                said: said(&body),
            });
        }
        Ok(body)
    }
}

/// The beginning of what somebody said, as a line of the log can hold it.
pub(super) fn said(answer: &[u8]) -> String {
    if answer.is_empty() {
        return "nothing".to_owned();
    }
    // No character has more than four bytes.
    let (start, _) = answer.split_at(answer.len().min(SAID_CHARS_MAX * 4));
    let text = String::from_utf8_lossy(start);
    let mut shown = String::new();
    for char in text.chars().take(SAID_CHARS_MAX) {
        if char.is_control() {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    if text.chars().count() > SAID_CHARS_MAX || start.len() < answer.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_cut_and_stays_on_its_line() {
        assert_eq!(said(b""), "nothing");
        assert_eq!(said(b"{\"a\":1}\r\n\x1b[2J"), "{\"a\":1}\\r\\n\\u{1b}[2J");
        assert_eq!(said(&[b'a'; 200]), "a".repeat(200));
        assert_eq!(said(&[b'a'; 201]), format!("{}…", "a".repeat(200)));
        assert_eq!(
            said("ä".repeat(9_999).as_bytes()),
            format!("{}…", "ä".repeat(200))
        );
        assert_eq!(said(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
