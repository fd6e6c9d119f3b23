//! Reading a backup: the header, the manifest, and the parts into a folder, each against its sum.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::node::NodeKeys;

use super::create::{make_private, sync_folder};
use super::manifest::{Manifest, PartEntry, WORDS};
use super::seal::{FORMAT, HEADER, Opener, Unopened};
use super::{BackupError, io_at};

/// The longest table of contents: some 300 bytes for a channel, so 10,000 channels and more.
const MANIFEST_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Read and written at once.
const PIECE_BYTES: usize = 64 * 1024;

/// An opened backup, whose parts were not read yet.
pub(super) struct Opened {
    pub(super) manifest: Manifest,
    path: PathBuf,
    opener: Opener<BufReader<File>>,
}

impl Opened {
    /// Opens a backup with the keys that it was made with.
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

    /// Writes all parts into a folder, and holds each against its sum. On return they are on the disk.
    pub(super) fn unpack(mut self, into: &Path, keys: &NodeKeys) -> Result<Manifest, BackupError> {
        let manifest = self.manifest.clone();
        for part in &manifest.parts {
            self.unpack_part(part, into)?;
        }
        // Only now it is certain that nothing was cut off.
        let mut rest = [0];
        let more = self.opener.read(&mut rest).map_err(damaged(&self.path))?;
        if more > 0 {
            return Err(self.damage("there is more in it than its table of contents says"));
        }
        let words = into.join(WORDS);
        let words = NodeKeys::read(&words, bitcoin::Network::Bitcoin)?;
        if words.words() != keys.words() {
            return Err(self.damage("the words in it are not those that it was made with"));
        }
        Ok(manifest)
    }

    fn unpack_part(&mut self, part: &PartEntry, into: &Path) -> Result<(), BackupError> {
        let name = Path::new(&part.name);
        let is_plain = name
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        if !is_plain || part.name.is_empty() {
            return Err(self.damage(&format!("`{}` is no name of a part", part.name)));
        }
        let path = into.join(name);
        let folder = path.parent().unwrap_or(into);
        make_private(folder)?;
        let failed = io_at("write", &path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(&failed)?;
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
            file.write_all(&piece[..read]).map_err(&failed)?;
            left -= read as u64;
        }
        if hex::encode(sum.finalize()) != part.sha256 {
            return Err(self.damage(&format!("the sum of {} does not fit", part.name)));
        }
        file.sync_all().map_err(&failed)?;
        sync_folder(folder)
    }

    fn damage(&self, why: &str) -> BackupError {
        BackupError::Damaged {
            path: self.path.clone(),
            why: why.to_owned(),
        }
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

/// An error of the disk stays one; the others say what was found in the file.
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
