//! Reads the data that axum attaches to a request, for requests that another program's router
//! passes on.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, OriginalUri};
use http::request::Parts;

/// The address of the client's connection. `None` unless the program serves with
/// `into_make_service_with_connect_info::<SocketAddr>()`.
pub(crate) fn peer(head: &Parts) -> Option<IpAddr> {
    let ConnectInfo(peer) = head.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(peer.ip())
}

/// The path that the client requested. A nested router sees only the end of it.
pub(crate) fn path_asked_for(head: &Parts) -> &str {
    match head.extensions.get::<OriginalUri>() {
        Some(OriginalUri(uri)) => uri.path(),
        None => head.uri.path(),
    }
}
