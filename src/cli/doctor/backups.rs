//! Checks that a backup exists that restores everything, and that backups are still made.

use std::time::Duration;

use serde_json::{Value, json};

use crate::base::clock::Clock;
use crate::config::Config;
use crate::keys::NodeKeys;
use crate::operate::backup::{self, BackupStatus};

use super::super::show::text;
use super::super::units::grouped;
use super::findings::{Findings, Grade};

const WHAT: &str = "backup";

/// The accepted age of the newest backup, in multiples of the interval. The program checks every
/// minute, so a healthy backup is late by seconds, not by a whole interval.
const LATE_TIMES: u32 = 2;

/// How long making or verifying a backup may take. A gigabyte at 2 MB/s takes eight minutes.
const BUSY_SECS_MAX: u64 = 900;

/// How long the store may lack the newest backup before that is reported. Sending takes at most ten
/// minutes, and is retried after a pause of a minute.
const SENDING_SECS_MAX: u64 = 1_200;

/// Reports the backups of a running program. During a recovery it makes none.
pub(super) fn known(status: &Value, config: &Config, findings: &mut Findings) {
    let backup = &status["backup"];
    store(&backup["s3"], findings);
    others(backup, &text(&backup["folder"]), findings);
    let is_recovering = status["node"]["recovery"].is_object();
    if is_recovering {
        let found = "none is made while the node recovers: keep the one that it was restored from";
        findings.note(WHAT, Grade::Look, found);
    } else if attempts(backup, config, findings) && age(backup, config.backup.every, findings) {
        verified(backup, config, findings);
    }
}

/// Reports the backups in the folder while the program is not running.
pub(super) fn at_rest(config: &Config, findings: &mut Findings) {
    let words = config.data_dir.join("seed.words");
    let Ok(keys) = NodeKeys::read(&words, config.node.network) else {
        // Without seed words the node does not exist yet, or another finding reports the missing
        // file.
        return;
    };
    let node_id = keys.payment_keys().node_id().to_string();
    let now_secs = Clock::system().unix_secs();
    let found = backup::at_rest(
        &config.backup,
        &config.data_dir,
        &config.node.folder,
        &node_id,
        now_secs,
    );
    resting(&found, config, findings);
}

fn resting(found: &BackupStatus, config: &Config, findings: &mut Findings) {
    let found = json!(found);
    others(&found, &text(&found["folder"]), findings);
    // Before the first start, the node has nothing to back up.
    if !config.node.folder.exists() || !attempts(&found, config, findings) {
        return;
    }
    if let Some(age_secs) = is_late(&found, config.backup.every) {
        // A stopped program changes little, so a late backup is only a warning.
        let note = format!(
            "the newest is {} min old, in {}: `tollhouse backup create` makes one while the program is stopped, too",
            minutes(age_secs),
            text(&found["folder"])
        );
        findings.note(WHAT, Grade::Look, note);
    }
    verified(&found, config, findings);
}

/// Checks that a backup exists and that making the next one is possible.
fn attempts(backup: &Value, config: &Config, findings: &mut Findings) -> bool {
    let folder = text(&backup["folder"]);
    if let Some(error) = backup["error"].as_str() {
        let found =
            format!("the last one failed ({error}): mend that, then `tollhouse backup create`");
        findings.note(WHAT, Grade::Bad, found);
        return false;
    }
    if let Some(busy_secs) = backup["busy_secs"]
        .as_u64()
        .filter(|secs| *secs > BUSY_SECS_MAX)
    {
        let found = format!(
            "one is being made or looked through for {} min: does the disk of {folder} answer? If it is one on the network that is gone, mend \
             that and start the program again",
            minutes(busy_secs)
        );
        findings.note(WHAT, Grade::Bad, found);
        return false;
    }
    let is_there = backup["age_secs"].is_u64();
    if !is_there {
        let lost = match config.node.vss {
            None => "The words alone do not bring channels back",
            Some(_) => {
                "The words and the server of node.vss bring the channels back, and nothing brings back the books and the keys of tokens"
            }
        };
        let found = format!("there is none: `tollhouse backup create`. {lost}");
        findings.note(WHAT, Grade::Bad, found);
    }
    is_there
}

/// The age of the newest backup, if it is too old.
fn is_late(backup: &Value, every: Duration) -> Option<u64> {
    let late_secs = (every * LATE_TIMES).as_secs();
    backup["age_secs"].as_u64().filter(|secs| *secs > late_secs)
}

