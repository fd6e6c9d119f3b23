//! Checks the health of the servers that have a health path in the settings, so that a failed
//! server is skipped before a request reaches it. For the other servers, checks now and then
//! whether they accept connections. So the seller sees a problem before a customer does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Request, StatusCode};
use hyper_util::client::legacy;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout_at};

use crate::base::error_chain::chain;
use crate::base::via::Via;
use crate::sell::route::Health;

use super::body::empty;
use super::client::{Way, is_unreadable};
use super::servers::{Server, Servers};

/// How often a connection to an idle server is tried. The first attempt comes after this time,
/// because a server that is started together with this program may need a moment.
const KNOCK_EVERY: Duration = Duration::from_secs(60);

/// The timeout for one health check.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a server is not healthy.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it does not answer")]
    Unreachable(#[source] legacy::Error),
    #[error("its response is invalid")]
    Unreadable(#[source] legacy::Error),
    #[error("it takes too long")]
    TooSlow,
    #[error("its health path makes no address")]
    NoAddress(#[source] http::Error),
}

/// Checks the servers of these upstreams until it is cancelled.
pub(super) async fn check_all(upstreams: &[Arc<Servers>]) {
    let checks = upstreams.iter().flat_map(|servers| {
        let list = servers.list.iter();
        list.map(move |server| look_after(servers, server))
    });
    join_all(checks).await;
}

async fn look_after(servers: &Servers, server: &Server) {
    match &servers.upstream.health {
        Some(health) => check(servers, server, health).await,
        None => knock(servers, server).await,
    }
}

/// Tries in a loop whether one server accepts a connection.
async fn knock(servers: &Servers, server: &Server) {
    let mut tick = interval_at(Instant::now() + KNOCK_EVERY, KNOCK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if server.was_heard() {
            continue;
        }
        let until = Instant::now() + servers.upstream.connect_timeout;
        let tried = timeout_at(until, TcpStream::connect(server.place())).await;
        let is_open = matches!(tried, Ok(Ok(_)));
        if !server.note_connection(is_open) {
            continue;
        }
        if is_open {
            tracing::info!("{} takes connections again", server.base);
        } else {
            tracing::warn!(
                "{} takes no connection: what is behind it is for sale and cannot be delivered",
                server.base
            );
        }
    }
}

/// Checks the health of one server in a loop.
async fn check(servers: &Servers, server: &Server, health: &Health) {
    let mut tick = interval(health.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked = ask(servers, server, health).await;
        if !server.note_health(asked.is_ok()) {
            continue;
        }
        match asked {
            Ok(()) => tracing::info!("{} is well again", server.base),
            Err(unwell) => {
                tracing::warn!(
                    "{} is not well, others are asked: {}",
                    server.base,
                    chain(&unwell)
                );
            }
        }
    }
}

async fn ask(servers: &Servers, server: &Server, health: &Health) -> Result<(), Unwell> {
    let uri = server.uri("", &health.path, None);
    let mut request = Request::new(empty());
    *request.uri_mut() = uri.map_err(Unwell::NoAddress)?;
    // Makes the check fail if the upstream is this program itself.
    Via::of_process().say(request.headers_mut());
    let until = Instant::now() + ANSWER_TIMEOUT.min(health.every);
    let answered = timeout_at(until, servers.client.request(request, Way::Fresh)).await;
    let answered = answered.map_err(|_| Unwell::TooSlow)?;
    let answered = answered.map_err(|error| {
        if is_unreadable(&error) {
            Unwell::Unreadable(error)
        } else {
            Unwell::Unreachable(error)
        }
    });
    let status = answered?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(Unwell::Status(status))
    }
}
