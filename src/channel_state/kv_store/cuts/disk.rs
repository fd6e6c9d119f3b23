//! Contents that a disk may have between two contents of the store's files.

use std::collections::BTreeMap;
use std::ops::Range;

use tempfile::TempDir;

use super::super::super::database;
use super::super::*;

/// The content of the store.
pub(super) type Table = BTreeMap<[String; 3], Vec<u8>>;

/// The length of the log's header. Its bytes from 8 on are the page size.
const HEADER: usize = 32;
/// The length of the header of each page in the log.
const FRAME_HEADER: usize = 24;
/// The length of a sector, which is the unit of a disk's writes.
const SECTOR: usize = 512;
/// Places of cuts: where the fields of the log's header and of each page's header begin, and after
/// the first byte of a page.
const FIELDS: [usize; 6] = [0, 4, 8, 16, 24, 25];
/// The distance of further cuts: about one cut for every two pages of 24 + 1,024 bytes. SQLite has
/// one checksum per page in the log, so all places in such a page are alike. A stride of 1, which
/// cuts at every byte, takes half an hour and was tried by hand.
const STRIDE: usize = 2_039;
/// The average number of cuts that are tried at a moment, drawn at random. There are some hundred
/// moments, and opening a disk takes 2 ms.
const CUTS_MAX: u64 = 60;
/// The folder for the files of a moment. It is in memory, if it exists, because the tests do not
/// look at further syncs.
const MEMORY: &str = "/dev/shm";

/// The content of the files. If no log exists, `log` is empty.
#[derive(Clone)]
pub(super) struct Disk {
    /// The database.
    pub(super) database: Vec<u8>,
    /// The write-ahead log.
    pub(super) log: Vec<u8>,
    /// The log's index, which SQLite keeps in memory. A leftover index belongs to another log or to
    /// an earlier state.
    pub(super) index: Vec<u8>,
}

impl Disk {
    pub(super) fn of(folder: &Path) -> Self {
        let path = folder.join(SQLITE_DB_FILE_NAME);
        let read = |ending| std::fs::read(path.with_extension(ending)).unwrap_or_default();
        Self {
            log: read("sqlite-wal"),
            database: read("sqlite"),
            index: read("sqlite-shm"),
        }
    }

    /// The log's header, which changes when the log restarts.
    pub(super) fn header(&self) -> Option<&[u8]> {
        self.log.get(..HEADER)
    }

    /// Writes the files to a folder. If `is_made` is set, the folder is marked as a node's, and its
    /// database must not be empty.
    pub(super) fn put(&self, is_made: bool) -> TempDir {
        let folder = tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir());
        let folder = folder.unwrap();
        let path = folder.path().join(SQLITE_DB_FILE_NAME);
        std::fs::write(&path, &self.database).unwrap();
        if !self.log.is_empty() {
            std::fs::write(path.with_extension("sqlite-wal"), &self.log).unwrap();
            std::fs::write(path.with_extension("sqlite-shm"), &self.index).unwrap();
        }
        if is_made {
            database::note_made(folder.path()).unwrap();
        }
        folder
    }

    /// The content that the program finds, or why it does not start.
    pub(super) fn opened(&self, is_made: bool) -> Result<Table, ChannelStateError> {
        let folder = self.put(is_made);
        database::prepare(folder.path())?;
        let rows = Rows::open(folder.path(), Complaint::default())?;
        let connection = rows.0.connection.lock().unwrap();
        let integrity = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
            .unwrap();
        assert_eq!(integrity, "ok");
        let all = format!("SELECT * FROM {KV_TABLE_NAME}");
        let mut all = connection.prepare(&all).unwrap();
        let found = all.query_map([], |row| {
            Ok(([row.get(0)?, row.get(1)?, row.get(2)?], row.get(3)?))
        });
        Ok(found.unwrap().map(Result::unwrap).collect())
    }
}

/// A pseudo-random generator with the same sequence in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn is_one_of(&mut self, many: u64) -> bool {
        // The constants are those of Knuth's MMIX. Its upper bits are the good ones.
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33).is_multiple_of(many)
    }
}

/// The pieces of `bytes` bytes in which the two contents differ.
fn changed(sure: &[u8], now: &[u8], bytes: usize) -> Vec<Range<usize>> {
    assert!(now.len() >= sure.len(), "no file becomes shorter");
    let pieces = (0..now.len()).step_by(bytes);
    pieces
        .map(|start| start..now.len().min(start + bytes))
        .filter(|piece| sure.get(piece.clone()) != now.get(piece.clone()))
        .collect()
}

