//! The folder of backups: their names, which contain node and time, and the choice of old backups
//! to delete.

use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::made::Made;

/// The number of hex digits of the node id in a name. They suffice to tell an operator's nodes
/// apart.
const NODE_DIGITS: usize = 16;

const SECS_PER_DAY: u64 = 86_400;

/// How far the time in a name may be ahead of a correct clock. Each further backup within the same
/// second adds one second, and small corrections may set the clock back.
const AHEAD_SECS: u64 = 60;

/// A backup in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    /// The time in its name, Unix seconds. That is when it was made, or one second after the
    /// previous backup if the clock had been ahead.
    pub(super) named_secs: u64,
    /// When the file was last written, Unix seconds.
    written_secs: Option<u64>,
}

impl Kept {
    /// When the backup was made, Unix seconds. If the time in the name is in the future, the clock
    /// was wrong, and the file's modification time counts instead. `None` if that is in the future,
    /// too.
    pub(super) fn made_secs(&self, now_secs: u64) -> Option<u64> {
        let past = |secs: u64| (secs <= now_secs + AHEAD_SECS).then_some(secs.min(now_secs));
        past(self.named_secs).or_else(|| past(self.written_secs?))
    }
}

/// The time for the next backup's name, at least one second after the newest backup.
pub(super) fn next_secs(newest_first: &[Kept], now_secs: u64) -> u64 {
    let newest = newest_first.first();
    newest.map_or(now_secs, |newest| now_secs.max(newest.named_secs + 1))
}

/// Builds the name `tollhouse-<node>-<time in UTC>-<mark>.backup`. The random mark keeps names from
/// different data folders of the same node distinct, whatever their clocks show. After a loss, a
/// node may have several data folders.
pub(super) fn name(node_id: &str, unix_secs: u64, mark: [u8; MARK_BYTES]) -> String {
    let (prefix, stamp) = (prefix(node_id), stamp(unix_secs));
    format!("{prefix}{stamp}-{}{SUFFIX}", hex::encode(mark))
}

/// The length of the mark. With 4 bytes there are about four thousand million marks, which only
/// have to distinguish names of the same second.
pub(super) const MARK_BYTES: usize = 4;

const SUFFIX: &str = ".backup";

/// The extension of an unfinished backup.
const UNFINISHED: &str = ".new";

/// The age at which an unfinished backup counts as abandoned.
const UNFINISHED_SECS: u64 = 3_600;

/// The common prefix of the names of a node's backups.
pub(super) fn prefix(node_id: &str) -> String {
    let digits: String = node_id.chars().take(NODE_DIGITS).collect();
    format!("tollhouse-{digits}-")
}

/// The time in this name; `None` if the name is not one of this node's backups.
pub(super) fn named_secs(name: &str, node_id: &str) -> Option<u64> {
    let rest = name.strip_prefix(&prefix(node_id))?.strip_suffix(SUFFIX)?;
    let Some((stamp, mark)) = rest.split_once('-') else {
        // Older programs wrote names without a mark.
        return unix_secs(rest);
    };
    let is_mark = hex::decode(mark).is_ok_and(|mark| mark.len() == MARK_BYTES);
    is_mark.then(|| unix_secs(stamp)).flatten()
}

/// Whether this is the name of a backup of this node.
pub(super) fn is_name(name: &str, node_id: &str) -> bool {
    named_secs(name, node_id).is_some()
}

/// This node's backups, the newest first. The list is empty if the folder does not exist.
pub(super) fn of(folder: &Path, node_id: &str) -> io::Result<Vec<Kept>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut kept = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let named_secs = name.to_str().and_then(|name| named_secs(name, node_id));
        kept.extend(named_secs.map(|named_secs| Kept {
            path: entry.path(),
            named_secs,
            written_secs: written_secs(&entry),
        }));
    }
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.named_secs));
    Ok(kept)
}

