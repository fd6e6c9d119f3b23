//! The public listener. It receives requests, asks the gate for a decision, and sends the answers.

mod acme;
pub(crate) mod answer;
pub(crate) mod browsers;
mod caught;
mod certificate;
mod check;
mod clients;
mod connection;
mod date;
mod detect;
mod entry;
mod extensions;
pub(crate) mod failure;
mod grpc;
mod handover;
mod head_limits;
mod moved;
mod networks;
mod proxied;
mod seats;
mod server;
mod shop;
mod slots;
mod streams;
mod tls;
mod tls_error;
mod wire;
mod write_timeout;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use http::Method;
use http_body_util::BodyExt as _;

use crate::account::ledger::{LedgerError, Left};
use crate::base::live::Live;
use crate::base::via::Circle;

use super::gate::{self, Asked, Decision, Gate};
use super::http::slots::Places;
use super::resource::{Downstream, Failure};
use super::route::{Access, Found, RequestPath, Resource, Route};
use caught::{Panicked, caught};
use check::check;
use connection::Secured;

pub use acme::AcmeSettings;
pub use axum::body::Body;
pub use browsers::{NotAnOrigin, Origins};
pub use certificate::{Certificate, Term};
pub use clients::{Clients, ForwardedHeader};
pub use entry::{Entry, Limits, Stop};
pub use networks::{NetworkError, Networks};
pub use server::Server;
pub use shop::Shop;
pub use tls::{Tls, TlsFiles, TlsSource};
pub use tls_error::TlsError;

pub(crate) use browsers::Words;
pub(crate) use check::{Refusal, is_preflight};
pub(crate) use extensions::{path_asked_for, peer};
pub(crate) use grpc::Call;
pub(crate) use seats::Guest;

/// The settings of the public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The maximum number of open connections.
    pub connections_max: usize,
    /// The most connections that one network may hold.
    pub connections_of_network: usize,
    /// How long a client may take to send its headers, also on a connection that it keeps open.
    pub header_timeout: Duration,
    /// How long a write to a client may stall.
    pub write_timeout: Duration,
    /// How long requests in flight may take to finish after the program was told to stop.
    pub grace: Duration,
    /// Whether connections begin with the PROXY protocol.
    pub proxy_protocol: bool,
    /// The source of the certificate; `None` for a listener without TLS.
    pub tls: Option<TlsSource>,
}

impl Config {
    /// The limits of the listener.
    pub fn limits(&self) -> Limits {
        Limits {
            connections_max: self.connections_max,
            connections_of_network: self.connections_of_network,
            header_timeout: self.header_timeout,
            write_timeout: self.write_timeout,
            grace: self.grace,
        }
    }

    /// The URL of the listener.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.listen)
    }

    /// Opens the layers below HTTP: the PROXY protocol and TLS.
    pub fn entry(&self, shop: &Arc<Live<Shop>>) -> Result<Entry, TlsError> {
        Ok(Entry {
            shop: Some(Arc::clone(shop)),
            proxy_protocol: self.proxy_protocol,
            tls: self.tls.clone().map(Tls::open).transpose()?,
        })
    }
}

/// The parts that answer public requests.
#[derive(Debug)]
pub struct Public {
    /// The routes and resources. Each request uses one snapshot until it ends.
    pub shop: Arc<Live<Shop>>,
    /// The gate that decides about requests.
    pub gate: Arc<Gate>,
}

/// Builds the public router.
pub fn router(public: Public) -> Router {
    let answering = Answering {
        public,
        is_circle_told: AtomicBool::new(false),
    };
    Router::new()
        .fallback(serve)
        .with_state(Arc::new(answering))
}

/// The state of the request handler.
#[derive(Debug)]
struct Answering {
    public: Public,
    /// Whether the first looping request was already logged.
    is_circle_told: AtomicBool,
}

impl std::ops::Deref for Answering {
    type Target = Public;

    fn deref(&self) -> &Public {
        &self.public
    }
}

