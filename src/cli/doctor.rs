//! `tollhouse doctor`: reports what could go wrong, and what to do about it. Works whether the
//! program runs or not.

mod backups;
mod chain;
mod customers;
mod findings;
mod missing_files;
mod peers;
mod prices;
mod store;
mod upstreams;

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::base::disk_space;
use crate::config::{self, Config};

use super::exit_code::{BAD_SETTINGS, FAULT, UNREACHABLE, complain};
use super::operator::Operator;
use super::output::Effect;
use super::show::{number, text};
use super::units::{ago, grouped};
use findings::{CONNECT_TIMEOUT, Finding, Findings, Grade};

/// `tollhouse doctor`
#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    operator: Operator,
}

impl Doctor {
    /// Exits with 0 if nothing is bad, 1 if something is, and 2 if the settings are wrong.
    pub(super) fn run(&self) -> ExitCode {
        let config = match config::load(self.operator.settings_file()) {
            Ok(config) => config,
            Err(complaints) => {
                complain(&complaints);
                return ExitCode::from(BAD_SETTINGS);
            }
        };
        let mut findings = Findings::default();
        findings.note("version", Grade::Good, env!("CARGO_PKG_VERSION"));
        for warning in &config.warnings {
            findings.note("settings", Grade::Look, warning);
        }
        files(&config, &mut findings);
        missing_files::look(&config, &mut findings);
        disk(&config.data_dir, &mut findings);
        provider(&config, &mut findings);
        upstreams::look(&config.routes, &mut findings);
        customers::certificates(&config, &mut findings);
        match self.operator.ask(Method::GET, "/status", None) {
            Ok(status) => {
                customers::look(&config, &mut findings);
                chain::known(&status["node"]["chain"], &mut findings);
                peers::known(&status["node"], &mut findings);
                let program = store::Program::Runs(&status["node"]);
                store::look(&config, program, &mut findings);
                running(&status, &config, &mut findings);
                prices::known(&status, &config, &mut findings);
            }
            Err(no_answer) => {
                // Ask these sources only if the program is stopped: a running program has a budget
                // of requests and could not count these.
                let is_stopped = no_answer.code == UNREACHABLE;
                if is_stopped {
                    chain::asked(&config, &mut findings);
                    prices::asked(&config, &mut findings);
                }
                let program = if is_stopped {
                    store::Program::Stopped
                } else {
                    store::Program::Silent
                };
                store::look(&config, program, &mut findings);
                stopped(&config, &no_answer.why, &mut findings);
            }
        }
        let shown: Vec<Value> = findings.0.iter().map(Finding::json).collect();
        let answer = json!({ "findings": shown });
        let shown = self.operator.print(&answer, lines, Effect::None);
        match findings.worst() {
            Grade::Good | Grade::Look => shown,
            Grade::Bad => ExitCode::from(FAULT),
        }
    }
}

fn lines(answer: &Value) -> String {
    let line = |finding: &Value| {
        let mark = match finding["grade"].as_str() {
            Some("good") => "ok  ",
            Some("look") => "look",
            _ => "BAD ",
        };
        format!(
            "{mark}  {:14}  {}",
            text(&finding["what"]),
            text(&finding["found"])
        )
    };
    let lines: Vec<String> = super::show::list(answer, "findings")
        .iter()
        .map(line)
        .collect();
    lines.join("\n")
}

/// Checks that the secrets exist and that only their owner can read them.
fn files(config: &Config, findings: &mut Findings) {
    let folder = &config.data_dir;
    let Ok(metadata) = folder.metadata() else {
        let found = format!(
            "{} is not there yet: it is made at the first start",
            folder.display()
        );
        findings.note("data folder", Grade::Look, found);
        return;
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        findings.note("data folder", Grade::Good, format!("{}", folder.display()));
    } else {
        let found = format!(
            "{0} is open to others (mode {mode:03o}): chmod 700 {0}",
            folder.display()
        );
        findings.note("data folder", Grade::Bad, found);
    }
    // Each secret with the folder that was made with it. A new secret would not fit that folder.
    // The operator's token can be replaced without harm.
    let made = [
        ("seed.words", Some(&config.node.folder)),
        ("master.key", Some(&config.ledger.folder)),
        ("admin.token", None),
    ];
    for (name, made) in made {
        let path = folder.join(name);
        match path.metadata() {
            Err(_) if made.is_none_or(|made| !made.exists()) => {}
            Err(_) => {
                let found = format!(
                    "{} is missing: put it back from a backup before the next start",
                    path.display()
                );
                findings.note("secret", Grade::Bad, found);
            }
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                let found = format!("{0} can be read by others: chmod 600 {0}", path.display());
                findings.note("secret", Grade::Bad, found);
            }
            Ok(_) => {}
        }
    }
    let damaged = config.ledger.folder.join("store.damaged");
    if damaged.exists() {
        let found = "the books' store is damaged: the next start sets it aside and rebuilds it";
        findings.note("books", Grade::Look, found);
    }
}

