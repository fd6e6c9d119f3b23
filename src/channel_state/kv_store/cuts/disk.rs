//! What a disk may hold between two contents of the store's files.

use std::collections::BTreeMap;
use std::ops::Range;

use tempfile::TempDir;

use super::super::super::database;
use super::super::*;

/// What the store holds.
pub(super) type Table = BTreeMap<[String; 3], Vec<u8>>;

/// In front of the log. The bytes from 8 on say how large its pages are.
const HEADER: usize = 32;
/// In front of each page in it.
const FRAME_HEADER: usize = 24;
/// What a disk writes whole, or not.
const SECTOR: usize = 512;
/// A log is cut where the fields of its own header and of each frame's begin, and within the first byte of a page.
const FIELDS: [usize; 6] = [0, 4, 8, 16, 24, 25];
/// And it is cut at every so many bytes besides, 4,120 / 2,039 = 2 times a frame. SQLite makes one sum over a frame, so that one
/// place in it is like another; every byte, which is a stride of 1, takes half an hour and was tried by hand.
const STRIDE: usize = 2_039;
/// Of these cuts so many are tried at a moment, drawn by lot: some hundred moments, and 2 ms to open one.
const CUTS_MAX: u64 = 60;
/// Where the files are for a moment: in memory if there is such a folder, for all that is synced there again is not looked at.
const MEMORY: &str = "/dev/shm";

/// The files. No log is an empty one.
#[derive(Clone)]
pub(super) struct Disk {
    /// The database.
    pub(super) database: Vec<u8>,
    /// Its write-ahead log.
    pub(super) log: Vec<u8>,
    /// The log's index, which SQLite has in memory; what is left of it belongs to another log or another time.
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

    /// The log's header: another one when it was begun anew.
    pub(super) fn header(&self) -> Option<&[u8]> {
        self.log.get(..HEADER)
    }

    /// A folder that holds them. If a node was made there, its database must not be empty.
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

    /// What the program finds there, or why it does not start.
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

/// Pseudo-random, and the same in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn is_one_of(&mut self, many: u64) -> bool {
        // Knuth's MMIX; of such a generator the upper bits are the good ones.
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33).is_multiple_of(many)
    }
}

/// The pieces of so many bytes in which the one content is not the other.
fn changed(sure: &[u8], now: &[u8], bytes: usize) -> Vec<Range<usize>> {
    assert!(now.len() >= sure.len(), "no file becomes shorter");
    let pieces = (0..now.len()).step_by(bytes);
    pieces
        .map(|start| start..now.len().min(start + bytes))
        .filter(|piece| sure.get(piece.clone()) != now.get(piece.clone()))
        .collect()
}

/// The one content with pieces of the other. What lies in between and in neither is zero.
fn with(sure: &[u8], now: &[u8], pieces: &[Range<usize>]) -> Vec<u8> {
    let mut mixed = sure.to_vec();
    for piece in pieces {
        mixed.resize(mixed.len().max(piece.end), 0);
        mixed[piece.clone()].copy_from_slice(&now[piece.clone()]);
    }
    mixed
}

/// The one content up to here, and what is left of the other.
fn until(sure: &[u8], now: &[u8], at: usize) -> Vec<u8> {
    let left = sure.get(at..).unwrap_or_default();
    [&now[..at], left].concat()
}

/// Where a log is cut, in what was not synced.
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

/// What may be in the log's file.
pub(super) fn logs(sure: &[u8], now: &[u8], dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut found = vec![now.to_vec()];
    let bytes = changed(sure, now, 1);
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return found;
    };
    found.push(sure.to_vec());
    let mut sure = sure.to_vec();
    if first.start < HEADER && !sure.is_empty() {
        // Begun anew: the header is torn, or it is on the disk before the rest.
        found.extend(FIELDS.map(|at| until(&sure, now, at)));
        sure = until(&sure, now, HEADER);
    }
    let cuts = cuts(now, first.start..last.end, dice);
    for (number, at) in cuts.into_iter().enumerate() {
        let mut cut = until(&sure, now, at);
        // What was not written is as it was, or the file has grown before its bytes came, or the sector holds anything.
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

/// What may be in the database's file of pages that were moved into it.
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

/// One of them, drawn by lot: none of the pages, or some of them or of their sectors.
pub(super) fn some(sure: &[u8], now: &[u8], dice: &mut Dice) -> Vec<u8> {
    let page = usize::from(u16::from_be_bytes(now[16..18].try_into().unwrap()));
    let mut some = changed(sure, now, if dice.is_one_of(2) { page } else { SECTOR });
    let is_none = dice.is_one_of(4);
    some.retain(|_| !is_none && dice.is_one_of(2));
    let mut mixed = with(sure, now, &some);
    if dice.is_one_of(2) {
        // The file has grown already.
        mixed.resize(now.len(), 0);
    }
    mixed
}
