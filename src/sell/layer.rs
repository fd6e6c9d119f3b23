//! The gate for another Rust program: a [`tower::Layer`] that sells a service's answers. It
//! decides, counts and answers like the public listener. The program itself serves the permitted
//! requests.
//!
//! Uses plain `tower` and `http`. [`crate::sell::http`] reads the data that axum attaches to a
//! request.

mod offers;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Layer, Service};

pub use offers::GuardError;
pub(crate) use offers::can_be_priced;

use crate::account::ledger::Left;
use crate::base::live::Live;
use crate::base::via::{Circle, Via};
use crate::protocol::l402::TokenId;
use crate::sell::gate::{Asked, Decision, Gate, Permit, without_choice};
use crate::sell::http::{
    Body, Call, Refusal, Shop, Words, answer, failure, is_preflight, path_asked_for, peer,
};
use crate::sell::resource::{BoxError, Downstream, Failure, Unserved, handler, join_cookies};
use crate::sell::route::{Access, Offer, RequestPath};

/// The payment for a request, which a handler finds in the request's extensions.
///
/// It is missing where a guard serves a request without a token: within a free quota, or in a dry
/// run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paid {
    /// The guard's service.
    pub service: Arc<str>,
    /// The id of the token, which distinguishes buyers. It is not secret.
    pub token_id: TokenId,
    /// The rest of the grant after this request.
    pub left: Left,
}

impl Paid {
    fn of(permit: &Permit, service: &Arc<str>) -> Option<Self> {
        Some(Self {
            service: service.clone(),
            token_id: permit.token_id()?,
            left: permit.left(),
        })
    }
}

/// The state that all guards of a program share.
#[derive(Clone, Debug)]
pub struct Guards {
    /// The gate that decides about requests.
    pub gate: Arc<Gate>,
    /// The settings for trusted proxies and admitted clients. Guards do not use its routes.
    pub shop: Arc<Live<Shop>>,
    /// The offers of all guards.
    pub offers: Arc<Live<Vec<Offer>>>,
    /// Counts the requests in flight.
    pub in_flight: TaskTracker,
    /// Cancelled when no new requests may begin.
    pub stop: CancellationToken,
}

impl Guards {
    /// Creates a guard that sells this offer. All guards of a program are checked together, so that
    /// a token for a cheap request does not open a more expensive one.
    pub fn guard(&self, offer: Offer) -> Result<Guard, GuardError> {
        offers::add(&self.offers, &self.gate.quotes(), &offer)?;
        Ok(Guard(Arc::new(Guarding {
            name: offer.service.clone(),
            access: Access::Paid(Box::new(offer)),
            common: self.clone(),
        })))
    }
}

/// A [`tower::Layer`] that sells the answers of a service. Use only one for each handler, because
/// it removes the credential. With axum, add it by
/// [`Router::route_layer`](https://docs.rs/axum/0.8/axum/struct.Router.html#method.route_layer),
/// so that an unknown path gets 404 instead of an invoice.
///
/// - Serve with `into_make_service_with_connect_info::<SocketAddr>()`, which tells the guard the
///   client's address. Without an address, no client has a free quota, all clients share one limit,
///   and `allow` or `block` under `[http]` refuse every client.
/// - A use counts when the body has been sent or the client disconnects. The payer gets it back if
///   the handler panics or answers 5xx.
/// - A switch to another protocol, such as WebSocket, counts as one request. The bytes and the time
///   after it are not counted.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Guarding>);

/// The state of one guard.
#[derive(Debug)]
struct Guarding {
    /// The name in the ledger and the log: the guard's service.
    name: Arc<str>,
    /// The offer on sale.
    access: Access,
    /// The state that all guards share.
    common: Guards,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// A service behind a guard.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    /// Always ready, so that the wrapped service's readiness does not delay a challenge.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (inner, guard) = (self.inner.clone(), self.guard.clone());
        Box::pin(async move {
            let call = Call::of(request.headers());
            let response = guard.0.answer(request, inner).await?;
            Ok(match call {
                Some(call) => call.shape(response),
                None => response,
            })
        })
    }
}

