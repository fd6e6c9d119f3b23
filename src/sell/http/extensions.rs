//! What axum says of a request beside it, for whoever has one that another program's router has passed on.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, OriginalUri};
use http::request::Parts;

/// Who is at the other end of the connection, if the program has its server say so
/// (`into_make_service_with_connect_info::<SocketAddr>()`).
pub(crate) fn peer(head: &Parts) -> Option<IpAddr> {
    let ConnectInfo(peer) = head.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(peer.ip())
}

/// The path that the client asked for: a nested router sees only the end of it.
pub(crate) fn path_asked_for(head: &Parts) -> &str {
    match head.extensions.get::<OriginalUri>() {
        Some(OriginalUri(uri)) => uri.path(),
        None => head.uri.path(),
    }
}
