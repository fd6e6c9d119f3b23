//! The check of every request to the operator's listener. A request is admitted once its body is
//! complete and its token allows the endpoint.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::sell::http::Guest;

use super::access::{AdminToken, Caller};
use super::fault::Fault;
use super::scope::Scope;

/// The longest accepted body. The longest real body holds an invoice or an offer and has a few KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a body may take to arrive. The longest accepted body takes as long at 52 kbit/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The requirements of one part of the listener.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// The operator's token and the access tokens.
    pub(super) token: Arc<AdminToken>,
    /// The scope that the caller needs.
    pub(super) scope: Scope,
}

impl Door {
    /// Identifies the caller by these headers, and checks that the caller's scope suffices.
    fn opens_to(&self, headers: &HeaderMap) -> Result<Caller, Fault> {
        let caller = self.token.caller(headers).ok_or(Fault::Unknown)?;
        if caller.scope < self.scope {
            return Err(Fault::Forbidden(self.scope.name()));
        }
        Ok(caller)
    }

    /// Reads the whole request and attaches the caller to it, if the caller is admitted.
    async fn let_in(&self, request: Request) -> Result<Request, Fault> {
        // Check before reading the body, so that strangers cannot make the server read one.
        self.opens_to(request.headers())?;
        let (head, body) = request.into_parts();
        let body = whole(body).await?;
        // Check again after the body: the token may have expired or been revoked meanwhile.
        let caller = self.opens_to(&head.headers)?;
        let mut request = Request::from_parts(head, Body::from(body));
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// Admits a request whose token allows it, and passes the caller to the handler.
pub(super) async fn require(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.let_in(request).await {
        Ok(request) => {
            // While the handler runs, connections without a token cannot displace this connection.
            let kept = request.extensions().get::<Guest>().map(Guest::pay);
            let response = next.run(request).await;
            drop(kept);
            response
        }
        Err(fault) => fault.into_response(),
    }
}

/// Reads the whole body, within the limits of length and time.
async fn whole(body: Body) -> Result<Bytes, Fault> {
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Fault::TooLong {
            max: BODY_BYTES_MAX,
        }),
        Ok(Err(_)) => Err(Fault::Asked("the request broke off")),
        Err(_) => Err(Fault::TooSlow {
            within: BODY_TIMEOUT,
        }),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use http::StatusCode;
    use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
    use http_body_util::Full;
    use tower::ServiceExt as _;

    use crate::base::clock::Clock;
    use crate::operate::api::Granted;
    use crate::protocol::l402::TokenId;

    use super::*;

    const NOW_SECS: u64 = 1_760_000_000;

    /// One part of the listener, a token that opens it for an hour, and the clock that both use.
    struct House {
        access: Arc<AdminToken>,
        token: String,
        token_id: TokenId,
        clock: Clock,
        _folder: tempfile::TempDir,
    }

    impl House {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let clock = Clock::fixed(NOW_SECS);
            let path = folder.path().join("admin.token");
            let access = AdminToken::open(&path, clock.clone()).unwrap();
            let granted = Granted {
                scope: Scope::Admin,
                spend_max_msat: None,
                until_secs: Some(NOW_SECS + 3_600),
            };
            let operator = Caller {
                scope: Scope::Admin,
                token_id: None,
                limit: None,
                until_secs: None,
            };
            let grant = access.grant(&granted, &operator, [7; 32]).unwrap();
            Self {
                access: Arc::new(access),
                token: grant.token,
                token_id: grant.token_id,
                clock,
                _folder: folder,
            }
        }

        /// Sends a request with this body.
        async fn ask(&self, token: &str, body: Body) -> Response {
            let door = Door {
                token: Arc::clone(&self.access),
                scope: Scope::Admin,
            };
            let request = Request::post("/")
                .header(AUTHORIZATION, format!("Bearer {token}"))
                .body(body);
            Router::new()
                .route("/", post(|body: String| std::future::ready(body)))
                .route_layer(axum::middleware::from_fn_with_state(door, require))
                .oneshot(request.unwrap())
                .await
                .unwrap()
        }
    }

    /// A body that calls `happens` before its bytes arrive.
    fn after(happens: impl Fn() + Send + 'static) -> Body {
        Body::new(Full::new(Bytes::from("{}")).map_frame(move |frame| {
            happens();
            frame
        }))
    }

    #[tokio::test]
    async fn a_token_that_ends_while_its_request_is_still_coming_opens_nothing() {
        let house = House::new();
        let answer = house.ask(&house.token, after(|| {})).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "{}", "the handler has all of it");

        let (access, token_id) = (Arc::clone(&house.access), house.token_id);
        let revoked = after(move || drop(access.revoke(&token_id).unwrap()));
        let answer = house.ask(&house.token, revoked).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()[WWW_AUTHENTICATE], "Bearer");

        let house = House::new();
        let clock = house.clock.clone();
        let expired = after(move || clock.advance(Duration::from_secs(3_600)));
        let answer = house.ask(&house.token, expired).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn a_body_is_read_for_who_is_known_and_as_far_as_bodies_go() {
        let house = House::new();
        let unread = after(|| panic!("it was read"));
        let answer = house.ask("nobody", unread).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let longest = Body::from(" ".repeat(BODY_BYTES_MAX));
        let answer = house.ask(&house.token, longest).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let too_long = Body::from(" ".repeat(BODY_BYTES_MAX + 1));
        let answer = house.ask(&house.token, too_long).await;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