/// Answers one request, for a gRPC client in the form that gRPC expects.
async fn serve(
    State(public): State<Arc<Answering>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let call = Call::of(request.headers());
    let peer = Downstream {
        client: peer.ip(),
        is_secure: request.extensions().get::<Secured>().is_some(),
    };
    let response = caught(public.answer(peer, request)).await;
    let response = response.unwrap_or_else(|Panicked| {
        tracing::error!("Returned 500: the task of a request panicked");
        answer::internal_error()
    });
    match call {
        Some(call) => call.shape(response),
        None => response,
    }
}

impl Answering {
    async fn answer(&self, peer: Downstream, mut request: Request) -> Response {
        let shop = self.shop.get();
        let words = shop.clients.origins.words(request.headers());
        let downstream = shop.clients.downstream(peer, request.headers());
        let mut response = match self.find(&shop, downstream.client, &mut request) {
            Ok((route, path)) => {
                let is_paid = matches!(route.access, Access::Paid(_));
                if is_paid && is_preflight(request.method(), request.headers()) {
                    return words.preflight(&route.methods_taken(), request.headers());
                }
                let response = self.pass(&shop, &route, &path, downstream, request).await;
                // On a free route, the upstream or handler sets its own CORS headers.
                if !is_paid && !answer::is_ours(&response) {
                    return response;
                }
                response
            }
            Err(refusal) => {
                if refusal.answers_preflight() && is_preflight(request.method(), request.headers())
                {
                    return words.preflight(refusal.methods(), request.headers());
                }
                answer::refusal(&refusal)
            }
        };
        words.open(response.headers_mut());
        response
    }

    /// Finds the route of a request, and the normalised path that matched. Refuses paths that
    /// servers interpret in different ways.
    fn find(
        &self,
        shop: &Shop,
        client: IpAddr,
        request: &mut Request,
    ) -> Result<(Arc<Route>, RequestPath), Refusal> {
        if !shop.clients.admits(client) {
            return Err(Refusal::Blocked);
        }
        if let Some(circle) = shop.resources.circle(request.headers()) {
            self.tell_of_circle(circle, request);
            return Err(Refusal::Circle(circle));
        }
        check(request, shop.resources.body_bytes_max())?;
        let path = RequestPath::read(request.uri().path()).map_err(Refusal::Path)?;
        match shop.routes.find(request.method(), &path) {
            Found::Route(route) => Ok((Arc::clone(route), path)),
            Found::MethodNotTaken { methods, is_paid } => Err(Refusal::Method { methods, is_paid }),
            Found::Nothing => Err(Refusal::NoRoute),
            Found::Ambiguous(error) => Err(Refusal::Path(error)),
        }
    }

