//! Sends one request to another server, with a deadline for the whole exchange and a limit on the
//! answer. Redirects are not followed, and only status 200 counts as an answer.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::base::error_chain::chain;
use crate::base::text;
use crate::base::via::Via;

use super::address::Address;

/// The longest answer that is read: a price takes a line, and a list of all currencies about 20
/// KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long an idle connection is kept. gunicorn closes its connections after 2 s, and a request on
/// a connection that is just closing is lost.
const POOL_IDLE: Duration = Duration::from_secs(1);

/// The most characters of an answer that are logged.
const SAID_CHARS_MAX: usize = 200;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Our `User-Agent`. Some sources refuse requests without one.
const OURSELVES: HeaderValue =
    HeaderValue::from_static(concat!("tollhouse/", env!("CARGO_PKG_VERSION")));

/// An HTTP client that reuses its connections.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// The reason why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The connection was made, and the answer did not come in time.
    #[error("it did not answer within {0:?}")]
    Late(Duration),
    /// No connection was made in time.
    #[error("it took no connection within {0:?}")]
    NoConnection(Duration),
    /// The connection failed, or the server could not prove its identity.
    #[error("it cannot be reached: {why}")]
    Unreachable {
        /// Whether no server is there: the connection was refused, the host is unreachable, or the
        /// name has no address. `false` if this machine has run out of a resource, or if the server
        /// has no valid certificate.
        is_absent: bool,
        /// The error with its causes.
        why: String,
    },
    /// The connection broke before the answer was complete.
    #[error("it broke off: {why}")]
    BrokeOff {
        /// The error with its causes.
        why: String,
    },
    /// The server answered with an error or a redirect.
    #[error("it answered with status {status} instead of 200 and said: {said}")]
    Status {
        /// The status of the answer.
        status: StatusCode,
        /// The beginning of the answer.
        said: String,
    },
    /// The answer is longer than the limit.
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

    /// Sends a GET request.
    pub(super) async fn get(&self, address: &Address, within: Duration) -> Result<Bytes, AskError> {
        let (request, connection) = question(address, Method::GET, Bytes::new());
        self.ask(request, &connection, within).await
    }

    /// Sends a request made by [`post`].
    pub(super) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        connection: &Connection,
        within: Duration,
    ) -> Result<Bytes, AskError> {
        tokio::time::timeout(within, self.answer(request))
            .await
            .unwrap_or_else(|_| {
                Err(if connection.is_made() {
                    AskError::Late(within)
                } else {
                    AskError::NoConnection(within)
                })
            })
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Bytes, AskError> {
        let response = self.client.request(request).await.map_err(|error| {
            let why = chain(&error);
            if error.is_connect() {
                AskError::Unreachable {
                    is_absent: says_absent(&error),
                    why,
                }
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

/// Tells whether a request has got a connection, even after the request was cancelled.
#[derive(Clone, Debug)]
pub(super) struct Connection(CaptureConnection);

impl Connection {
    /// Whether the connection was made.
    pub(super) fn is_made(&self) -> bool {
        self.0.connection_metadata().is_some()
    }
}

/// Builds a POST request with a JSON body.
pub(super) fn post(address: &Address, body: Bytes) -> (Request<Full<Bytes>>, Connection) {
    question(address, Method::POST, body)
}

fn question(address: &Address, method: Method, body: Bytes) -> (Request<Full<Bytes>>, Connection) {
    let mut request = Request::new(Full::new(body));
    *request.uri_mut() = address.uri().clone();
    let headers = request.headers_mut();
    headers.insert(ACCEPT, JSON);
    headers.insert(USER_AGENT, OURSELVES);
    if method == Method::POST {
        headers.insert(CONTENT_TYPE, JSON);
        // Without this header, a hook that leads back to this program would cause an endless loop.
        Via::of_process().say(headers);
    }
    *request.method_mut() = method;
    let connection = Connection(capture_connection(&mut request));
    (request, connection)
}

/// Whether a failure to connect means that no server is there.
fn says_absent(error: &(dyn Error + 'static)) -> bool {
    let mut is_of_names = false;
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let is_absence = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::NetworkDown
            );
            // An operating system error, such as running out of file descriptors, has a number. A
            // resolver error has none.
            return is_absence || (is_of_names && error.raw_os_error().is_none());
        }
        // The connector's error has no public type, so its text is compared; a test checks that
        // text.
        is_of_names |= error.to_string() == "dns error";
        cause = error.source();
    }
    false
}

/// The beginning of an answer, escaped for a log line.
pub(super) fn said(answer: &[u8]) -> String {
    text::said(answer, SAID_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn is_absent(url: &str) -> bool {
        let address: Address = url.parse().unwrap();
        let error = Asker::new().get(&address, Duration::from_secs(20)).await;
        let AskError::Unreachable { is_absent, .. } = error.unwrap_err() else {
            panic!("{url} is reached");
        };
        is_absent
    }

    /// Answers the first request of each connection, and closes it on the second one.
    async fn closing(listener: tokio::net::TcpListener) {
        let mut open = tokio::task::JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            open.spawn(async move {
                let mut buffer = [0; 4_096];
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                stream.write_all(answer).await.unwrap();
                // Waits for a second request or the end of the connection.
                let _ = stream.read(&mut buffer).await;
            });
        }
    }

    #[tokio::test]
    async fn a_question_uses_no_connection_that_was_idle_for_long() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let address: Address = url.parse().unwrap();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(closing(listener));
        let asker = Asker::new();
        let mut tick = tokio::time::interval(Duration::from_millis(1_300));
        for _ in 0..2 {
            tick.tick().await;
            let (request, connection) = post(&address, Bytes::from_static(b"{}"));
            let within = Duration::from_secs(20);
            let answer = asker.ask(request, &connection, within).await;
            assert_eq!(answer, Ok(Bytes::from_static(b"{}")));
        }
    }

    #[tokio::test]
    async fn a_server_that_refuses_or_has_no_address_is_absent() {
        // The system never assigns port 1; `.invalid` never resolves (RFC 2606), even without a
        // resolver.
        assert!(is_absent("http://127.0.0.1:1/").await);
        assert!(is_absent("http://tollhouse.invalid/").await);
    }

    #[tokio::test]
    async fn a_server_without_tls_is_not_absent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let (is_absent, _) = tokio::join!(is_absent(&url), async {
            drop(listener.accept().await.unwrap());
        });
        assert!(!is_absent);
    }

    #[test]
    fn exhausted_resources_of_this_machine_do_not_make_a_server_absent() {
        // EMFILE, ENFILE, ENOBUFS, EADDRNOTAVAIL on Linux.
        for number in [24, 23, 105, 99] {
            assert!(!says_absent(&io::Error::from_raw_os_error(number)));
        }
        assert!(!says_absent(&io::Error::from(
            io::ErrorKind::ConnectionReset
        )));
    }
}