/// The content `sure` with these pieces of `now`. Gaps behind its end are zero.
fn with(sure: &[u8], now: &[u8], pieces: &[Range<usize>]) -> Vec<u8> {
    let mut mixed = sure.to_vec();
    for piece in pieces {
        mixed.resize(mixed.len().max(piece.end), 0);
        mixed[piece.clone()].copy_from_slice(&now[piece.clone()]);
    }
    mixed
}

/// The content `now` up to `at`, and then the rest of `sure`.
fn until(sure: &[u8], now: &[u8], at: usize) -> Vec<u8> {
    let left = sure.get(at..).unwrap_or_default();
    [&now[..at], left].concat()
}

/// The places in the unsynced part at which a log is cut.
fn cuts(log: &[u8], unsynced: Range<usize>, dice: &mut Dice) -> Vec<usize> {
    let page = u32::from_be_bytes(log[8..12].try_into().unwrap());
    let frame = FRAME_HEADER + page as usize;
    let is_cut = |at: &usize| {
        let inside = at.checked_sub(HEADER).map_or(*at, |behind| behind % frame);
        FIELDS.contains(&inside) || inside == frame - 1 || at.is_multiple_of(STRIDE)
    };
    let mut cuts: Vec<_> = unsynced.filter(is_cut).collect();
    let too_many = (cuts.len() as u64).div_ceil(CUTS_MAX);
    cuts.retain(|_| dice.is_one_of(too_many));
    cuts
}

/// All contents that the log's file may have.
pub(super) fn logs(sure: &[u8], now: &[u8], dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut found = vec![now.to_vec()];
    let bytes = changed(sure, now, 1);
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return found;
    };
    found.push(sure.to_vec());
    let mut sure = sure.to_vec();
    if first.start < HEADER && !sure.is_empty() {
        // The log was restarted: its header is torn, or is on the disk before the rest.
        found.extend(FIELDS.map(|at| until(&sure, now, at)));
        sure = until(&sure, now, HEADER);
    }
    let cuts = cuts(now, first.start..last.end, dice);
    for (number, at) in cuts.into_iter().enumerate() {
        let mut cut = until(&sure, now, at);
        // The unwritten bytes are as before, or zero because the file has grown first, or
        // arbitrary.
        match number % 3 {
            0 => {}
            1 => cut.resize(now.len(), 0),
            _ => {
                cut.resize(now.len(), 0xa5);
                let end = last.end.min(at.next_multiple_of(SECTOR));
                cut[at..end].fill(0xa5);
            }
        }
        found.push(cut);
    }
    let sectors = changed(&sure, now, SECTOR);
    for many in [2, 2, 2, 2, 8, 8, 1 + sectors.len() as u64] {
        let is_there = dice.is_one_of(2);
        let mut some = sectors.clone();
        some.retain(|_| dice.is_one_of(many) == is_there);
        found.push(with(&sure, now, &some));
    }
    found
}

/// All contents that the database's file may have while pages are moved into it.
pub(super) fn databases(sure: &[u8], now: &[u8], dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut found = vec![now.to_vec()];
    let page = usize::from(u16::from_be_bytes(now[16..18].try_into().unwrap()));
    let pages = changed(sure, now, page);
    for (number, page) in pages.iter().enumerate() {
        found.push(with(sure, now, std::slice::from_ref(page)));
        let mut others = pages.clone();
        others.remove(number);
        found.push(with(sure, now, &others));
    }
    found.extend((0..12).map(|_| some(sure, now, dice)));
    found
}

/// A random content: none of the changed pages, or some of the pages or of their sectors.
pub(super) fn some(sure: &[u8], now: &[u8], dice: &mut Dice) -> Vec<u8> {
    let page = usize::from(u16::from_be_bytes(now[16..18].try_into().unwrap()));
    let mut some = changed(sure, now, if dice.is_one_of(2) { page } else { SECTOR });
    let is_none = dice.is_one_of(4);
    some.retain(|_| !is_none && dice.is_one_of(2));
    let mut mixed = with(sure, now, &some);
    if dice.is_one_of(2) {
        // The file has already grown.
        mixed.resize(now.len(), 0);
    }
    mixed
}