/// Checks that the disk has enough free space.
fn disk(folder: &Path, findings: &mut Findings) {
    let there = folder.display();
    let Some(free) = disk_space::left(folder) else {
        let found = format!("the disk of {there} cannot be looked at");
        findings.note("disk", Grade::Look, found);
        return;
    };
    let found = format!("{} MB free for {there}", grouped(free / 1_000_000));
    if free < disk_space::CALM_BYTES {
        let sells = grouped(disk_space::SELL_BYTES / 1_000_000);
        let found = format!(
            "{found}: make room. With less than {sells} MB nothing is sold, rather than take money that cannot be entered"
        );
        findings.note("disk", Grade::Bad, found);
    } else {
        findings.note("disk", Grade::Good, found);
    }
    let left = disk_space::files_left(folder).filter(|left| *left < disk_space::CALM_FILES);
    if let Some(left) = left {
        let found = format!(
            "{} free inodes on the disk of {there}: delete unneeded files. With less than {}, Tollhouse sells nothing",
            grouped(left),
            disk_space::SELL_FILES
        );
        findings.note("disk", Grade::Bad, found);
    }
}

/// Reports the status of a running program.
fn running(status: &Value, config: &Config, findings: &mut Findings) {
    let node = &status["node"];
    if node["is_stuck"] == true {
        let found = "running, and waits for its store: its disk, or the server of node.vss. What follows is as it was before";
        findings.note("node", Grade::Bad, found);
    } else if node["running"] == true {
        findings.note(
            "node",
            Grade::Good,
            format!("running since {}", number(&node["since_secs"], ago)),
        );
    } else {
        findings.note(
            "node",
            Grade::Bad,
            format!(
                "{}: nothing can be sold until it runs",
                text(&node["phase"])
            ),
        );
    }
    chain::read(node, findings);
    if let Some(recovery) = node["recovery"].as_object() {
        let happening = text(&recovery["happening"]);
        let next = text(&recovery["next"]);
        findings.note("recovery", Grade::Look, format!("{happening} {next}"));
    }
    backups::known(status, config, findings);
    if let Some(lost) = status["sales"]["lost_msat"]
        .as_u64()
        .filter(|lost| *lost > 0)
    {
        let found = format!(
            "peers claimed {} sat of sales back on chain (see `tollhouse sales`): keep coins in the wallet, or name fewer \
             peers in node.peers.trusted",
            grouped(lost / 1_000)
        );
        findings.note("lost", Grade::Look, found);
    }
    if let Some(count) = status["log_lines_dropped"]
        .as_u64()
        .filter(|count| *count > 0)
    {
        let found = format!(
            "the log dropped {} lines since the start: free space on its disk, or check the program that reads it",
            grouped(count)
        );
        findings.note("log", Grade::Look, found);
    }
    let usable = super::show::list(node, "channels").iter();
    let usable = usable.filter(|channel| channel["usable"] == true).count();
    let inbound_msat = node["inbound_msat"].as_u64().unwrap_or(0);
    if usable == 0 && node["recovery"].is_object() {
        let found = "none until the recovery is over: nothing is sold, and none can be opened";
        findings.note("channels", Grade::Look, found);
    } else if usable == 0 {
        let found = "no usable channel: nothing can be sold. `tollhouse liquidity activate` makes an invoice that opens one";
        findings.note("channels", Grade::Bad, found);
    } else if inbound_msat == 0 {
        let found = "nothing can arrive: spend or withdraw some of what is in the channels, or have another channel opened";
        findings.note("channels", Grade::Bad, found);
    } else {
        let found = format!(
            "{usable} usable, {} sat can arrive",
            grouped(inbound_msat / 1_000)
        );
        findings.note("channels", Grade::Good, found);
        outlook(&status["outlook"], findings);
    }
}

/// Checks that the liquidity provider can be reached.
fn provider(config: &Config, findings: &mut Findings) {
    let what = "provider";
    let Some(provider) = &config.node.liquidity.provider else {
        let found = "none (node.liquidity.provider): channels have to come from elsewhere";
        findings.note(what, Grade::Good, found);
        return;
    };
    let address = provider.address.to_string();
    let connected = address
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .is_some_and(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok());
    if connected {
        findings.note(
            what,
            Grade::Good,
            format!("{} answers at {address}", provider.name),
        );
    } else {
        let found = format!(
            "{} takes no connection at {address}: nothing is lost, but no channel can be activated until it does",
            provider.name
        );
        findings.note(what, Grade::Look, found);
    }
}

/// Warns if the inbound liquidity suffices for few sales only.
fn outlook(outlook: &Value, findings: &mut Findings) {
    if outlook["is_low"] == true {
        let left = number(&outlook["sales_at_dearest"], grouped);
        let found = format!(
            "room for about {left} more sales at the dearest price: withdraw what is in the channels, or get another channel"
        );
        findings.note("room", Grade::Look, found);
    }
}

/// Checks what can be checked while the program is not running.
fn stopped(config: &Config, why: &str, findings: &mut Findings) {
    findings.note("program", Grade::Look, why);
    backups::at_rest(config, findings);
    for (what, address) in [
        ("http.listen", config.http.listen),
        ("admin.listen", config.admin_listen),
    ] {
        port(what, address, findings);
    }
    for address in &config.node.listen {
        port("node.listen", *address, findings);
    }
}

/// Checks that a port is free.
fn port(what: &'static str, address: SocketAddr, findings: &mut Findings) {
    match TcpListener::bind(address) {
        Ok(_) => findings.note(what, Grade::Good, format!("{address} is free")),
        Err(_) if TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok() => {
            let found = format!(
                "something else listens on {address}: stop it, or write another address into the settings"
            );
            findings.note(what, Grade::Bad, found);
        }
        Err(error) => {
            let found = format!(
                "{address} cannot be listened on: {error} (ports below 1024 take a privilege)"
            );
            findings.note(what, Grade::Bad, found);
        }
    }
}
