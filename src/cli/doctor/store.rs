//! Checks the server that keeps the channel state: whether it answers, and which program uses the
//! store.

use std::time::Instant;

use serde_json::Value;
use tokio::time::{Instant as At, sleep_until};

use crate::channel_state::vss::lease::{RENEWED_WITHIN, StoreSeen, seen};
use crate::channel_state::vss::{MARK, Vss};
use crate::config::Config;

use super::super::show::text;
use super::super::units::grouped;
use super::findings::{Findings, Grade};

const SERVER: &str = "node.vss";

const LEASE: &str = "lease";

/// The state of the program.
#[derive(Clone, Copy)]
pub(super) enum Program<'a> {
    /// The program runs, with this status of its node.
    Runs(&'a Value),
    /// The program does not run.
    Stopped,
    /// The program runs but does not answer.
    Silent,
}

/// Asks the server like the node does, with the headers of the settings. Changes nothing on the
/// server.
pub(super) fn look(config: &Config, program: Program<'_>, findings: &mut Findings) {
    let Some(vss) = &config.node.vss else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return;
    };
    let asked = Instant::now();
    let seen = runtime.block_on(seen(vss));
    match &seen {
        Ok(_) => {
            let ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
            let found = format!("the server of {vss} answers, in {} ms", grouped(ms));
            findings.note(SERVER, Grade::Good, found);
        }
        Err(why) => {
            let found = format!(
                "{why}. The channels are there ({vss}): what was sold is served, and nothing more is sold until it answers well"
            );
            findings.note(SERVER, Grade::Bad, found);
        }
    }
    match (program, seen) {
        (Program::Runs(node), _) => own_lease(&node["store"], findings),
        (Program::Stopped, Ok(seen)) => {
            let is_marked = config.node.folder.join(MARK).exists();
            let again = || runtime.block_on(seen_later(vss));
            let (grade, found) = lease(seen, is_marked, again);
            findings.note(LEASE, grade, found);
        }
        (Program::Stopped, Err(_)) | (Program::Silent, _) => {}
    }
}

/// Asks the server again, after the time within which a program that uses the store renews its
/// lease.
async fn seen_later(vss: &Vss) -> Result<StoreSeen, String> {
    sleep_until(At::now() + RENEWED_WITHIN).await;
    seen(vss).await
}

/// Reports the lease as the running program describes it.
fn own_lease(store: &Value, findings: &mut Findings) {
    let renewed = store["renewed_ago_secs"].as_u64();
    let renewed = renewed.map_or_else(
        || "and was not renewed yet".to_owned(),
        |secs| format!("renewed {} s ago", grouped(secs)),
    );
    if store["is_held"] == true {
        let held = format!("the store is this program's, {renewed}");
        match store["complaint"].as_str() {
            None => findings.note(LEASE, Grade::Good, held),
            Some(_) => {
                let why = text(&store["complaint"]);
                let found = format!("{held}, and cannot be renewed now: {why}");
                findings.note(LEASE, Grade::Look, found);
            }
        }
        return;
    }
    let why = store["complaint"].as_str().map_or_else(
        || "it may have to wait whether another program renews it".to_owned(),
        |_| text(&store["complaint"]),
    );
    let found = format!(
        "the lease of the store is not this program's now, {renewed}: {why}. Nothing is written or sold without it"
    );
    findings.note(LEASE, Grade::Bad, found);
}

/// Reports the lease while this program does not run.
fn lease(
    seen: StoreSeen,
    is_marked: bool,
    again: impl FnOnce() -> Result<StoreSeen, String>,
) -> (Grade, String) {
    match seen {
        StoreSeen::Unused if is_marked => {
            let found = "the server knows nothing of this node, whose channels it kept: do the headers name another account, or has it \
                         lost them? Put that in order before the next start";
            (Grade::Bad, found.to_owned())
        }
        StoreSeen::Unused => (Grade::Good, "no node has used the store yet".to_owned()),
        StoreSeen::Free => (
            Grade::Good,
            "nobody uses the store: it was given back".to_owned(),
        ),
        StoreSeen::Held { .. } => {
            if again().is_ok_and(|later| later != seen) {
                let found = "another program uses the store at this very moment: stop it, or do not start this one. Two with the same \
                             channels lose the money in them";
                return (Grade::Bad, found.to_owned());
            }
            let found = "whoever used the store last has not given it back, and does not use it now: it was killed, or cut off. The next \
                         start waits half a minute";
            (Grade::Look, found.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_somebody_uses_is_told_from_one_that_was_left_behind() {
        let held = |version| StoreSeen::Held { version };
        let never = || panic!("nothing to wait for");
        assert_eq!(lease(StoreSeen::Unused, false, never).0, Grade::Good);
        assert_eq!(lease(StoreSeen::Unused, true, never).0, Grade::Bad);
        assert_eq!(lease(StoreSeen::Free, true, never).0, Grade::Good);
        assert_eq!(lease(held(1), true, || Ok(held(2))).0, Grade::Bad);
        assert_eq!(lease(held(1), true, || Ok(StoreSeen::Free)).0, Grade::Bad);
        assert_eq!(lease(held(1), true, || Ok(held(1))).0, Grade::Look);
        let away = || Err("away".to_owned());
        assert_eq!(lease(held(1), true, away).0, Grade::Look);
    }

    #[test]
    fn a_lease_that_is_not_held_is_bad_and_says_why() {
        let found = |store: Value| {
            let mut findings = Findings::default();
            own_lease(&store, &mut findings);
            let finding = findings.0.pop().unwrap();
            (finding.grade, finding.found)
        };
        let (grade, said) = found(serde_json::json!({ "is_held": true, "renewed_ago_secs": 3 }));
        assert_eq!(grade, Grade::Good);
        assert!(said.contains("3 s ago"), "{said}");
        let late = serde_json::json!({ "is_held": true, "complaint": "refuses the headers" });
        assert_eq!(found(late).0, Grade::Look);
        let refused = serde_json::json!({ "is_held": false, "complaint": "refuses the headers" });
        let (grade, said) = found(refused);
        assert_eq!(grade, Grade::Bad);
        assert!(said.contains("refuses the headers"), "{said}");
        assert_eq!(found(Value::Null).0, Grade::Bad);
    }
}
