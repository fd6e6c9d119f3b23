//! `tollhouse peers`: the node's peers.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use super::ids;
use super::operator::Operator;
use super::show::{list, table, text};

/// `tollhouse peers`
#[derive(Debug, Args)]
pub(super) struct Peers {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the peers
    List {
        #[command(flatten)]
        operator: Operator,
    },
    /// Connect to a peer
    Connect {
        /// The peer: ID@HOST:PORT, or ID for a known peer
        peer: String,
        /// Reconnect to the peer after each start
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        operator: Operator,
    },
    /// Disconnect from a peer and forget its address
    Disconnect {
        /// The peer's node id
        #[arg(value_parser = ids::node)]
        node_id: String,
        #[command(flatten)]
        operator: Operator,
    },
}

impl Peers {
    pub(super) fn run(&self) -> ExitCode {
        match &self.what {
            What::List { operator } => operator.show(Method::GET, "/peers", None, |answer| {
                let rows: Vec<_> = list(answer, "peers")
                    .iter()
                    .map(|peer| {
                        vec![
                            text(&peer["node_id"]),
                            text(&peer["address"]),
                            text(&peer["is_connected"]),
                        ]
                    })
                    .collect();
                table(
                    &["peer", "address", "connected"],
                    &rows,
                    "There are no peers.",
                )
            }),
            What::Connect {
                peer,
                keep,
                operator,
            } => {
                let body = json!({ "peer": peer, "keep": keep });
                operator.show(Method::POST, "/peers", Some(body), |_| {
                    "Connected.".to_owned()
                })
            }
            What::Disconnect { node_id, operator } => {
                let path = format!("/peers/{node_id}");
                operator.show(Method::DELETE, &path, None, |_| "Disconnected.".to_owned())
            }
        }
    }
}
