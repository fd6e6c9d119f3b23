//! File descriptors: every connection takes one, one that is forwarded takes two, and the usual limit is 1,024.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors of the node, the ledger and the log: databases, the chain source, dialled peers, and a reserve.
const OTHERS: u64 = 256;

/// Descriptors of one inbound Lightning peer: its connection, and both ends of the one that relays it to ldk-node.
const OF_PEER: u64 = 3;

/// Raises the limit as far as the system lets us, and says if that is too little for so many connections.
pub(super) fn raise(connections_max: usize, peers_max: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    // `None` is no limit at all.
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
