//! Checks that the upstream servers accept connections.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs as _};

use http::Uri;

use crate::sell::route::{Resource, RouteTable};

use super::findings::{CONNECT_TIMEOUT, Findings, Grade};

/// Tries to connect to each server once.
pub(super) fn look(routes: &RouteTable, findings: &mut Findings) {
    let mut tried = BTreeMap::new();
    for route in routes.iter() {
        let Resource::Upstream(forward) = &route.resource else {
            continue;
        };
        let servers = &forward.upstream.servers;
        for server in servers {
            let url = server.to_string();
            tried.entry(url).or_insert_with(|| answers(server));
        }
        let is_one_there = servers.iter().any(|it| tried[&it.to_string()]);
        for server in servers {
            note(
                &route.name,
                server,
                tried[&server.to_string()],
                is_one_there,
                findings,
            );
        }
    }
}

fn note(route: &str, server: &Uri, is_there: bool, is_one_there: bool, findings: &mut Findings) {
    let what = "upstream";
    if is_there {
        let found = format!("{server} takes connections, for {route}");
        findings.note(what, Grade::Good, found);
    } else if is_one_there {
        let found = format!("{server} takes no connection; {route} has others that do");
        findings.note(what, Grade::Look, found);
    } else {
        let found = format!(
            "{server} takes no connection: {route} is for sale and cannot be delivered. Start that server, or mend `upstream`"
        );
        findings.note(what, Grade::Bad, found);
    }
}

fn answers(server: &Uri) -> bool {
    let Some(host) = server.host() else {
        return false;
    };
    let usual = if server.scheme() == Some(&http::uri::Scheme::HTTPS) {
        443
    } else {
        80
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let place = (host, server.port_u16().unwrap_or(usual));
    let addresses = place.to_socket_addrs().into_iter().flatten();
    // A name may have several addresses, and one that accepts a connection is enough.
    addresses
        .take(ADDRESSES_MAX)
        .any(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok())
}

/// The maximum number of addresses of a name that are tried, two seconds each.
const ADDRESSES_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use crate::sell::route::{Access, Forward, Pattern, Route, Upstream};

    use super::*;

    fn route(path: &str, servers: &[&Uri]) -> Route {
        let servers: Vec<Uri> = servers.iter().map(|it| (*it).clone()).collect();
        Route {
            name: path.into(),
            pattern: Pattern::parse(path).unwrap(),
            methods: Vec::new(),
            access: Access::Free,
            resource: Resource::Upstream(Arc::new(Forward {
                upstream: Arc::new(Upstream::of(servers.clone())),
                ..Forward::to(servers[0].clone())
            })),
        }
    }

    #[test]
    fn who_takes_no_connection_is_named_with_what_is_behind() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = |it: &TcpListener| -> Uri {
            format!("http://{}", it.local_addr().unwrap())
                .parse()
                .unwrap()
        };
        let (up, down) = (uri(&there), uri(&gone));
        drop(gone);
        let routes = vec![
            route("/up/*", &[&up]),
            route("/both/*", &[&up, &down]),
            route("/down/*", &[&down]),
        ];
        let mut findings = Findings::default();
        look(&RouteTable::new(routes).unwrap(), &mut findings);
        let grade = |path: &str| {
            let of = findings.0.iter().filter(|it| it.found.contains(path));
            of.map(|it| it.grade).collect::<Vec<_>>()
        };
        assert_eq!(grade("/up/*"), [Grade::Good]);
        assert_eq!(grade("/both/*"), [Grade::Good, Grade::Look]);
        assert_eq!(grade("/down/*"), [Grade::Bad]);
    }
}
