//! Backups: whether there is one that would bring everything back.

use serde_json::Value;

use super::super::show::text;
use super::super::units::grouped;
use super::{Findings, Grade};

/// Whether there is a backup that would bring the channels back.
pub(super) fn known(backup: &Value, findings: &mut Findings) {
    let folder = text(&backup["folder"]);
    let what = "backup";
    if let Some(error) = backup["error"].as_str() {
        let found =
            format!("the last one failed ({error}): mend that, then `tollhouse backup create`");
        findings.note(what, Grade::Bad, found);
        return;
    }
    let Some(age_secs) = backup["age_secs"].as_u64() else {
        let found =
            "there is none: `tollhouse backup create`. The words alone do not bring channels back";
        findings.note(what, Grade::Bad, found);
        return;
    };
    let minutes = |secs: u64| grouped(secs / 60);
    if let Some(damage) = backup["damage"].as_str() {
        // With no other one that is good there is nothing to restore.
        let is_only = backup["verified_age_secs"].is_null();
        let grade = if is_only { Grade::Bad } else { Grade::Look };
        let found = format!("one in {folder} is bad: {damage}. Is that disk failing?");
        findings.note(what, grade, found);
    }
    if let Some(damage) = backup["s3"]["damage"].as_str() {
        let place = text(&backup["s3"]["place"]);
        let found = format!("one in the store at {place} was bad, and is sent again: {damage}");
        findings.note(what, Grade::Look, found);
    }
    let Some(verified_secs) = backup["verified_age_secs"].as_u64() else {
        let found = format!(
            "the newest is {} min old, in {folder}, and none was verified yet: if that stays so, the log says why",
            minutes(age_secs)
        );
        findings.note(what, Grade::Look, found);
        return;
    };
    let age = format!(
        "the newest verified one is {} min old, in {folder}",
        minutes(verified_secs)
    );
    if backup["is_verified_behind_channels"] == true {
        let found = format!("{age}, and a channel has changed since: `tollhouse backup create`");
        findings.note(what, Grade::Look, found);
    } else {
        let found = format!("{age}. Keep a copy on another machine");
        findings.note(what, Grade::Good, found);
    }
}
