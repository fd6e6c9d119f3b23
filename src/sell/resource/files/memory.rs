//! Remembers the files that were checked recently, with the content of small ones. Does not know
//! which files may be served.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::known::Known;

/// The largest file to cache. Sending a larger one takes so long that opening it hardly matters.
pub(super) const CONTENT_BYTES_MAX: u64 = 64 * 1024;

/// The most memory used, in bytes: 128 of the largest files, or a thousand pages of 7 KB. Memory is
/// allocated only when files are requested.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// The overhead of an entry, without its content and its path (which is stored twice): the headers,
/// and its slots in the table and the queue.
const ENTRY_BYTES: usize = 1024;

/// The times that decide when a file is checked in full again, and when its content is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest time between full checks. A full check follows all links, opens the file and
    /// compares it with the secrets. In between, each request checks only that the path and the
    /// file have not changed.
    pub(super) look_every: Duration,
    /// How long a file must stay unchanged before its content is kept. File systems count time in
    /// steps of up to two seconds (FAT), so a second change within one step would go unnoticed.
    pub(super) settled: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(1),
            settled: Duration::from_millis(2_500),
        }
    }
}

/// The checked files by their paths, which contain no links.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pace: Pace,
    /// The entries. A `std` mutex: held only for a lookup in the table.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    pub(super) entries: HashMap<OsString, Entry>,
    /// The paths of all entries; the front one is removed next.
    pub(super) queue: VecDeque<OsString>,
    /// The total size of all entries.
    pub(super) bytes: usize,
}

#[derive(Debug)]
struct Entry {
    pub(super) known: Arc<Known>,
    pub(super) bytes: usize,
    /// Whether the file was requested since its entry last reached the front of the queue.
    pub(super) is_used: AtomicBool,
}

impl Memory {
    #[cfg(test)]
    pub(super) fn with(pace: Pace) -> Self {
        Self {
            pace,
            ..Self::default()
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the file at this path, if it was checked within the last second.
    pub(super) fn find(&self, path: &Path) -> Option<Arc<Known>> {
        let known = self.last(path)?;
        (known.looked_at.elapsed() < self.pace.look_every).then_some(known)
    }

    /// Returns the file at this path, regardless of when it was checked.
    pub(super) fn last(&self, path: &Path) -> Option<Arc<Known>> {
        let table = self.table();
        let entry = table.entries.get(path.as_os_str())?;
        entry.is_used.store(true, Ordering::Relaxed);
        Some(Arc::clone(&entry.known))
    }

    /// Whether a file that has not changed since `first_seen` may be kept with its content.
    pub(super) fn is_settled(&self, first_seen: Instant, now: Instant) -> bool {
        now.duration_since(first_seen) >= self.pace.settled
    }

    /// Keeps the file at this path and replaces an older entry.
    pub(super) fn keep(&self, path: &Path, known: Arc<Known>) {
        let content = known.content.as_ref().map_or(0, |content| content.len());
        let bytes = ENTRY_BYTES + 2 * path.as_os_str().len() + content;
        let entry = Entry {
            known,
            bytes,
            is_used: AtomicBool::new(false),
        };
        let mut table = self.table();
        let path = path.as_os_str().to_owned();
        let before = table.entries.insert(path.clone(), entry);
        match before {
            Some(before) => table.bytes -= before.bytes,
            None => table.queue.push_back(path),
        }
        table.bytes += bytes;
        table.make_room();
    }

    /// Removes the entry of this path.
    pub(super) fn forget(&self, path: &Path) {
        let mut table = self.table();
        if table.entries.contains_key(path.as_os_str()) {
            table.queue.retain(|other| other != path.as_os_str());
            table.remove(path.as_os_str());
        }
    }
}

impl Table {
    /// Removes entries that were not requested since their last turn in the queue, until the memory
    /// limit is met.
    fn make_room(&mut self) {
        while self.bytes > BYTES_MAX
            && let Some(path) = self.queue.pop_front()
        {
            let is_used = self.entries.get(&path);
            if is_used.is_some_and(|entry| entry.is_used.swap(false, Ordering::Relaxed)) {
                self.queue.push_back(path);
            } else {
                self.remove(&path);
            }
        }
    }

    fn remove(&mut self, path: &OsStr) {
        if let Some(entry) = self.entries.remove(path) {
            self.bytes -= entry.bytes;
        }
    }
}

/// Access to the entries for tests.
#[cfg(test)]
impl Memory {
    pub(super) fn paths(&self) -> Vec<std::path::PathBuf> {
        let table = self.table();
        assert_eq!(table.queue.len(), table.entries.len());
        table.queue.iter().map(Into::into).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;

    use bytes::Bytes;

    use super::super::stamp::Stamp;
    use super::*;

    fn known(content: usize) -> Arc<Known> {
        let file = File::open("/").unwrap();
        let mut known = Known::new(Path::new("/"), Stamp::of(&file).unwrap());
        known.content = Some(Bytes::from(vec![0; content]));
        Arc::new(known)
    }

    #[test]
    fn memory_is_bounded_and_keeps_requested_files() {
        let memory = Memory::default();
        let each = usize::try_from(CONTENT_BYTES_MAX).unwrap();
        let at = |number: usize| PathBuf::from(format!("/{number}"));
        for number in 0..1_000 {
            memory.keep(&at(number), known(each));
            assert!(memory.last(&at(0)).is_some(), "{number}");
            let table = memory.table();
            assert!(table.bytes <= BYTES_MAX);
            let taken: usize = table.entries.values().map(|entry| entry.bytes).sum();
            assert_eq!(table.bytes, taken);
        }
        let kept = memory.paths();
        assert!((100..=128).contains(&kept.len()), "{}", kept.len());
        assert!(kept.contains(&at(999)) && !kept.contains(&at(1)));
        for path in kept {
            memory.forget(&path);
        }
        assert_eq!((memory.paths().len(), memory.table().bytes), (0, 0));
    }

    #[test]
    fn a_new_entry_replaces_the_old_one() {
        let memory = Memory::default();
        let path = Path::new("/page");
        memory.keep(path, known(10));
        memory.keep(path, known(20));
        assert_eq!(memory.paths(), [path]);
        let content = memory.last(path).unwrap().content.clone();
        assert_eq!(content.unwrap().len(), 20);
        assert_eq!(memory.table().bytes, ENTRY_BYTES + 2 * 5 + 20);
    }

    #[test]
    fn a_file_is_checked_again_after_a_while() {
        let memory = Memory::with(Pace {
            look_every: Duration::ZERO,
            settled: Duration::ZERO,
        });
        let path = Path::new("/page");
        memory.keep(path, known(10));
        assert!(memory.find(path).is_none() && memory.last(path).is_some());
    }
}
