//! The journal: one checksummed line for each thing that must not be lost, beside the store.
//!
//! Of a sale by a stateless invoice there is no second record anywhere: not in the node, not at the payer's. sled has known
//! damage after hard stops; a plain file that only ever grows at its end has none that reaches further than its last line.
//! The ledger is rebuilt from the newest dump (the same lines, of everything, packed) and the journal after it.

mod packed;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{ActivationRecord, ChannelRecord, RevocationRecord, SaleRecord, TokenRecord};

use packed::Packing;

/// A journal is folded into a dump when it has grown to this, or to twice the dump before, whichever is more: what is
/// written in all then stays within three times what is kept.
const FOLD_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// The longest line that is read back: a packed one that did not get any shorter by it. Others have some 600 bytes.
const LINE_BYTES_MAX: u64 = 128 * 1024;

/// No dump has this number by chance: what stands for none.
const NO_DUMP: u64 = 0;

/// What stands for a dump whose first line is damaged: no store holds it, so the dump is read.
const UNKNOWN_DUMP: u64 = u64::MAX;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// A sale, as it was at the time of writing; a later line for the same payment replaces it.
    Sale(SaleRecord),
    /// A token and its count.
    Token(TokenRecord),
    /// A channel, as it was at the time of writing.
    Channel(ChannelRecord),
    /// Tokens that open nothing any more.
    Revocation(RevocationRecord),
    /// A payment that opens a channel, as it was at the time of writing.
    Activation(ActivationRecord),
    /// The first line of a dump: a random number that tells it from every other one.
    Dump(u64),
    /// Lines of a dump in one, as [`packed`] has them.
    Packed(String),
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
    /// How long it may become before it is folded.
    fold_at_bytes: u64,
    /// Which dump is in force; 0 if there is none.
    dump_id: u64,
}

impl Journal {
    /// Opens or makes the journal in this folder, and cuts a torn last line off.
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
        // Without this cut the next line would be glued to the torn one and be lost with it.
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

    /// Reads every line back, in the order of writing, and says how many are damaged: whole lines whose checksum does not
    /// fit.
    pub(super) fn read<E: From<io::Error>>(
        &self,
        each: impl FnMut(Line) -> Result<(), E>,
    ) -> Result<u64, E> {
        read_lines(&File::open(journal_path(&self.folder))?, each)
    }

    /// Reads the newest dump, which holds all that stood in the store when the journal was begun.
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

    /// Which dump is in force; 0 if there is none.
    pub(super) fn dump_id(&self) -> u64 {
        self.dump_id
    }

    /// Whether it is time to fold the journal into a dump.
    pub(super) fn is_long(&self) -> bool {
        self.bytes >= self.fold_at_bytes
    }

    /// Copies dump and journal to another folder. Together they are all of the ledger that must not be lost.
    pub(super) fn copy_to(&self, folder: &Path) -> io::Result<()> {
        copy(&self.folder, folder, self.bytes)
    }

