//! `tollhouse status`, `reload` and `sync`: the state of the program, and requests to refresh it.

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::exit_code::{FAULT, REFUSED, complain};
use super::operator::{NoAnswer, Operator};
use super::show::{list, number, pairs, short, table, text};
use super::units::{ago, grouped, msat, span};

/// `tollhouse status`
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse reload`
#[derive(Debug, Args)]
pub(super) struct Reload {
    /// Reload without asking, even if that invalidates sold tokens
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse sync`
#[derive(Debug, Args)]
pub(super) struct Sync {
    #[command(flatten)]
    operator: Operator,
}

impl Status {
    pub(super) fn run(&self) -> ExitCode {
        self.operator.show(Method::GET, "/status", None, status)
    }
}

impl Reload {
    pub(super) fn run(&self) -> ExitCode {
        if !self.yes
            && let Err(ended) = self.is_meant()
        {
            return ended;
        }
        self.operator.show(Method::POST, "/reload", None, |answer| {
            let left = list(answer, "restart_needed_for");
            if left.is_empty() {
                return "The settings are in force.".to_owned();
            }
            let left: Vec<String> = left.iter().map(text).collect();
            format!(
                "The settings are in force, but for these, which want a restart: {}",
                left.join(", ")
            )
        })
    }
}

impl Reload {
    /// Shows the tokens that a reload would end, and asks for confirmation.
    fn is_meant(&self) -> Result<(), ExitCode> {
        let ahead = self.operator.ask(Method::GET, "/reload", None);
        let ahead = ahead.map_err(|no_answer| no_answer.tell())?;
        let broken = list(&ahead, "broken").iter();
        let lines: Vec<_> = broken
            .filter(|broken| broken["tokens"].as_u64() > Some(0))
            .map(lost)
            .collect();
        if lines.is_empty() {
            return Ok(());
        }
        complain(&lines.join("\n"));
        if !std::io::stdin().is_terminal() {
            let why = "reload cancelled: pass --yes to reload anyway".to_owned();
            return Err(NoAnswer { code: REFUSED, why }.tell());
        }
        complain(&"Type `reload` to continue:");
        let mut said = String::new();
        let heard = std::io::stdin().lock().read_line(&mut said);
        if heard.is_err() || said.trim() != "reload" {
            complain(&"Nothing was done.");
            return Err(ExitCode::from(FAULT));
        }
        Ok(())
    }
}

/// Describes one group of tokens that a reload ends.
fn lost(broken: &Value) -> String {
    let at_least = if broken["are_all_counted"] == false {
        "at least "
    } else {
        ""
    };
    let count = number(&broken["tokens"], grouped);
    format!(
        "This reload invalidates {at_least}{count} valid tokens: {}",
        text(&broken["what"])
    )
}

impl Sync {
    pub(super) fn run(&self) -> ExitCode {
        self.operator.show(Method::POST, "/sync", None, |_| {
            "The chain was read.".to_owned()
        })
    }
}

fn status(answer: &Value) -> String {
    let node = &answer["node"];
    let balances = &node["balances"];
    let sat = |value: &Value| number(value, |sat| format!("{} sat", grouped(sat)));
    let head = pairs(&[
        (
            "node",
            format!(
                "{}, since {}",
                text(&node["phase"]),
                number(&node["since_secs"], ago)
            ),
        ),
        ("network", text(&node["network"])),
        ("node id", text(&node["node_id"])),
        (
            "block",
            format!(
                "{}, looked at {}",
                text(&node["block_height"]),
                number(&node["lightning_synced_secs"], ago)
            ),
        ),
        (
            "can arrive now",
            match node["unready"].as_str() {
                Some(why) => format!("nothing: {why}"),
                None => number(&node["inbound_msat"], msat),
            },
        ),
        ("in channels", sat(&balances["lightning_sat"])),
        (
            "on chain",
            format!(
                "{}, of which {} can be spent; looked at {}",
                sat(&balances["onchain_total_sat"]),
                sat(&balances["onchain_spendable_sat"]),
                number(&node["onchain_synced_secs"], ago)
            ),
        ),
        ("deposit address", text(&node["deposit_address"])),
        ("sales", super::books::sums(&answer["sales"])),
        ("strangers", strangers(&node["strangers"])),
        ("upstreams", upstreams(list(answer, "upstreams"))),
        ("certificates", certificates(list(answer, "certificates"))),
        ("backup", backup(&answer["backup"])),
        ("log", log(answer["log_lines_dropped"].as_u64())),
        ("data folder", text(&answer["data_dir"])),
    ]);
    let channels = channels(list(node, "channels"));
    let closed = list(node, "channels_closed").iter();
    let closed: Vec<String> = closed
        .map(|channel| {
            format!(
                "closed: {} ({})",
                short(&channel["channel_id"]),
                text(&channel["reason"])
            )
        })
        .collect();
    format!("{head}\n\n{channels}\n{}", closed.join("\n"))
}

