//! The journal: one checksummed line for each thing that must not be lost, beside the store.
//!
//! Of a sale by a stateless invoice there is no second record anywhere: not in the node, not at the payer's. sled has known
//! damage after hard stops; a plain file that only ever grows at its end has none that reaches further than its last line.
//! The ledger is rebuilt from the newest dump (the same lines, of everything) and the journal after it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{ClosureRecord, SaleRecord, TokenRecord};

/// A journal is folded into a dump when it has grown to this, or to twice the dump before, whichever is more: what is
/// written in all then stays within three times what is kept.
const FOLD_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// The longest line that is read back; ours have some 600 bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// A sale, as it was at the time of writing; a later line for the same payment replaces it.
    Sale(SaleRecord),
    /// A token and its count.
    Token(TokenRecord),
    /// A channel that is no more.
    Closure(ClosureRecord),
}

/// What was read back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    /// The lines, in the order of writing.
    pub(super) lines: Vec<Line>,
    /// Whole lines whose checksum does not fit: damage, not a torn end.
    pub(super) damaged: usize,
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    /// The folder of journal and dump.
    folder: PathBuf,
    /// Where lines are appended.
    file: File,
    /// How long the journal is.
    bytes: u64,
    /// How long the dump was.
    dump_bytes: u64,
}

impl Journal {
    /// Opens or makes the journal in this folder, cuts a torn last line off, and reads it back.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Replay)> {
        let mut replay = Replay::default();
        let dump_bytes = match std::fs::metadata(dump_path(folder)) {
            Ok(dump) => dump.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let path = folder.join("journal.log");
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        let bytes = read_lines(&file, &mut replay)?;
        // Without this cut the next line would be glued to the torn one and be lost with it.
        file.set_len(bytes)?;
        file.seek(io::SeekFrom::End(0))?;
        sync_folder(folder)?;
        Ok((
            Self {
                folder: folder.to_owned(),
                file,
                bytes,
                dump_bytes,
            },
            replay,
        ))
    }

    /// Reads the newest dump, which holds all that stood in the store when the journal was begun.
    pub(super) fn read_dump(&self) -> io::Result<Replay> {
        let mut replay = Replay::default();
        match File::open(dump_path(&self.folder)) {
            Ok(dump) => read_lines(&dump, &mut replay).map(|_| replay),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(replay),
            Err(error) => Err(error),
        }
    }

    /// Appends lines; they are on the disk only after [`Journal::sync`].
    pub(super) fn append<'a>(
        &mut self,
        lines: impl IntoIterator<Item = &'a Line>,
    ) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            write_line(&mut text, line)?;
        }
        self.file.write_all(&text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Waits until what was appended would survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether it is time to fold the journal into a dump.
    pub(super) fn is_long(&self) -> bool {
        self.bytes >= FOLD_BYTES_MIN.max(2 * self.dump_bytes)
    }

    /// Replaces dump and journal by a dump of everything. Killed in between, the old journal is read once more after the
    /// new dump, which changes nothing.
    pub(super) fn fold<E: From<io::Error>>(
        &mut self,
        everything: impl IntoIterator<Item = Result<Line, E>>,
    ) -> Result<(), E> {
        let new = self.folder.join("dump.new");
        let mut writer = BufWriter::new(File::create(&new)?);
        for line in everything {
            write_line(&mut writer, &line?)?;
        }
        let dump = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        dump.sync_all()?;
        std::fs::rename(&new, dump_path(&self.folder))?;
        sync_folder(&self.folder)?;
        self.dump_bytes = dump.metadata()?.len();
        self.file.set_len(0)?;
        self.file.sync_all()?;
        self.bytes = 0;
        Ok(())
    }
}

fn dump_path(folder: &Path) -> PathBuf {
    folder.join("dump.jsonl")
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// `<crc32, 8 hex digits> <json>\n`
fn write_line(into: &mut impl io::Write, line: &Line) -> io::Result<()> {
    let json = serde_json::to_vec(line)?;
    write!(into, "{:08x} ", crc32fast::hash(&json))?;
    into.write_all(&json)?;
    into.write_all(b"\n")
}

/// Reads lines to the end and says how many bytes are whole lines; what follows the last line break is torn.
fn read_lines(file: &File, replay: &mut Replay) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let mut whole_bytes = 0;
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = reader.read_until(b'\n', &mut text)?;
        if text.pop() != Some(b'\n') {
            return Ok(whole_bytes);
        }
        whole_bytes += read as u64;
        match parse_line(&text) {
            Some(line) => replay.lines.push(line),
            None => replay.damaged += 1,
        }
    }
}

fn parse_line(text: &[u8]) -> Option<Line> {
    if text.len() > LINE_BYTES_MAX {
        return None;
    }
    let (checksum, json) = text.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    if crc32fast::hash(json) != checksum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sale(number: u8) -> Line {
        Line::Sale(SaleRecord {
            payment_hash: [number; 32],
            amount_msat: 1_000,
            ..SaleRecord::default()
        })
    }

    #[test]
    fn lines_are_read_back_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, replay) = Journal::open(folder.path()).unwrap();
        assert_eq!(replay, Replay::default());
        journal.append([&sale(1), &sale(2)]).unwrap();
        journal.sync().unwrap();
        drop(journal);
        let (_, replay) = Journal::open(folder.path()).unwrap();
        assert_eq!(replay.lines, [sale(1), sale(2)]);
    }

    #[test]
    fn a_torn_end_is_cut_wherever_it_is_torn_and_the_next_line_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        journal.append([&sale(1)]).unwrap();
        let one = journal.bytes;
        journal.append([&sale(2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for torn_at in one..whole.len() as u64 {
            std::fs::write(&path, &whole[..torn_at as usize]).unwrap();
            let (mut journal, replay) = Journal::open(folder.path()).unwrap();
            assert_eq!(
                replay,
                Replay {
                    lines: vec![sale(1)],
                    damaged: 0
                }
            );
            journal.append([&sale(3)]).unwrap();
            let (_, replay) = Journal::open(folder.path()).unwrap();
            assert_eq!(replay.lines, [sale(1), sale(3)]);
        }
    }

    #[test]
    fn a_damaged_line_is_counted_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        journal.append([&sale(1), &sale(2), &sale(3)]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (_, replay) = Journal::open(folder.path()).unwrap();
        assert_eq!(
            replay,
            Replay {
                lines: vec![sale(1), sale(3)],
                damaged: 1
            }
        );
    }

    #[test]
    fn a_fold_keeps_everything_and_empties_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        journal.append([&sale(1), &sale(1)]).unwrap();
        journal.fold([Ok::<_, io::Error>(sale(1))]).unwrap();
        journal.append([&sale(2)]).unwrap();
        let (journal, replay) = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.read_dump().unwrap().lines, [sale(1)]);
        assert_eq!(replay.lines, [sale(2)]);
        assert!(!journal.is_long());
    }
}