    /// Writes a dump of everything beside the old one. If that fails, a full disk for instance, nothing has changed; the
    /// next try waits until the journal has grown again.
    pub(super) fn dump<E: From<io::Error>>(
        &mut self,
        everything: impl IntoIterator<Item = Result<Line, E>>,
    ) -> Result<Dump, E> {
        let path = self.folder.join("dump.new");
        let id = getrandom::u64().map_err(io::Error::from)?;
        let written = write_dump(&path, id, everything);
        if written.is_err() {
            self.fold_at_bytes = self.bytes + FOLD_BYTES_MIN;
            // What is there of it only takes up room.
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

    /// Replaces dump and journal by the new dump. Killed in between, the old journal is read once more after the new dump,
    /// which changes nothing.
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

/// Whether there is a journal or a dump in this folder.
pub(super) fn is_any(folder: &Path) -> bool {
    journal_path(folder).exists() || dump_path(folder).exists()
}

/// Copies dump and journal of a ledger, the journal up to this many bytes.
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

/// A dump that is on the disk, and not in force yet.
#[derive(Debug)]
#[must_use = "take it to `Journal::fold`"]
pub(super) struct Dump {
    path: PathBuf,
    id: u64,
    bytes: u64,
    /// The sales in it.
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

/// See [`FOLD_BYTES_MIN`].
fn fold_at(dump_bytes: u64) -> u64 {
    FOLD_BYTES_MIN.max(2 * dump_bytes)
}

/// The number in the newest dump's first line.
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

/// `<crc32, 8 hex digits> <json>\n`
fn write_line(into: &mut impl io::Write, line: &Line) -> io::Result<()> {
    let json = serde_json::to_vec(line)?;
    write!(into, "{:08x} ", crc32fast::hash(&json))?;
    into.write_all(&json)?;
    into.write_all(b"\n")
}

/// How many bytes are whole lines; what follows the last line break is torn.
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

/// Reads whole lines, and says how many are damaged. Damage without a line break for longer than any line is read in pieces,
/// each of which counts.
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
            // Intact and not understood: written by a newer program, and nothing to pass over.
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

/// What a line holds, if its checksum fits.
fn checked(text: &[u8]) -> Option<&[u8]> {
    let (checksum, json) = text.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    (crc32fast::hash(json) == checksum).then_some(json)
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

    /// The lines of the journal, and how many are damaged.
    fn lines(journal: &Journal) -> (Vec<Line>, u64) {
        let mut lines = Vec::new();
        let damaged = journal
            .read::<io::Error>(|line| {
                lines.push(line);
                Ok(())
            })
            .unwrap();
        (lines, damaged)
    }

    #[test]
    fn lines_are_read_back_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        assert_eq!(lines(&journal), (vec![], 0));
        journal.append([&sale(1), &sale(2)]).unwrap();
        journal.sync().unwrap();
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(lines(&journal), (vec![sale(1), sale(2)], 0));
    }

    #[test]
    fn a_torn_end_is_cut_wherever_it_is_torn_and_the_next_line_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.append([&sale(1)]).unwrap();
        let one = usize::try_from(journal.bytes).unwrap();
        journal.append([&sale(2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for torn_at in one..whole.len() {
            std::fs::write(&path, &whole[..torn_at]).unwrap();
            let mut journal = Journal::open(folder.path()).unwrap();
            assert_eq!(lines(&journal), (vec![sale(1)], 0));
            journal.append([&sale(3)]).unwrap();
            let journal = Journal::open(folder.path()).unwrap();
            assert_eq!(lines(&journal), (vec![sale(1), sale(3)], 0));
        }
    }

    #[test]
    fn a_damaged_line_is_counted_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.append([&sale(1), &sale(2), &sale(3)]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(lines(&journal), (vec![sale(1), sale(3)], 1));
    }

    #[test]
    fn damage_longer_than_any_line_does_not_hide_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.append([&sale(1)]).unwrap();
        journal.file.write_all(&vec![0; 200_000]).unwrap();
        journal.file.write_all(b"\n").unwrap();
        journal.append([&sale(2)]).unwrap();
        let (read, damaged) = lines(&Journal::open(folder.path()).unwrap());
        assert_eq!(read, [sale(1), sale(2)]);
        assert!(damaged > 0);
    }

    #[test]
    fn a_fold_keeps_everything_and_empties_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.append([&sale(1), &sale(1)]).unwrap();
        let dump = journal.dump([Ok::<_, io::Error>(sale(1))]).unwrap();
        assert_eq!(dump.sales, 1);
        journal.fold(dump).unwrap();
        journal.append([&sale(2)]).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let mut dumped = Vec::new();
        let read = journal.read_dump::<io::Error>(|line| {
            dumped.push(line);
            Ok(())
        });
        let id = Line::Dump(journal.dump_id());
        assert_eq!((read.unwrap(), dumped), (0, vec![id, sale(1)]));
        assert_eq!(lines(&journal).0, [sale(2)]);
        assert!(!journal.is_long());
    }

    /// The lines of the dump, without its number.
    fn dumped(journal: &Journal) -> (Vec<Line>, u64) {
        let mut dumped = Vec::new();
        let damaged = journal.read_dump::<io::Error>(|line| {
            dumped.push(line);
            Ok(())
        });
        let damaged = damaged.unwrap();
        dumped.retain(|line| !matches!(line, Line::Dump(_)));
        (dumped, damaged)
    }

    #[test]
    fn a_dump_takes_a_third_of_the_room_and_damage_costs_one_pack() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        let sales: Vec<Line> = (0..=255).map(sale).collect();
        let mut plain = Vec::new();
        for line in &sales {
            write_line(&mut plain, line).unwrap();
        }
        let dump = journal.dump(sales.iter().cloned().map(Ok::<_, io::Error>));
        journal.fold(dump.unwrap()).unwrap();
        assert_eq!(dumped(&journal), (sales.clone(), 0));
        let path = dump_path(folder.path());
        let packed = std::fs::read(&path).unwrap();
        assert!(packed.len() < plain.len() / 3, "{} bytes", packed.len());

        let mut damaged = packed.clone();
        let last = damaged.len() - 100;
        damaged[last] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let (left, count) = dumped(&journal);
        assert_eq!(count, 1);
        assert!(!left.is_empty() && left.len() < sales.len());
        assert_eq!(left, sales[..left.len()]);
    }

    #[test]
    fn a_dump_that_an_older_program_wrote_line_by_line_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut plain = Vec::new();
        for line in [Line::Dump(7), sale(1), sale(2)] {
            write_line(&mut plain, &line).unwrap();
        }
        std::fs::write(dump_path(folder.path()), plain).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.dump_id(), 7);
        assert_eq!(dumped(&journal), (vec![sale(1), sale(2)], 0));
    }

    #[test]
    fn a_dump_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.append([&sale(1)]).unwrap();
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        assert!(journal.dump([Ok(sale(1)), full()]).is_err());
        assert!(!folder.path().join("dump.new").exists());
        assert_eq!(lines(&journal).0, [sale(1)]);
        assert!(!journal.is_long());
    }
}