/// Describes the peers and channels that the operator did not choose.
fn strangers(strangers: &Value) -> String {
    let who = if strangers["anyone_opens"] == true {
        "anyone may open channels"
    } else {
        "only peers that you chose may open channels"
    };
    let fault = match strangers["listener_fault"].as_str() {
        Some(fault) => format!("; PEERS CANNOT CONNECT: {fault}"),
        None => String::new(),
    };
    let shut = if strangers["shut_out"] == true {
        "; strangers without a confirmed channel are blocked for up to a day, because strangers exceeded the channel limits too often"
    } else {
        ""
    };
    format!(
        "{who}; they have {} channels, {} of them waiting{shut}{fault}",
        number(&strangers["channels"], grouped),
        number(&strangers["pending"], grouped),
    )
}

/// Describes whether log lines were lost.
fn log(dropped: Option<u64>) -> String {
    match dropped {
        None | Some(0) => "complete".to_owned(),
        Some(count) => format!(
            "{} lines LOST: the disk is full, or its reader hangs or is gone",
            grouped(count)
        ),
    }
}

/// Describes the upstream servers that cannot be reached.
fn upstreams(servers: &[Value]) -> String {
    let away = servers.iter().filter(|server| server["is_away"] == true);
    let away: Vec<String> = away.map(|server| text(&server["url"])).collect();
    match (servers.len(), away.is_empty()) {
        (0, _) => "none".to_owned(),
        (count, true) => format!("{count}, none known to be away"),
        (count, false) => format!(
            "{} of {count} AWAY, and what is behind cannot be delivered: {}",
            away.len(),
            away.join(", ")
        ),
    }
}

/// Describes when the listeners' certificates expire.
fn certificates(certificates: &[Value]) -> String {
    let one = |certificate: &Value| {
        let key = text(&certificate["key"]);
        match (
            certificate["complaint"].as_str(),
            certificate["until_secs"].as_u64(),
        ) {
            (Some(complaint), _) => format!("{key}: {complaint}"),
            (None, Some(until_secs)) => format!("{key}: ends {}", ago(until_secs)),
            (None, None) => format!("{key}: none yet"),
        }
    };
    match certificates {
        [] => "none: the listeners do not speak TLS".to_owned(),
        some => some.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

/// Describes the newest verified backup.
fn backup(backup: &Value) -> String {
    let is_told = |there: &Value| there["newest_other"].is_string();
    let others = if is_told(backup) || is_told(&backup["s3"]) {
        "; there are others of this node: see `tollhouse doctor`"
    } else {
        ""
    };
    format!("{}{others}", own_backup(backup))
}

fn own_backup(backup: &Value) -> String {
    let Some(age_secs) = backup["verified_age_secs"].as_u64() else {
        return "none that was verified: see `tollhouse doctor`".to_owned();
    };
    let age = format!("{} old, verified", span(age_secs));
    match (&backup["is_verified_behind_channels"], &backup["damage"]) {
        (Value::Bool(true), _) => {
            format!("{age}, and OLDER than the last change of a channel: `tollhouse backup create`")
        }
        (_, Value::String(_)) => format!("{age}; another one is BAD: see `tollhouse doctor`"),
        _ => age,
    }
}

/// A table of channels.
pub(super) fn channels(channels: &[Value]) -> String {
    let rows: Vec<_> = channels
        .iter()
        .map(|channel| {
            let state = match (&channel["usable"], &channel["ready"]) {
                _ if channel["withheld"] == true => "withheld",
                (Value::Bool(true), _) => "usable",
                (_, Value::Bool(true)) => "peer away",
                _ => "pending",
            };
            vec![
                text(&channel["channel_id"]),
                short(&channel["counterparty"]),
                text(&channel["standing"]),
                state.to_owned(),
                number(&channel["capacity_sat"], grouped),
                number(&channel["inbound_msat"], |msat| grouped(msat / 1_000)),
                number(&channel["outbound_msat"], |msat| grouped(msat / 1_000)),
            ]
        })
        .collect();
    let titles = [
        "channel",
        "peer",
        "who",
        "state",
        "size (sat)",
        "can receive (sat)",
        "can send (sat)",
    ];
    table(
        &titles,
        &rows,
        "There is no channel: nothing can be received.",
    )
}
