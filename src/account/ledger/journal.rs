//! The journal, beside the store: one checksummed line for each record that must not be lost.
//!
//! A sale by a stateless invoice is recorded nowhere else, neither in the node nor at the payer.
//! sled is known to be damaged by hard stops, while an append-only file can lose only its last
//! line. The ledger is rebuilt from the newest dump, which holds all records as packed lines, and
//! the journal after it.

mod line;
mod packed;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use packed::Packing;

pub(super) use line::Line;

/// The journal is folded into a dump at this length or at twice the length of the last dump,
/// if that is longer. All writes together then stay within three times the size of the kept
/// records.
const FOLD_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// The longest line that is read back. A packed line is shorter even if gzip saves nothing. Other
/// lines have about 600 bytes.
const LINE_BYTES_MAX: u64 = 128 * 1024;

/// Stands for "no dump". The random number of a dump is practically never 0.
const NO_DUMP: u64 = 0;

/// Stands for a dump whose first line is damaged. No store is marked with this number, so the dump
/// is read.
const UNKNOWN_DUMP: u64 = u64::MAX;

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    /// The folder that holds journal and dump.
    folder: PathBuf,
    /// The file that lines are appended to.
    file: File,
    /// The length of the journal.
    bytes: u64,
    /// The length at which the journal is folded.
    fold_at_bytes: u64,
    /// The number of the current dump; 0 if no dump exists.
    dump_id: u64,
}