/// Checks that the newest backup is recent.
fn age(backup: &Value, every: Duration, findings: &mut Findings) -> bool {
    let late = is_late(backup, every);
    if let Some(age_secs) = late {
        let found = format!(
            "the newest is {} min old, in {}, and one is to be made every {} min (backup.every): the log says why there is none",
            minutes(age_secs),
            text(&backup["folder"]),
            minutes(every.as_secs())
        );
        findings.note(WHAT, Grade::Bad, found);
    }
    late.is_none()
}

/// Reports the results of verifying backups.
fn verified(backup: &Value, config: &Config, findings: &mut Findings) {
    let folder = text(&backup["folder"]);
    if let Some(damage) = backup["damage"].as_str() {
        // Without a good backup, nothing can be restored.
        let is_only = backup["verified_age_secs"].is_null();
        let grade = if is_only { Grade::Bad } else { Grade::Look };
        let found = format!("one in {folder} is bad: {damage}. Is that disk failing?");
        findings.note(WHAT, grade, found);
    }
    let Some(verified_secs) = backup["verified_age_secs"].as_u64() else {
        let age_secs = backup["age_secs"].as_u64().unwrap_or_default();
        let found = format!(
            "the newest is {} min old, in {folder}, and none was verified yet: if that stays so, the log says why",
            minutes(age_secs)
        );
        findings.note(WHAT, Grade::Look, found);
        return;
    };
    let age = format!(
        "the newest verified one is {} min old, in {folder}",
        minutes(verified_secs)
    );
    if let Some(vss) = &config.node.vss {
        let found = format!(
            "{age}. It holds books, keys and settings, and no channels: their state is kept as {vss}, and no backup is behind it. Keep a copy \
             on another machine"
        );
        findings.note(WHAT, Grade::Good, found);
    } else if backup["is_verified_behind_channels"] == true {
        let found = format!("{age}, and a channel has changed since: `tollhouse backup create`");
        findings.note(WHAT, Grade::Look, found);
    } else {
        let found = format!("{age}. Keep a copy on another machine");
        findings.note(WHAT, Grade::Good, found);
    }
}

/// Checks that backups reach the store.
fn store(s3: &Value, findings: &mut Findings) {
    if s3.is_null() {
        return;
    }
    let what = "backup store";
    let place = text(&s3["place"]);
    others(s3, &place, findings);
    if let Some(damage) = s3["damage"].as_str() {
        let found = format!("one in the store at {place} was bad, and is sent again: {damage}");
        findings.note(what, Grade::Look, found);
    }
    let lacks_secs = s3["lacks_newest_secs"].as_u64();
    if let Some(error) = s3["error"].as_str() {
        // Without a backup to send, the program has only asked what the store holds.
        let what_is = match lacks_secs {
            Some(_) => "the newest is not in the store",
            None => "it is not known what is in the store",
        };
        let found = format!("{what_is} at {place}: {error}. It is tried again by itself");
        findings.note(what, Grade::Bad, found);
    } else if let Some(lacks_secs) = lacks_secs.filter(|secs| *secs > SENDING_SECS_MAX) {
        let found = format!(
            "the newest has not been in the store at {place} for {} min: the log says why",
            minutes(lacks_secs)
        );
        findings.note(what, Grade::Bad, found);
    } else if s3["has_newest"] == true {
        findings.note(
            what,
            Grade::Good,
            format!("the newest is in the store at {place}"),
        );
    }
}

/// Reports backups of this node that this data folder did not make. They may contain channels.
fn others(there: &Value, place: &str, findings: &mut Findings) {
    if let Some(newest) = there["newest_other"].as_str() {
        let found = format!(
            "{place} holds {} of this node that this data folder did not make, the newest is {newest}. If this node was begun anew from its \
             words, or restored from an older one, its channels may be in there: look with `tollhouse backup verify`, stop the program, and \
             restore that one to a new folder. None of them is ever let go: if you need them no more, move them away",
            text(&there["others"])
        );
        findings.note(WHAT, Grade::Look, found);
    }
}

