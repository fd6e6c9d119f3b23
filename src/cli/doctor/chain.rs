//! The chain source, and the clock that is held against it.

use serde_json::Value;

use crate::clock::Clock;
use crate::config::Config;
use crate::node;

use super::super::show::{list, number, text};
use super::super::units::{ago, grouped};
use super::{Findings, Grade};

/// Chain and clock differ by this much at most: a block's time may be two hours off (consensus), and one may be hours late.
const CLOCK_OFF_MAX_SECS: u64 = 4 * 3_600;

/// What the running program knows of its chain source, without a request of our own.
pub(super) fn known(chain: &Value, findings: &mut Findings) {
    let what = "chain source";
    let is_degraded = chain["degraded_since_secs"].is_u64();
    for endpoint in list(chain, "endpoints") {
        let url = text(&endpoint["url"]);
        let answered = endpoint["last_success_secs"].as_u64();
        let budget = format!(
            "{} requests in the last hour, {} left",
            number(&endpoint["requests_last_hour"], grouped),
            number(&endpoint["budget_left"], grouped)
        );
        match (&endpoint["last_complaint"], answered) {
            (Value::String(why), _) if endpoint["last_complaint_secs"].as_u64() > answered => {
                let grade = if is_degraded { Grade::Bad } else { Grade::Look };
                let found = format!(
                    "{url} gave no good answer ({why}): is it the right one, and are we rate-limited? {budget}"
                );
                findings.note(what, grade, found);
            }
            (_, Some(answered)) => {
                let found = format!("{url} answered {}; {budget}", ago(answered));
                findings.note(what, Grade::Good, found);
            }
            (_, None) => {
                let found = format!("{url} was not needed yet");
                findings.note(what, Grade::Good, found);
            }
        }
    }
    if list(chain, "endpoints").is_empty() {
        let source = text(&chain["source"]);
        if is_degraded {
            let since = number(&chain["degraded_since_secs"], ago);
            let why = text(&chain["complaint"]);
            let found = format!("{source} gives no good answer (since {since}: {why})");
            findings.note(what, Grade::Bad, found);
        } else {
            findings.note(what, Grade::Good, format!("{source} answers"));
        }
    }
    told_clock(&chain["clock_behind_secs"], findings);
}

/// Whether the chain source answers, and the clock goes by the chain's. Costs each server three requests.
pub(super) fn asked(config: &Config, findings: &mut Findings) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return;
    };
    let (source, network) = (&config.node.chain.source, config.node.network);
    for seen in runtime.block_on(node::seen(source, network)) {
        let server = &seen.server;
        match seen.newest {
            Err(why) => {
                let found = format!(
                    "{server} gives no good answer ({why}): is it the right one, and are we rate-limited?"
                );
                findings.note("chain source", Grade::Bad, found);
            }
            Ok((height, block_secs)) => {
                let found = format!("{server} answers, block {height}");
                findings.note("chain source", Grade::Good, found);
                // A chain of one's own is mined when it is wanted.
                if network != bitcoin::Network::Regtest {
                    clock(block_secs, findings);
                }
            }
        }
    }
}

/// Whether the clock goes by the chain's.
fn clock(block_secs: u64, findings: &mut Findings) {
    let made = ago(block_secs);
    if Clock::system().unix_secs().abs_diff(block_secs) > CLOCK_OFF_MAX_SECS {
        let found =
            format!("the newest block was made {made}: is the clock of this machine right (NTP)?");
        findings.note("clock", Grade::Look, found);
    } else {
        findings.note(
            "clock",
            Grade::Good,
            format!("the newest block was made {made}"),
        );
    }
}

/// Whether the clock goes by those of the servers that the running program reads the chain from.
fn told_clock(behind_secs: &Value, findings: &mut Findings) {
    let Some(behind_secs) = behind_secs.as_i64() else {
        return;
    };
    if behind_secs.abs() < node::CLOCK_OFF_SECS {
        let found = format!("{} s off the chain source's", behind_secs.abs());
        findings.note("clock", Grade::Good, found);
        return;
    }
    let way = if behind_secs > 0 {
        "behind"
    } else {
        "ahead of"
    };
    let found = format!(
        "{} minutes {way} that of the chain source: set it (NTP). Invoices and tokens live by it",
        grouped(node::clock_minutes(behind_secs))
    );
    findings.note("clock", Grade::Bad, found);
}
