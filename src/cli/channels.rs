//! `tollhouse channels`: listing, opening, closing and splicing channels.

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::base::amount::Msat;

use super::exit_code::{BAD_SETTINGS, FAULT, complain};
use super::operator::{NoAnswer, Operator};
use super::show::{list, number, text};
use super::units::{amount, grouped, whole_sat};
use super::{ids, state};

/// `tollhouse channels`
#[derive(Debug, Args)]
pub(super) struct Channels {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the channels
    List {
        #[command(flatten)]
        operator: Operator,
    },
    /// Open a channel with money of the on-chain wallet
    Open {
        /// The peer: ID@HOST:PORT, or ID for a known peer
        peer: String,
        /// The size of the channel, as in `500000 sat`
        #[arg(value_parser = whole_sat)]
        amount: u64,
        /// The part to give to the peer, which this node can then receive
        #[arg(long, value_parser = amount)]
        push: Option<Msat>,
        /// Announce the channel to the network
        #[arg(long)]
        announced: bool,
        #[command(flatten)]
        operator: Operator,
    },
    /// Close a channel in agreement with its peer
    Close {
        /// The channel's id
        #[arg(value_parser = ids::channel)]
        channel_id: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// Close a channel without its peer, which costs more and takes longer
    ForceClose {
        /// The channel's id
        #[arg(value_parser = ids::channel)]
        channel_id: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        operator: Operator,
    },
    /// Add on-chain money to a channel
    SpliceIn {
        /// The channel's id
        #[arg(value_parser = ids::channel)]
        channel_id: String,
        /// The amount, as in `50000 sat`
        #[arg(value_parser = whole_sat)]
        amount: u64,
        #[command(flatten)]
        operator: Operator,
    },
    /// Send money of a channel to an on-chain address
    SpliceOut {
        /// The channel's id
        #[arg(value_parser = ids::channel)]
        channel_id: String,
        /// The on-chain address to send to
        address: String,
        /// The amount, as in `50000 sat`
        #[arg(value_parser = whole_sat)]
        amount: u64,
        #[command(flatten)]
        operator: Operator,
    },
}

impl Channels {
    pub(super) fn run(&self) -> ExitCode {
        match &self.what {
            What::List { operator } => operator.show(Method::GET, "/channels", None, |answer| {
                state::channels(list(answer, "channels"))
            }),
            What::Open {
                peer,
                amount,
                push,
                announced,
                operator,
            } => {
                let push_msat = push.unwrap_or(Msat::ZERO).msat();
                let body = json!({
                    "peer": peer, "amount_sat": amount, "push_msat": push_msat, "announced": announced,
                });
                operator.show(Method::POST, "/channels", Some(body), asked)
            }
            What::Close {
                channel_id,
                operator,
            } => operator.show(Method::POST, &path(channel_id, "close"), None, asked),
            What::ForceClose {
                channel_id,
                yes,
                operator,
            } => force_close(operator, channel_id, *yes),
            What::SpliceIn {
                channel_id,
                amount,
                operator,
            } => {
                let body = json!({ "amount_sat": amount });
                operator.show(
                    Method::POST,
                    &path(channel_id, "splice-in"),
                    Some(body),
                    asked,
                )
            }
            What::SpliceOut {
                channel_id,
                address,
                amount,
                operator,
            } => {
                let body = json!({ "address": address, "amount_sat": amount });
                operator.show(
                    Method::POST,
                    &path(channel_id, "splice-out"),
                    Some(body),
                    asked,
                )
            }
        }
    }
}

fn path(channel_id: &str, what: &str) -> String {
    format!("/channels/{channel_id}/{what}")
}

fn asked(_: &Value) -> String {
    "The peer was asked; `tollhouse channels list` shows how far it is.".to_owned()
}

/// Shows the cost, asks for confirmation and closes the channel.
fn force_close(operator: &Operator, channel_id: &str, is_agreed: bool) -> ExitCode {
    let path = path(channel_id, "force-close");
    if !is_agreed {
        let cost = match operator.ask(Method::GET, &path, None) {
            Ok(cost) => cost,
            Err(no_answer) => return no_answer.tell(),
        };
        complain(&costs(&cost));
        if !std::io::stdin().is_terminal() {
            let why = "not confirmed: nobody is there to be asked. Say --yes".to_owned();
            return NoAnswer {
                code: BAD_SETTINGS,
                why,
            }
            .tell();
        }
        complain(&"Type `close` to do it:");
        let mut said = String::new();
        let heard = std::io::stdin().lock().read_line(&mut said);
        if heard.is_err() || said.trim() != "close" {
            complain(&"Nothing was done.");
            return ExitCode::from(FAULT);
        }
    }
    let body = json!({ "confirm": channel_id });
    operator.show(Method::POST, &path, Some(body), |_| {
        "It is being closed; the money is back when the wait is over.".to_owned()
    })
}

fn costs(cost: &Value) -> String {
    let blocks = cost["wait_blocks"].as_u64().unwrap_or(0);
    let better = if cost["is_peer_connected"] == true {
        "\nThe peer is connected: `tollhouse channels close` does it at once, and cheaper."
    } else {
        ""
    };
    format!(
        "Closing channel {} by force brings back {} sat, less about {} sat of fees, after {blocks} blocks (about {} h).{better}",
        text(&cost["channel_id"]),
        number(&cost["amount_sat"], grouped),
        number(&cost["fee_sat_about"], grouped),
        blocks / 6,
    )
}
