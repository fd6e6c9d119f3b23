//! Checks the chain source, and compares the clock with the chain.

use serde_json::Value;

use crate::base::clock::Clock;
use crate::config::Config;
use crate::{chain, node};

use super::super::show::{list, number, text};
use super::super::units::{ago, grouped};
use super::findings::{Findings, Grade};

/// The largest accepted difference between the newest block's time and the clock. Consensus allows
/// a block's time to be two hours off, and a block may take hours to be found.
const CLOCK_OFF_MAX_SECS: u64 = 4 * 3_600;

/// How long ago the node may have read the chain before that is reported.
const SYNC_LATE_SECS: u64 = 3_600;

/// The same limit for the wallet, which may have to wait for the request budget. If one sync costs
/// nearly the whole budget, every second one fails, and they are half an hour apart.
const WALLET_LATE_SECS: u64 = 3 * 3_600;

/// Checks that the running node reads the chain.
pub(super) fn read(node: &Value, findings: &mut Findings) {
    let (what, now_secs) = ("chain", Clock::system().unix_secs());
    match node["lightning_synced_secs"].as_u64() {
        Some(synced) if now_secs.saturating_sub(synced) > SYNC_LATE_SECS => {
            let found = format!(
                "the node last read it {}: the log says what is in the way",
                ago(synced)
            );
            findings.note(what, Grade::Bad, found);
        }
        Some(synced) => {
            let found = format!("the node read it {}", ago(synced));
            findings.note(what, Grade::Good, found);
            wallet(node, now_secs, findings);
        }
        None => {
            let found = "the node never read it: is node.chain right?";
            findings.note(what, Grade::Bad, found);
        }
    }
}

/// Checks that the wallet reads the chain and so notices arriving on-chain money.
fn wallet(node: &Value, now_secs: u64, findings: &mut Findings) {
    let complaint = node["chain"]["complaint"].as_str();
    let (grade, found) = match node["onchain_synced_secs"].as_u64() {
        Some(synced) if now_secs.saturating_sub(synced) > WALLET_LATE_SECS => {
            let found = format!(
                "it last read the chain {} ({}): its addresses may be too many for node.chain.requests_per_hour, of which a \
                 server of your own can have more",
                ago(synced),
                complaint.unwrap_or("no complaint")
            );
            (Grade::Bad, found)
        }
        Some(synced) => (Grade::Good, format!("it read the chain {}", ago(synced))),
        None => {
            let why = complaint.unwrap_or("it is about to");
            (
                Grade::Look,
                format!("it has not read the chain yet ({why})"),
            )
        }
    };
    findings.note("wallet", grade, found);
}

/// Reports the running program's knowledge of its chain source, without a request from here.
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

/// Checks that the chain source answers and that the clock agrees with the chain. Costs each server
/// four requests.
pub(super) fn asked(config: &Config, findings: &mut Findings) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return;
    };
    let (source, network) = (&config.node.chain.source, config.node.network);
    let folder = &config.node.folder;
    for seen in runtime.block_on(chain::seen(source, network, folder)) {
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
                // On regtest, blocks are mined on demand, so their times say nothing about the
                // clock.
                if network != bitcoin::Network::Regtest {
                    clock(block_secs, findings);
                }
            }
        }
    }
}

/// Compares the clock with the time of the newest block.
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

/// Reports how far the clock is off the clocks of the chain source's servers, as the running
/// program knows it.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The findings for a node whose channels and wallet were last synced this many seconds ago.
    fn said(channels: u64, wallet: Option<u64>) -> Vec<(&'static str, Grade)> {
        let now_secs = Clock::system().unix_secs();
        let mut findings = Findings::default();
        let node = json!({
            "lightning_synced_secs": now_secs - channels,
            "onchain_synced_secs": wallet.map(|ago| now_secs - ago),
        });
        read(&node, &mut findings);
        let said = findings.0.iter();
        said.map(|finding| (finding.what, finding.grade)).collect()
    }

    #[test]
    fn a_wallet_that_starves_while_the_channels_are_looked_after_is_bad() {
        let read = ("chain", Grade::Good);
        let hour = 3_600;
        for (wallet, grade) in [
            (Some(hour), Grade::Good),
            (Some(4 * hour), Grade::Bad),
            (None, Grade::Look),
        ] {
            assert_eq!(said(60, wallet), [read, ("wallet", grade)]);
        }
        // One cause makes one finding.
        assert_eq!(said(4 * hour, Some(4 * hour)), [("chain", Grade::Bad)]);
    }
}