fn written_secs(entry: &DirEntry) -> Option<u64> {
    let written = entry.metadata().ok()?.modified().ok()?;
    Some(written.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The number of days for which one backup each is kept, in addition to the newest backups. So many
/// backups in one day never remove those of earlier days.
const DAYS_KEPT: usize = 7;

/// The backups that may be deleted, by the times in their names. These are all except the newest
/// `keep` and the newest backup of each of the last seven days that have any.
pub(super) fn old<T>(
    newest_first: impl IntoIterator<Item = T>,
    keep: usize,
    named_secs: impl Fn(&T) -> Option<u64>,
) -> Vec<T> {
    let (mut days, mut last_day) = (0, None);
    let mut old = Vec::new();
    for (index, one) in newest_first.into_iter().enumerate() {
        let day = named_secs(&one).map(|secs| secs / SECS_PER_DAY);
        let is_first_of_day = day.is_some() && day != last_day;
        if is_first_of_day {
            last_day = day;
            days += 1;
        }
        if index >= keep && !(is_first_of_day && days <= DAYS_KEPT) {
            old.push(one);
        }
    }
    old
}

/// Deletes the [old] backups that this data folder made, except the one named `spared`.
pub(super) fn prune(
    folder: &Path,
    node_id: &str,
    keep: usize,
    made: &Made,
    spared: Option<&str>,
) -> io::Result<()> {
    let all = of(folder, node_id)?.into_iter();
    let own = all.filter(|kept| made.has_file(&kept.path));
    for old in old(own, keep, |kept| Some(kept.named_secs)) {
        if spared.is_none_or(|spared| !old.path.ends_with(spared)) {
            std::fs::remove_file(old.path)?;
        }
    }
    Ok(())
}

/// Deletes unfinished backups of this node, which a killed program left behind.
pub(super) fn remove_unfinished(folder: &Path, node_id: &str, now_secs: u64) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let begun = name.to_str().and_then(|name| name.strip_suffix(UNFINISHED));
        let is_own = begun.is_some_and(|begun| is_name(&format!("{begun}{SUFFIX}"), node_id));
        let is_old = || written_secs(&entry).is_some_and(|at| now_secs > at + UNFINISHED_SECS);
        if is_own && is_old() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Formats a time like `20261125T031500Z`.
fn stamp(unix_secs: u64) -> String {
    let (days, secs) = (unix_secs / SECS_PER_DAY, unix_secs % SECS_PER_DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The time of a stamp; `None` if the text is not a stamp.
fn unix_secs(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let secs = number(9..11)? * 3_600 + number(11..13)? * 60 + number(13..15)?;
    let found = days(year, month, day)? * SECS_PER_DAY + secs;
    // Accept only the exact form that `stamp` writes.
    (stamp(found) == text).then_some(found)
}

/// Year, month and day of the Gregorian calendar for a number of days since 1970. Years begin in
/// March here, so that a leap day is the last day of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

/// Formats a time for people.
pub(super) fn shown(unix_secs: u64) -> String {
    let stamp = stamp(unix_secs);
    let (date, time) = (&stamp[..8], &stamp[9..15]);
    format!(
        "{}-{}-{} {}:{} UTC",
        &date[..4],
        &date[4..6],
        &date[6..],
        &time[..2],
        &time[2..4]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_time_and_are_read_back() {
        for (unix_secs, shown) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_795_576_500, "20261125T031500Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(unix_secs), shown);
            assert_eq!(super::unix_secs(shown), Some(unix_secs));
        }
        for wrong in [
            "",
            "20261301T000000Z",
            "20260230T000000Z",
            "2026-11-25",
            "20261125T033500",
        ] {
            assert_eq!(super::unix_secs(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn many_backups_in_a_day_do_not_remove_those_of_the_days_before() {
        let day = |day: u64, count: u64| (0..count).rev().map(move |nth| day * SECS_PER_DAY + nth);
        let stay = |newest_first: Vec<u64>, keep| {
            let old = old(newest_first.clone(), keep, |secs| Some(*secs));
            let stays = |secs: &u64| !old.contains(secs);
            newest_first.into_iter().filter(stays).collect::<Vec<_>>()
        };
        // A hundred backups on the newest day, and three on each of the nine days before.
        let many: Vec<_> = day(20, 100)
            .chain((11..20).rev().flat_map(|it| day(it, 3)))
            .collect();
        let today = 20 * SECS_PER_DAY;
        let before = (14..20).rev().map(|day| day * SECS_PER_DAY + 2);
        let expected: Vec<_> = [today + 99, today + 98].into_iter().chain(before).collect();
        assert_eq!(stay(many, 2), expected);
        // One backup a day, as by default.
        let daily: Vec<_> = (0..30).rev().flat_map(|it| day(it, 1)).collect();
        assert_eq!(stay(daily.clone(), 7), daily[..7]);
        // The machine was off for more than a month.
        let gap: Vec<_> = day(50, 5).chain(day(3, 2)).collect();
        let newest = [50 * SECS_PER_DAY + 4, 3 * SECS_PER_DAY + 1];
        assert_eq!(stay(gap, 1), newest);
    }

    const MARK: [u8; MARK_BYTES] = [0xab, 0, 1, 2];

    #[test]
    fn a_name_is_of_one_node_and_has_a_mark_or_none() {
        let (ours, theirs) = ("02".repeat(33), "03".repeat(33));
        let marked = name(&ours, 951_782_400, MARK);
        assert_eq!(
            marked,
            "tollhouse-0202020202020202-20000229T000000Z-ab000102.backup"
        );
        assert_eq!(named_secs(&marked, &ours), Some(951_782_400));
        assert_eq!(named_secs(&marked, &theirs), None);
        let unmarked = marked.replace("-ab000102", "");
        assert_eq!(named_secs(&unmarked, &ours), Some(951_782_400));
        for wrong in ["-", "-ab", "-ab000102-ab000102", "-copy", "-ab00010203"] {
            let wrong = marked.replace("-ab000102", wrong);
            assert_eq!(named_secs(&wrong, &ours), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_this_data_folder_has_made_is_let_go_and_never_the_one_that_is_spared() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = ("02".repeat(33), "03".repeat(33));
        let make = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        for unix_secs in 1..=5 {
            let name = name(&ours, unix_secs, MARK);
            make(&name);
            Made::note(data_dir.path(), &name).unwrap();
        }
        // Backups of a lost folder, newer than those that stay.
        let lost = [3, 4].map(|unix_secs| name(&ours, unix_secs, [7; MARK_BYTES]));
        for name in &lost {
            make(name);
        }
        make(&name(&theirs, 1, MARK));
        make("holiday.jpg");
        let made = Made::open(data_dir.path());
        let spared = name(&ours, 2, MARK);
        prune(folder.path(), &ours, 2, &made, Some(&spared)).unwrap();
        let (own, others): (Vec<_>, Vec<_>) = of(folder.path(), &ours)
            .unwrap()
            .into_iter()
            .partition(|kept| made.has_file(&kept.path));
        let secs = |kept: &[Kept]| kept.iter().map(|kept| kept.named_secs).collect::<Vec<_>>();
        assert_eq!(secs(&own), [5, 4, 2]);
        assert_eq!(secs(&others), [4, 3]);
        assert_eq!(of(folder.path(), &theirs).unwrap().len(), 1);
        assert!(folder.path().join("holiday.jpg").exists());
    }

    #[test]
    fn an_unfinished_backup_of_this_node_is_deleted_after_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = ("02".repeat(33), "03".repeat(33));
        let unfinished = |node_id: &str| {
            let name = name(node_id, 1_000_000, MARK);
            let path = folder.path().join(name).with_extension("new");
            std::fs::write(&path, "half").unwrap();
            path
        };
        let (own, foreign) = (unfinished(&ours), unfinished(&theirs));
        let written = own.metadata().unwrap().modified().unwrap();
        let written_secs = written.duration_since(UNIX_EPOCH).unwrap().as_secs();
        remove_unfinished(folder.path(), &ours, written_secs + UNFINISHED_SECS).unwrap();
        assert!(own.exists(), "it may be being written");
        remove_unfinished(folder.path(), &ours, written_secs + UNFINISHED_SECS + 1).unwrap();
        assert!(!own.exists() && foreign.exists());
    }

    #[test]
    fn the_last_one_made_is_the_newest_by_name_and_a_name_ahead_of_the_clock_tells_no_age() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = tempfile::tempdir().unwrap();
        let ours = "02".repeat(33);
        let make = |now_secs| {
            let before = of(folder.path(), &ours).unwrap();
            let name = name(&ours, next_secs(&before, now_secs), MARK);
            let path = folder.path().join(&name);
            std::fs::write(&path, "").unwrap();
            Made::note(data_dir.path(), &name).unwrap();
            let made = Made::open(data_dir.path());
            prune(folder.path(), &ours, 2, &made, None).unwrap();
            let newest = of(folder.path(), &ours).unwrap().remove(0);
            assert_eq!(newest.path, path, "made at {now_secs}");
            newest
        };
        assert_eq!(make(1_000).named_secs, 1_000);
        assert_eq!(make(1_000).named_secs, 1_001, "two within a second");
        assert_eq!(make(500).named_secs, 1_002, "the clock is behind");
        let next = make(2_000);
        assert_eq!(next.made_secs(2_060), Some(2_000));
        assert_eq!(
            next.made_secs(1_999),
            Some(1_999),
            "a clock that is kept right"
        );
        // One backup named far in the future, and one made after the error was noticed. The file
        // itself was written during this test.
        let written = std::fs::metadata(&make(5_000_000_000).path).unwrap();
        let written = written.modified().unwrap().duration_since(UNIX_EPOCH);
        let now_secs = written.unwrap().as_secs() + 5;
        let after = make(now_secs);
        assert_eq!(after.named_secs, 5_000_000_001);
        assert!(
            after
                .made_secs(now_secs)
                .is_some_and(|made| now_secs - made <= 5)
        );
        assert_eq!(after.made_secs(0), None);
    }
}