fn minutes(secs: u64) -> String {
    grouped(secs / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    /// The status of healthy backups, with these changes.
    fn backup(change: Value) -> Value {
        let mut backup = json!({
            "folder": "/backups", "age_secs": 100, "verified_age_secs": 100, "is_verified_behind_channels": false,
            "s3": { "place": "https://s3", "has_newest": true },
        });
        merge(&mut backup, change);
        backup
    }

    fn merge(into: &mut Value, change: Value) {
        let Value::Object(fields) = change else {
            *into = change;
            return;
        };
        for (key, value) in fields {
            merge(&mut into[key], value);
        }
    }

    /// The worst grade of the findings, and their texts.
    fn found(status: Value) -> (Grade, String) {
        let mut findings = Findings::default();
        let config = config();
        known(&status, &config, &mut findings);
        told(&findings)
    }

    fn told(findings: &Findings) -> (Grade, String) {
        let found = findings.0.iter().map(|finding| finding.found.clone());
        (findings.worst(), found.collect::<Vec<_>>().join("\n"))
    }

    fn running(change: Value) -> (Grade, String) {
        found(json!({ "node": {}, "backup": backup(change) }))
    }

    /// The default settings, with a backup a day.
    fn config() -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tollhouse.toml");
        let settings =
            "[node]\nnetwork = \"regtest\"\n[node.chain]\nesplora = \"http://127.0.0.1:1\"\n";
        std::fs::write(&file, settings).unwrap();
        crate::config::load_with(&file, []).unwrap()
    }

    #[test]
    fn backups_that_have_stopped_are_bad_wherever_they_stop() {
        let (grade, told) = running(json!({}));
        assert_eq!(grade, Grade::Good, "{told}");
        for (change, words) in [
            (json!({ "age_secs": 2 * DAY + 60 }), "2,881 min old"),
            (json!({ "busy_secs": 3_600 }), "for 60 min"),
            (json!({ "error": "no room" }), "no room"),
            (json!({ "age_secs": null }), "there is none"),
            (json!({ "s3": { "error": "gone" } }), "gone"),
            (
                json!({ "s3": { "has_newest": false, "lacks_newest_secs": 7_200 } }),
                "for 120 min",
            ),
        ] {
            let (grade, told) = running(change.clone());
            assert_eq!(grade, Grade::Bad, "{change}: {told}");
            assert!(told.contains(words), "`{words}` in: {told}");
        }
        // Times just below the limits are not reported.
        let nearly = json!({
            "age_secs": 2 * DAY - 60, "busy_secs": 100, "s3": { "has_newest": false, "lacks_newest_secs": 60 },
        });
        let (grade, told) = running(nearly);
        assert_eq!(grade, Grade::Good, "{told}");
    }

    #[test]
    fn backups_of_a_node_that_was_lost_are_shown_and_a_recovery_wants_none() {
        let newest = "tollhouse-0202020202020202-20000229T000000Z-ab000102.backup";
        let others = json!({ "others": 3, "newest_other": newest });
        for change in [others.clone(), json!({ "s3": others })] {
            let (grade, told) = running(change);
            assert_eq!(grade, Grade::Look, "{told}");
            assert!(
                told.contains(newest) && told.contains("restore that one"),
                "{told}"
            );
        }
        let recovering = json!({ "recovery": { "stage": "closing" } });
        let none = json!({ "age_secs": null, "verified_age_secs": null });
        let (grade, told) = found(json!({ "node": recovering, "backup": backup(none) }));
        assert_eq!(grade, Grade::Look, "{told}");
        assert!(told.contains("while the node recovers"), "{told}");
    }

    #[test]
    fn a_stopped_program_has_a_finding_of_its_backups_too() {
        let day = Duration::from_secs(DAY);
        let folder = tempfile::tempdir().unwrap();
        let backups = crate::operate::backup::Config {
            folder: folder.path().join("backups"),
            every: day,
            keep: 7,
            s3: None,
        };
        let mut config = config();
        config.backup.every = day;
        let node_id = "02".repeat(33);
        let mut looked = |has_node| {
            let there = if has_node { "." } else { "node" };
            config.node.folder = folder.path().join(there);
            let node = &config.node.folder;
            let status = backup::at_rest(&backups, folder.path(), node, &node_id, 951_782_400);
            let mut findings = Findings::default();
            resting(&status, &config, &mut findings);
            told(&findings)
        };
        assert_eq!(looked(false), (Grade::Good, String::new()));
        let (grade, told) = looked(true);
        assert_eq!(grade, Grade::Bad, "{told}");
        assert!(told.contains("there is none"), "{told}");
        let name = "tollhouse-0202020202020202-20000225T000000Z-ab000102.backup";
        std::fs::create_dir(&backups.folder).unwrap();
        std::fs::write(backups.folder.join(name), "").unwrap();
        let (grade, told) = looked(false);
        assert_eq!(grade, Grade::Look, "{told}");
        assert!(told.contains(name), "{told}");
        crate::base::secret_file::write_new(&folder.path().join("backup.made"), name).unwrap();
        let (grade, told) = looked(true);
        assert_eq!(grade, Grade::Look, "{told}");
        assert!(told.contains("5,760 min old"), "{told}");
    }
}
