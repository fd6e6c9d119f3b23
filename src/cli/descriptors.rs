//! The limit of file descriptors. Each connection takes one, a forwarded connection takes two, and
//! the usual limit is 1,024.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The descriptors of the node, the ledger and the log: databases, the chain source, outgoing peer
/// connections, and a reserve.
const OTHERS: u64 = 256;

/// The descriptors of one inbound Lightning peer: its connection, and both ends of the connection
/// that relays it to ldk-node.
const OF_PEER: u64 = 3;

/// Raises the limit as far as the system allows, and warns if it is too low for this many
/// connections.
pub(super) fn raise(connections_max: usize, peers_max: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    // `None` means that the system sets no limit.
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = OTHERS + 2 * connections_max as u64 + OF_PEER * peers_max as u64;
    if let Err(error) = raised {
        tracing::warn!("Failed to raise the limit of file descriptors: {error}");
    }
    if allowed < wanted {
        tracing::warn!(
            "The system allows {allowed} file descriptors, and http.connections_max may need {wanted}: raise the limit \
             (systemd: LimitNOFILE={wanted}), or lower the setting"
        );
    }
}
