//! Asking servers whether they are well, where the settings say so: one that is not is passed over before a request finds out.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Request, StatusCode};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::causes::chain;
use crate::route::Health;

use super::body::empty;
use super::servers::{Server, Servers};

/// How long a server may take to say that it is well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a server is not well.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it does not answer")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("it takes too long")]
    TooSlow,
    #[error("its health path makes no address")]
    NoAddress(#[source] http::Error),
}

/// Asks the servers of these upstreams for as long as it is let.
pub(super) async fn check_all(upstreams: &[Arc<Servers>]) {
    let checks = upstreams.iter().flat_map(|servers| {
        let health = servers.upstream.health.iter();
        health.flat_map(|health| {
            let list = servers.list.iter();
            list.map(|server| check(servers, server, health))
        })
    });
    join_all(checks).await;
}

/// Asks one server, again and again.
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
    let until = Instant::now() + ANSWER_TIMEOUT.min(health.every);
    let answered = timeout_at(until, servers.client.request(request)).await;
    let answered = answered.map_err(|_| Unwell::TooSlow)?;
    let status = answered.map_err(Unwell::Unreachable)?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(Unwell::Status(status))
    }
}
