//! The gate in somebody else's program: a [`tower::Layer`] that has a service's answers paid for. It decides, asks and counts
//! as the public listener does, with the same answers; what it lets through, the program itself serves.
//!
//! Plain `tower` and `http`: of axum it only knows, by way of [`crate::sell::http`], what a request's extensions say.

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

/// Who has paid for a request: a handler finds it in the request's extensions.
///
/// It is there behind every guard, but where a request is let through without a token: within a free quota, or on a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paid {
    /// The guard's service.
    pub service: Arc<str>,
    /// The token, which tells one buyer from another. It is no secret.
    pub token_id: TokenId,
    /// What is left of what was bought, behind this request.
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

/// What every guard of a program has in common.
#[derive(Clone, Debug)]
pub struct Guards {
    /// The decision.
    pub gate: Arc<Gate>,
    /// Who is believed and who is let in; of its routes nothing is served here.
    pub shop: Arc<Live<Shop>>,
    /// What is sold behind guards.
    pub offers: Arc<Live<Vec<Offer>>>,
    /// Counts the requests in flight.
    pub in_flight: TaskTracker,
    /// From then on nothing new is begun.
    pub stop: CancellationToken,
}

impl Guards {
    /// A guard that sells by this offer. All guards of a program are looked at together: a token for a cheap request must
    /// not open a dear one.
    pub fn guard(&self, offer: Offer) -> Result<Guard, GuardError> {
        offers::add(&self.offers, &self.gate.quotes(), &offer)?;
        Ok(Guard(Arc::new(Guarding {
            name: offer.service.clone(),
            access: Access::Paid(Box::new(offer)),
            common: self.clone(),
        })))
    }
}

/// A [`tower::Layer`]: whoever asks what is behind it pays first.
///
/// With axum give it to [`Router::route_layer`](https://docs.rs/axum/0.8/axum/struct.Router.html#method.route_layer), so that
/// a path that is not there is 404 and not for sale. One guard a handler: it keeps the credential to itself, so that a second
/// one behind it would see none.
///
/// - The client's address, which a free quota, a limit by address and an `ip` caveat go by, is that of axum's
///   `ConnectInfo<SocketAddr>`: serve by `into_make_service_with_connect_info::<SocketAddr>()`. Trusted proxies, and who is let
///   in, are in the settings under `[http]`. Without an address nobody has a free quota, all share one limit, and lists of who
///   is let in let nobody in.
/// - What was paid for is delivered with the last byte of the response's body, or when the client hangs up. It goes back to
///   the payer if the handler panics, or answers with 5xx.
/// - A connection that a handler switches to another protocol, as for a WebSocket, is one request, delivered when it has been
///   switched: the bytes and the time after that are not counted.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Guarding>);

/// One guard.
#[derive(Debug)]
struct Guarding {
    /// What it is called in the books: by its service.
    name: Arc<str>,
    /// What is sold.
    access: Access,
    /// What all guards have.
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

    /// Always: whoever has to pay first is not kept waiting by those who have.
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
        // Counted before looking: whoever stops looks the other way round.
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

    /// The client's address, if it is known. Refuses requests while stopping, and requests that our own hook sent.
    fn looked_at(&self, head: &Parts) -> Result<Option<IpAddr>, Refusal> {
        if self.common.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        // A hook that asks for the price of our own question would loop without end.
        if let Some(circle @ Circle::Seen) = Via::of_process().circle(&head.headers) {
            return Err(Refusal::Circle(circle));
        }
        self.client(head)
    }

    /// The answer to a permitted request that was not served. Like everybody who comes when nothing is left, its client is told what
    /// it costs.
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

    /// Where a request comes from, if that is known.
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

    /// A permit, or the answer without one.
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

    /// The head as the handler sees it: with who has paid, and without what was said to the gate.
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
