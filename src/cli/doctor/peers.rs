//! Reports the Lightning peers that the operator did not choose, as the running program knows them.

use serde_json::Value;

use super::super::show::{number, text};
use super::super::units::grouped;
use super::findings::{Findings, Grade};

/// The subject of the findings.
const PORT: &str = "Lightning port";

/// Reports whether peers can connect, and how many channels and connections strangers have.
pub(super) fn known(node: &Value, findings: &mut Findings) {
    let strangers = &node["strangers"];
    if !strangers.is_object() {
        return;
    }
    let count = |key: &str| number(&strangers[key], grouped);
    if let Some(fault) = strangers["listener_fault"].as_str() {
        let found = format!("peers cannot connect to node.listen: {fault}");
        findings.note(PORT, Grade::Bad, found);
    }
    let who = if strangers["anyone_opens"] == true {
        "anyone may open channels"
    } else {
        "only peers that you chose may open channels"
    };
    let found = format!(
        "{who}; strangers have {} of {} channels, {} of {} waiting, and {} of {} connections are in use ({} closed, {} turned away)",
        count("channels"),
        count("channels_max"),
        count("pending"),
        count("pending_max"),
        count("connections"),
        count("connections_max"),
        count("closed"),
        count("connections_refused"),
    );
    let is_full = |has: &str, max: &str| strangers[has].as_u64() >= strangers[max].as_u64();
    let is_any_full = is_full("channels", "channels_max")
        || is_full("pending", "pending_max")
        || is_full("connections", "connections_max");
    let grade = if is_any_full {
        Grade::Look
    } else {
        Grade::Good
    };
    findings.note(PORT, grade, found);
    if strangers["shut_out"] == true {
        let found = "strangers without a confirmed channel are blocked for up to a day: together they exceeded the channel limits \
                     too often. Providers, and peers that you dial or trust, can still connect";
        findings.note(PORT, Grade::Look, found.to_owned());
    }
    if strangers["withheld"].as_u64() > Some(0) {
        let found = format!(
            "nothing is sold over {} channels, which are being closed: payments over them could not be claimed on chain with what \
             the wallet has. Send coins to {}, or name their peers in node.peers.trusted",
            count("withheld"),
            text(&node["deposit_address"])
        );
        findings.note(PORT, Grade::Look, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grades(strangers: &Value) -> Vec<(&'static str, Grade)> {
        let mut findings = Findings::default();
        known(&json!({ "strangers": strangers }), &mut findings);
        let noted = findings.0.iter();
        noted.map(|finding| (finding.what, finding.grade)).collect()
    }

    #[test]
    fn a_dead_listener_is_bad_and_full_bounds_are_worth_a_look() {
        let mut strangers = json!({
            "anyone_opens": true, "channels": 1, "channels_max": 100, "pending": 0, "pending_max": 10,
            "connections": 3, "connections_max": 200, "closed": 0, "connections_refused": 0,
            "withheld": 0, "listener_fault": null,
        });
        assert_eq!(grades(&strangers), [(PORT, Grade::Good)]);
        strangers["pending"] = json!(10);
        assert_eq!(grades(&strangers), [(PORT, Grade::Look)]);
        strangers["pending"] = json!(0);
        strangers["shut_out"] = json!(true);
        assert_eq!(grades(&strangers)[1], (PORT, Grade::Look));
        strangers["listener_fault"] = json!("it is gone");
        assert_eq!(grades(&strangers)[0], (PORT, Grade::Bad));
    }
}