impl Guarding {
    /// Answers one request.
    async fn answer<S, B, R>(
        &self,
        request: Request<B>,
        service: S,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: HttpBody<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        // The request is counted before the stop is checked, because a shutdown does both in the
        // opposite order.
        let in_flight = self.common.in_flight.token();
        let (mut head, body) = request.into_parts();
        let words = self.common.shop.get().clients.origins.words(&head.headers);
        let client = match self.looked_at(&head) {
            Ok(client) => client,
            Err(refusal) => return Ok(opened(&words, answer::refusal(&refusal))),
        };
        if is_preflight(&head.method, &head.headers) {
            return Ok(words.preflight(&[], &head.headers));
        }
        let path = match RequestPath::parse(path_asked_for(&head)) {
            Ok(path) => path,
            Err(error) => return Ok(opened(&words, answer::refusal(&Refusal::Path(error)))),
        };
        join_cookies(&mut head.headers);
        let response = match self.decide(&head, &path, client).await {
            Ok(permit) => {
                let asked = permit.is_shared().then(|| head.clone());
                let request = Request::from_parts(self.admitted(head, &permit), body);
                match handler::call(permit, request, service, in_flight).await? {
                    Ok(mut response) => {
                        if let Some(left) = response.extensions_mut().remove::<Left>() {
                            answer::tell_left(response.headers_mut(), &left);
                        }
                        response.map(Body::new)
                    }
                    Err(unserved) => self.unserved(unserved, asked, &path, client).await,
                }
            }
            Err(response) => *response,
        };
        Ok(opened(&words, response))
    }

    /// Returns the client's address, if known. Refuses requests while stopping, requests that our
    /// own hook sent, and clients that are not admitted.
    fn looked_at(&self, head: &Parts) -> Result<Option<IpAddr>, Refusal> {
        if self.common.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        // If the hook's own request to this program needed a price, the hook would be called for it
        // without end.
        if let Some(circle @ Circle::Seen) = Via::of_process().circle(&head.headers) {
            return Err(Refusal::Circle(circle));
        }
        self.client(head)
    }

    /// The answer to a permitted request that was not served. If other answers used up the grant,
    /// the client gets a new challenge.
    async fn unserved(
        &self,
        unserved: Unserved,
        asked: Option<Parts>,
        path: &RequestPath,
        client: Option<IpAddr>,
    ) -> Response<Body> {
        if let (Failure::UsedUp, Some(asked)) = (&unserved.why, &asked) {
            return match self.decide(asked, path, client).await {
                Ok(permit) => {
                    permit.give_back();
                    answer::refusal(&Refusal::Busy)
                }
                Err(response) => *response,
            };
        }
        let log = self.common.gate.log();
        let mut response = failure::answer(&unserved.why, &self.name, log);
        answer::tell_left(response.headers_mut(), &unserved.left);
        response
    }

    /// The client's address, if known. Refuses a client that is not admitted.
    fn client(&self, head: &Parts) -> Result<Option<IpAddr>, Refusal> {
        let shop = self.common.shop.get();
        let clients = &shop.clients;
        let Some(peer) = peer(head) else {
            let is_anybody_let_in = clients.allow.is_empty() && clients.block.is_empty();
            return if is_anybody_let_in {
                Ok(None)
            } else {
                Err(Refusal::Blocked)
            };
        };
        let peer = Downstream {
            client: peer,
            is_secure: false,
        };
        let client = clients.downstream(peer, &head.headers).client;
        if clients.admits(client) {
            Ok(Some(client))
        } else {
            Err(Refusal::Blocked)
        }
    }

    /// Returns a permit, or the answer without one.
    async fn decide(
        &self,
        head: &Parts,
        path: &RequestPath,
        client: Option<IpAddr>,
    ) -> Result<Permit, Box<Response<Body>>> {
        let asked = Asked {
            method: &head.method,
            path,
            query: head.uri.query(),
            headers: &head.headers,
            client,
        };
        let gate = &self.common.gate;
        let response = match gate.decide(&self.name, &self.access, &asked).await {
            Ok(Decision::Permit(permit)) => return Ok(permit),
            Ok(Decision::Unpaid(unpaid)) => match gate.challenge(&unpaid) {
                Ok(challenge) => answer::challenge(&challenge),
                Err(denial) => answer::denial(&denial),
            },
            Ok(Decision::Denied(denial)) => answer::denial(&denial),
            Err(fault) => answer::fault(&fault, &self.name, gate.log()),
        };
        Err(Box::new(response))
    }

    /// The request head for the handler: with the payment, and without the choice of a grant.
    fn admitted(&self, mut head: Parts, permit: &Permit) -> Parts {
        if let Access::Paid(offer) = &self.access
            && let Some(uri) = without_choice(offer, &head.uri)
        {
            head.uri = uri;
        }
        if let Some(paid) = Paid::of(permit, &self.name) {
            head.extensions.insert(paid);
        }
        head
    }
}

/// Adds the CORS headers to the answer.
fn opened(words: &Words, mut response: Response<Body>) -> Response<Body> {
    words.open(response.headers_mut());
    response
}