    /// Logs the first looping request only, because any client that knows our `Via` name can fake
    /// one.
    fn tell_of_circle(&self, circle: Circle, request: &Request) {
        if circle == Circle::Seen && !self.is_circle_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "A request has come back to us: an upstream or a hook leads to this listener again ({}). More of the kind are \
                 not logged",
                request.uri().path()
            );
        }
    }

    /// Passes a request through the gate, and serves it if the gate permits it.
    async fn pass(
        &self,
        shop: &Shop,
        route: &Route,
        path: &RequestPath,
        downstream: Downstream,
        request: Request,
    ) -> Response {
        let client = downstream.client;
        let asked = asked_of(&request, path, client);
        let decided = self.gate.decide(&route.name, &route.access, &asked).await;
        let permit = match decided {
            Ok(Decision::Permit(permit)) => permit,
            other => return self.refuse(shop, route, &asked, other).await,
        };
        let query = asked.query.map(str::to_owned);
        let is_paid = permit.reason() == gate::Reason::Paid;
        let guest = request.extensions().get::<Guest>().filter(|_| is_paid);
        let paying = guest.map(|guest| Arc::new(guest.pay()));
        // Only HTTP/2 requests take a place here. An HTTP/1.1 connection has a place of its own.
        let places = request.extensions().get::<Places>();
        let place = match places.map(|places| places.take(client, is_paid)) {
            Some(None) => {
                permit.give_back();
                return answer::refusal(&Refusal::Busy);
            }
            Some(Some(place)) => Some(Arc::new(place)),
            None => None,
        };
        let head = permit.is_shared().then(|| head_of(&request));
        let request = without_choice(route, request);
        let request =
            request.map(|body| crate::sell::resource::Body::new(body.map_err(Into::into)));
        let served = shop
            .resources
            .serve(permit, route, path, downstream, request)
            .await;
        match (served, head) {
            (Ok(mut response), _) => {
                if let Some(left) = response.extensions_mut().remove::<Left>() {
                    answer::tell_left(response.headers_mut(), &left);
                }
                if let Some(place) = place {
                    response.extensions_mut().insert(place);
                }
                if let Some(paying) = paying {
                    response.extensions_mut().insert(paying);
                }
                response.map(axum::body::Body::new)
            }
            // Other answers used up the grant before this one could begin, so the client gets a new
            // challenge.
            (Err(unserved), Some(head)) if matches!(unserved.why, Failure::UsedUp) => {
                let asked = asked_of(&head, path, client);
                let decided = self.gate.decide(&route.name, &route.access, &asked).await;
                self.refuse(shop, route, &asked, decided).await
            }
            (Err(unserved), _) => {
                let mut response = self.failed(&unserved.why, route, path, query.as_deref());
                answer::tell_left(response.headers_mut(), &unserved.left);
                response
            }
        }
    }

    /// Answers a request that the gate did not permit.
    async fn refuse(
        &self,
        shop: &Shop,
        route: &Route,
        asked: &Asked<'_>,
        decided: Result<Decision<'_>, LedgerError>,
    ) -> Response {
        let unpaid = match decided {
            Ok(Decision::Unpaid(unpaid)) => unpaid,
            Ok(Decision::Denied(denial)) => return answer::denial(&denial),
            // The grant has room again, but the request was already consumed. The client must
            // retry.
            Ok(Decision::Permit(permit)) => {
                permit.give_back();
                return answer::refusal(&Refusal::Busy);
            }
            Err(fault) => return answer::fault(&fault, &route.name, self.gate.log()),
        };
        // A challenge is sent only for a request that can be served after the payment.
        if !takes_method(route, asked.method) {
            return failure::answer(&Failure::MethodNotAllowed, &route.name, self.gate.log());
        }
        if let Err(failure) = shop.resources.look(route, asked.path).await {
            return self.failed(&failure, route, asked.path, asked.query);
        }
        match self.gate.challenge(&unpaid) {
            Ok(challenge) => answer::challenge(&challenge),
            Err(denial) => answer::denial(&denial),
        }
    }

    /// Answers a permitted request that could not be served.
    fn failed(
        &self,
        failure: &Failure,
        route: &Route,
        path: &RequestPath,
        query: Option<&str>,
    ) -> Response {
        if matches!(failure, Failure::IsFolder) {
            return moved::to_folder(path, query);
        }
        failure::answer(failure, &route.name, self.gate.log())
    }
}

/// The parts of a request that the gate looks at.
fn asked_of<'a, B>(
    request: &'a http::Request<B>,
    path: &'a RequestPath,
    client: IpAddr,
) -> Asked<'a> {
    Asked {
        method: request.method(),
        path,
        query: request.uri().query(),
        headers: request.headers(),
        client: Some(client),
    }
}

/// Copies the request without its body.
fn head_of(request: &Request) -> http::Request<()> {
    let mut head = http::Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.headers_mut() = request.headers().clone();
    head
}

/// Removes the client's choice of a grant from the request's query.
fn without_choice(route: &Route, mut request: Request) -> Request {
    if let Access::Paid(offer) = &route.access
        && let Some(uri) = gate::without_choice(offer, request.uri())
    {
        *request.uri_mut() = uri;
    }
    request
}

/// Whether the resource can serve this method. Files support GET and HEAD. An upstream decides for
/// itself.
fn takes_method(route: &Route, method: &Method) -> bool {
    match route.resource {
        Resource::Files { .. } => matches!(*method, Method::GET | Method::HEAD),
        Resource::Upstream(_) => true,
    }
}
