//! Routes as settings.

use std::net::SocketAddr;

/// A route to this server, with these keys.
pub(crate) fn route(path: &str, upstream: SocketAddr, keys: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nupstream = \"http://{upstream}\"\n{keys}\n")
}

/// A sold route.
pub(crate) fn sold(path: &str, upstream: SocketAddr, more: &str) -> String {
    let keys = format!("service = \"a\"\nprice = \"1 sat\"\n{more}");
    route(path, upstream, &keys)
}

pub(crate) const FREE: &str = "access = \"free\"";
