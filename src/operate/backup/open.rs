//! Reading a backup: the header, the manifest, and the parts, each checked against its hash.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::keys::NodeKeys;

use super::create::{make_new, sync_folder};
use super::error::{BackupError, io_at};
use super::manifest::{Manifest, PartEntry, WORDS};
use super::seal::{FORMAT, HEADER, Opener, Unopened};

/// The maximum length of the manifest. A channel takes about 300 bytes, so this is enough for
/// 10,000 channels.
const MANIFEST_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// The maximum length of the file of seed words. 24 words have about 200 characters.
const WORDS_BYTES_MAX: u64 = 4_096;

/// The number of bytes read and written at once.
const PIECE_BYTES: usize = 64 * 1024;

/// An opened backup whose parts have not been read yet.
pub(super) struct Opened {
    pub(super) manifest: Manifest,
    path: PathBuf,
    opener: Opener<BufReader<File>>,
}

impl Opened {
    /// Opens a backup with the keys of its node.
    pub(super) fn open(path: &Path, keys: &NodeKeys) -> Result<Self, BackupError> {
        let file = File::open(path).map_err(io_at("open", path))?;
        let mut sealed = BufReader::new(file);
        let mut header = [0; HEADER];
        match sealed.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(BackupError::NoBackup(path.to_owned()));
            }
            read => read.map_err(io_at("read", path))?,
        }
        let opened = Opener::begin(&keys.backup_key(), &header, sealed);
        let mut opener = opened.map_err(|unopened| match unopened {
            Unopened::NoBackup => BackupError::NoBackup(path.to_owned()),
            Unopened::OtherKey => BackupError::OtherWords(path.to_owned()),
            Unopened::Newer(found) => BackupError::Newer {
                path: path.to_owned(),
                found,
                known: FORMAT,
            },
        })?;
        let manifest = read_manifest(&mut opener).map_err(damaged(path))?;
        let node_id = keys.payment_keys().node_id().to_string();
        if manifest.node_id != node_id {
            return Err(BackupError::OtherWords(path.to_owned()));
        }
        Ok(Self {
            manifest,
            path: path.to_owned(),
            opener,
        })
    }

    /// Reads all parts and checks each against its hash. Parts for which `place` returns a path are
    /// written into this folder and are on the disk when this returns. The other parts are only
    /// read.
    pub(super) fn unpack(
        mut self,
        into: &Path,
        keys: &NodeKeys,
        place: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Manifest, BackupError> {
        let manifest = self.manifest.clone();
        let mut words = Vec::new();
        for part in &manifest.parts {
            let is_words = part.name == WORDS;
            if !is_plain(&part.name) || (is_words && part.bytes > WORDS_BYTES_MAX) {
                return Err(self.damage(&format!("`{}` is no part of one", part.name)));
            }
            let written = match place(&part.name) {
                Some(name) => Some(Written::begin(into, &name)?),
                None => None,
            };
            self.unpack_part(part, written, is_words.then_some(&mut words))?;
        }
        // Only the end of the file proves that nothing was cut off.
        let mut rest = [0];
        let more = self.opener.read(&mut rest).map_err(damaged(&self.path))?;
        if more > 0 {
            return Err(self.damage("there is more in it than its table of contents says"));
        }
        let words = String::from_utf8_lossy(&words);
        let words = NodeKeys::parse(&words, &self.path, bitcoin::Network::Bitcoin)?;
        if words.words() != keys.words() {
            return Err(self.damage("the words in it are not those that it was made with"));
        }
        Ok(manifest)
    }

    fn unpack_part(
        &mut self,
        part: &PartEntry,
        mut written: Option<Written>,
        mut words: Option<&mut Vec<u8>>,
    ) -> Result<(), BackupError> {
        let (mut sum, mut left) = (Sha256::new(), part.bytes);
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let wanted = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let read = self
                .opener
                .read(&mut piece[..wanted])
                .map_err(damaged(&self.path))?;
            if read == 0 {
                return Err(self.damage(&format!("{} is cut short", part.name)));
            }
            sum.update(&piece[..read]);
            if let Some(written) = &mut written {
                written.add(&piece[..read])?;
            }
            if let Some(words) = &mut words {
                words.extend_from_slice(&piece[..read]);
            }
            left -= read as u64;
        }
        if hex::encode(sum.finalize()) != part.sha256 {
            return Err(self.damage(&format!("the sum of {} does not fit", part.name)));
        }
        written.map_or(Ok(()), Written::finish)
    }

    fn damage(&self, why: &str) -> BackupError {
        BackupError::Damaged {
            path: self.path.clone(),
            why: why.to_owned(),
        }
    }
}

/// Whether this name is a plain relative path, so that it stays inside the folder.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    !name.is_empty() && components.all(|component| matches!(component, Component::Normal(_)))
}

/// A part's file while it is being written.
struct Written {
    file: File,
    path: PathBuf,
}

impl Written {
    /// Creates a new file of this name, and the missing folders between `into` and the file. Does
    /// not create `into` itself: if `into` is missing, its owner has abandoned the work.
    fn begin(into: &Path, name: &Path) -> Result<Self, BackupError> {
        let mut folder = into.to_owned();
        for component in name.parent().into_iter().flat_map(Path::components) {
            folder.push(component);
            if !folder.is_dir() {
                make_new(&folder)?;
            }
        }
        let path = into.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_at("write", &path))?;
        Ok(Self { file, path })
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let written = self.file.write_all(bytes);
        written.map_err(io_at("write", &self.path))
    }

    /// Waits until the file is on the disk.
    fn finish(self) -> Result<(), BackupError> {
        self.file.sync_all().map_err(io_at("write", &self.path))?;
        sync_folder(self.path.parent().unwrap_or(&self.path))
    }
}

fn read_manifest(opener: &mut Opener<BufReader<File>>) -> io::Result<Manifest> {
    let mut length = [0; 4];
    opener.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MANIFEST_BYTES_MAX {
        return Err(io::Error::other("its table of contents is too long"));
    }
    let mut json = vec![0; length as usize];
    opener.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Keeps disk errors as they are. Any other error means that the file is damaged.
fn damaged(path: &Path) -> impl Fn(io::Error) -> BackupError + use<'_> {
    |error| {
        if error.raw_os_error().is_some() {
            return io_at("read", path)(error);
        }
        BackupError::Damaged {
            path: path.to_owned(),
            why: error.to_string(),
        }
    }
}