impl Journal {
    /// Opens or creates the journal in this folder, and cuts off a torn last line.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let dump_bytes = match std::fs::metadata(dump_path(folder)) {
            Ok(dump) => dump.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(journal_path(folder))?;
        let bytes = whole_bytes(&file)?;
        // Without this cut, the next line would join the torn one and be lost with it.
        file.set_len(bytes)?;
        file.seek(io::SeekFrom::End(0))?;
        sync_folder(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            file,
            bytes,
            fold_at_bytes: fold_at(dump_bytes),
            dump_id: read_dump_id(folder)?,
        })
    }

    /// Reads every line in the order of writing. Returns the number of whole lines with a wrong
    /// checksum.
    pub(super) fn read<E: From<io::Error>>(
        &self,
        each: impl FnMut(Line) -> Result<(), E>,
    ) -> Result<u64, E> {
        read_lines(&File::open(journal_path(&self.folder))?, each)
    }

    /// Reads the newest dump, which holds everything that the store held when the journal was last
    /// emptied.
    pub(super) fn read_dump<E: From<io::Error>>(
        &self,
        each: impl FnMut(Line) -> Result<(), E>,
    ) -> Result<u64, E> {
        match File::open(dump_path(&self.folder)) {
            Ok(dump) => read_lines(&dump, each),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends lines. They are on disk only after [`Journal::sync`].
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

    /// Waits until the appended lines would survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Returns the number of the current dump; 0 if no dump exists.
    pub(super) fn dump_id(&self) -> u64 {
        self.dump_id
    }

    /// Whether the journal is long enough to be folded into a dump.
    pub(super) fn is_long(&self) -> bool {
        self.bytes >= self.fold_at_bytes
    }

    /// Copies dump and journal to another folder. Together they hold everything of the ledger that
    /// must not be lost.
    pub(super) fn copy_to(&self, folder: &Path) -> io::Result<()> {
        copy(&self.folder, folder, self.bytes)
    }

    /// Writes a new dump of everything beside the old one. A failure, such as a full disk, changes
    /// nothing, and the next try waits until the journal has grown again.
    pub(super) fn dump<E: From<io::Error>>(
        &mut self,
        everything: impl IntoIterator<Item = Result<Line, E>>,
    ) -> Result<Dump, E> {
        let path = self.folder.join("dump.new");
        let id = getrandom::u64().map_err(io::Error::from)?;
        let written = write_dump(&path, id, everything);
        if written.is_err() {
            self.fold_at_bytes = self.bytes + FOLD_BYTES_MIN;
            // The incomplete dump only takes up space.
            let _ = std::fs::remove_file(&path);
        }
        let (bytes, sales) = written?;
        Ok(Dump {
            path,
            id,
            bytes,
            sales,
        })
    }

    /// Replaces dump and journal by the new dump. If the program is killed in between, the old
    /// journal is read once more after the new dump, which changes nothing.
    pub(super) fn fold(&mut self, dump: Dump) -> io::Result<()> {
        std::fs::rename(&dump.path, dump_path(&self.folder))?;
        sync_folder(&self.folder)?;
        self.file.set_len(0)?;
        self.file.sync_all()?;
        self.bytes = 0;
        self.fold_at_bytes = fold_at(dump.bytes);
        self.dump_id = dump.id;
        Ok(())
    }
}

/// Whether this folder holds a journal or a dump.
pub(super) fn is_any(folder: &Path) -> bool {
    journal_path(folder).exists() || dump_path(folder).exists()
}

/// Copies the dump and the first `journal_bytes` bytes of the journal.
pub(super) fn copy(from: &Path, to: &Path, journal_bytes: u64) -> io::Result<()> {
    match std::fs::copy(dump_path(from), dump_path(to)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let mut whole = File::open(journal_path(from))?.take(journal_bytes);
    let mut copy = File::create(journal_path(to))?;
    io::copy(&mut whole, &mut copy)?;
    copy.sync_all()
}

/// A dump that is on disk and not in use yet.
#[derive(Debug)]
#[must_use = "take it to `Journal::fold`"]
pub(super) struct Dump {
    path: PathBuf,
    id: u64,
    bytes: u64,
    /// The number of sales in the dump.
    pub(super) sales: u64,
}

fn write_dump<E: From<io::Error>>(
    path: &Path,
    id: u64,
    everything: impl IntoIterator<Item = Result<Line, E>>,
) -> Result<(u64, u64), E> {
    let mut writer = BufWriter::new(File::create(path)?);
    write_line(&mut writer, &Line::Dump(id))?;
    let mut packing = Packing::default();
    let mut sales = 0;
    for line in everything {
        let line = line?;
        sales += u64::from(matches!(line, Line::Sale(_)));
        if let Some(packed) = packing.put(&line)? {
            write_line(&mut writer, &packed)?;
        }
    }
    if let Some(rest) = packing.take()? {
        write_line(&mut writer, &rest)?;
    }
    let dump = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    dump.sync_all()?;
    Ok((dump.metadata()?.len(), sales))
}

/// Returns the length at which the journal is folded (see [`FOLD_BYTES_MIN`]).
fn fold_at(dump_bytes: u64) -> u64 {
    FOLD_BYTES_MIN.max(2 * dump_bytes)
}

/// Returns the number in the first line of the newest dump.
fn read_dump_id(folder: &Path) -> io::Result<u64> {
    let dump = match File::open(dump_path(folder)) {
        Ok(dump) => dump,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(NO_DUMP),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    BufReader::new(dump)
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut text)?;
    let line = text.strip_suffix(b"\n").and_then(checked);
    match line.and_then(|json| serde_json::from_slice(json).ok()) {
        Some(Line::Dump(id)) => Ok(id),
        Some(
            Line::Sale(_)
            | Line::Token(_)
            | Line::Channel(_)
            | Line::Revocation(_)
            | Line::Activation(_)
            | Line::Packed(_),
        )
        | None => Ok(UNKNOWN_DUMP),
    }
}

fn journal_path(folder: &Path) -> PathBuf {
    folder.join("journal.log")
}

fn dump_path(folder: &Path) -> PathBuf {
    folder.join("dump.jsonl")
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes one line: `<crc32, 8 hex digits> <json>\n`.
fn write_line(into: &mut impl io::Write, line: &Line) -> io::Result<()> {
    let json = serde_json::to_vec(line)?;
    write!(into, "{:08x} ", crc32fast::hash(&json))?;
    into.write_all(&json)?;
    into.write_all(b"\n")
}

/// Returns the length of all whole lines. Bytes after the last line break are torn.
fn whole_bytes(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut whole, mut read) = (0, 0_u64);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(whole);
        }
        if let Some(last) = buffer.iter().rposition(|byte| *byte == b'\n') {
            whole = read + last as u64 + 1;
        }
        let len = buffer.len();
        read += len as u64;
        reader.consume(len);
    }
}

/// Reads whole lines and returns the number of damaged ones. Damage without a line break that is
/// longer than any line is read in pieces, and each piece counts as damaged.
fn read_lines<E: From<io::Error>>(
    file: &File,
    mut each: impl FnMut(Line) -> Result<(), E>,
) -> Result<u64, E> {
    let mut reader = BufReader::new(file);
    let mut damaged = 0;
    let mut text = Vec::new();
    loop {
        text.clear();
        let mut limited = (&mut reader).take(LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut text)? == 0 {
            return Ok(damaged);
        }
        match text.strip_suffix(b"\n").and_then(checked) {
            // An intact line that cannot be parsed was written by a newer program and must not be
            // skipped.
            Some(json) => {
                let line = serde_json::from_slice(json).map_err(io::Error::from)?;
                if let Line::Packed(text) = line {
                    packed::unpack(&text, &mut each)?;
                } else {
                    each(line)?;
                }
            }
            None => damaged += 1,
        }
    }
}

/// Returns the JSON of a line if its checksum is right.
fn checked(text: &[u8]) -> Option<&[u8]> {
    let (checksum, json) = text.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    (crc32fast::hash(json) == checksum).then_some(json)
}

#[cfg(test)]
mod tests;
