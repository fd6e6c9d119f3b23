//! The door to each part of the listener: whoever holds a token that allows it is let in, once the request is there as a whole.

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

use super::access::{AdminToken, Caller, Scope};
use super::fault::Fault;

/// The longest body: an invoice or an offer to pay, which is the longest there is, has a few KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a body may take to come. The longest one takes so long at 52 kbit/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is let in to a part of the listener.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// Who is known.
    pub(super) token: Arc<AdminToken>,
    /// What one must be allowed.
    pub(super) scope: Scope,
}

impl Door {
    /// Who presents these headers, if that is somebody who may come in now.
    fn opens_to(&self, headers: &HeaderMap) -> Result<Caller, Fault> {
        let caller = self.token.caller(headers).ok_or(Fault::Unknown)?;
        if caller.scope < self.scope {
            return Err(Fault::Forbidden(self.scope.name()));
        }
        Ok(caller)
    }

    /// The request with who asks, if that may come in.
    async fn let_in(&self, request: Request) -> Result<Request, Fault> {
        // Nobody else has anything read for them.
        self.opens_to(request.headers())?;
        let (head, body) = request.into_parts();
        let body = whole(body).await?;
        // Once more: a request that was begun before its token ended must not be finished after it.
        let caller = self.opens_to(&head.headers)?;
        let mut request = Request::from_parts(head, Body::from(body));
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// Lets a request through if it carries a token that allows it, and tells the handler who asks.
pub(super) async fn require(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.let_in(request).await {
        Ok(request) => {
            // While the handler runs, a connection without a token cannot displace this one.
            let kept = request.extensions().get::<Guest>().map(Guest::pay);
            let response = next.run(request).await;
            drop(kept);
            response
        }
        Err(fault) => fault.into_response(),
    }
}

/// All of a body.
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

    /// A part of the listener, a token that opens it for an hour, and the clock that it goes by.
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

        /// Asks for something with this body.
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

    /// A body before whose bytes something happens.
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
