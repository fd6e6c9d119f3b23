//! Making a backup: the parts are put together beside the originals, named, counted and encrypted into one file, which has its
//! name only when it is whole and on the disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::account::ledger::Ledger;
use crate::channel_state::copy::{self, State};
use crate::channel_state::vss::{MARK, Vss};
use crate::node::made;

use super::made::Made;
use super::manifest::{ChannelEntry, LEDGER, Manifest, NODE, PartEntry, SETTINGS, WORDS};
use super::seal::Sealer;
use super::{BackupError, CHECKS, CLEAN_STOP, Source, folder, io_at};

/// Files directly in the data folder that are larger are none of ours: keys and tokens have some hundred bytes.
const SECRET_BYTES_MAX: u64 = 1024 * 1024;

/// Where the parts are put together, in the data folder.
const STAGING: &str = "backup.new";

/// Where the files directly in the data folder are put, in there.
const OWN: &str = "own";

/// The lock of the data folder.
const LOCK: &str = "lock";

/// A backup that was made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Created {
    /// The file.
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// When it was made, Unix seconds.
    pub created_secs: u64,
    /// Channels in it.
    pub channels: usize,
}

impl Source {
    /// Makes a backup in this folder. `running` is the open ledger of a running program; without one, the caller holds the lock
    /// of the data folder.
    pub fn create(
        &self,
        running: Option<&Ledger>,
        unix_secs: u64,
        into: &Path,
    ) -> Result<Created, BackupError> {
        // Without the list none is made: one that is not known to be ours is never let go.
        Made::adopt(&self.data_dir, &self.node_folder)?;
        Made::read(&self.data_dir)?;
        let staging = Staging::begin(&self.data_dir.join(STAGING))?;
        // The channel state first: what it has acknowledged is then in the ledger for certain.
        let state_file = staging.folder(NODE)?.join(copy::FILE);
        if self.vss.is_some() && !self.node_folder.join(MARK).exists() {
            return Err(BackupError::NotOnServer(self.node_folder.clone()));
        }
        if self.vss.is_none() {
            copy::copy(&self.node_folder, &state_file)?;
        }
        let ledger_folder = staging.folder(LEDGER)?;
        match running {
            Some(ledger) => drop(ledger.copy_to(&ledger_folder)?),
            None => Ledger::copy_closed(&self.ledger, &ledger_folder)?,
        }
        let state = match self.vss {
            None => copy::read(&state_file, &self.keys)?,
            Some(_) => State::default(),
        };
        // Those of a recovery are in it, too, and set aside.
        let channels = state.channels.iter().chain(&state.set_aside);
        let parts = self.parts(&staging.0)?;
        let entries = parts.iter().map(|part| part.entry());
        let manifest = Manifest {
            created_secs: unix_secs,
            created_by: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.network.to_string(),
            node_id: self.keys.payment_keys().node_id().to_string(),
            height: state.height,
            is_clean_stop: running.is_none() && self.data_dir.join(CLEAN_STOP).exists(),
            channels_on: self.vss.as_ref().map(Vss::to_string),
            is_recovering: state.is_recovering,
            channels: channels.map(ChannelEntry::from).collect(),
            parts: entries.collect::<Result<_, _>>()?,
        };
        // The newest by name is the last one made, whatever the clock showed meanwhile: it is what is kept, sent and restored.
        let before = folder::of(into, &manifest.node_id).map_err(io_at("look into", into))?;
        let named_secs = folder::next_secs(&before, unix_secs);
        let mut mark = [0; folder::MARK_BYTES];
        getrandom::fill(&mut mark).map_err(|error| io_at("name", into)(error.into()))?;
        let file = into.join(folder::name(&manifest.node_id, named_secs, mark));
        let bytes = self.write(&manifest, &parts, &file)?;
        Ok(Created {
            file,
            bytes,
            created_secs: unix_secs,
            channels: manifest.channels.len(),
        })
    }

    /// What goes into a backup: what was put together, and the small files that nobody changes while the program runs.
    fn parts(&self, staging: &Path) -> Result<Vec<Part>, BackupError> {
        let mut parts = Vec::new();
        for name in [NODE, LEDGER] {
            for path in files(&staging.join(name))? {
                parts.extend(Part::of(path, Some(name)));
            }
        }
        // Secrets, whatever there will be: the owner's files directly in the folder. Some of them are replaced while the program
        // runs, and what is counted has to be what is written: so each is copied first.
        let own = staging.join(OWN);
        make_private(&own)?;
        for path in files(&self.data_dir)? {
            let meta = path.metadata().map_err(io_at("look at", &path))?;
            let is_ours = meta.len() <= SECRET_BYTES_MAX
                && path.extension().is_none_or(|ending| ending != "new")
                // It is made anew where the backup is restored.
                && path != made::mark(&self.node_folder)
                && ![LOCK, CLEAN_STOP, CHECKS]
                    .iter()
                    .any(|name| path.ends_with(name));
            if let Some(name) = path.file_name().filter(|_| is_ours) {
                let copy = own.join(name);
                std::fs::copy(&path, &copy).map_err(io_at("back up", &path))?;
                parts.extend(Part::of(copy, None));
            }
        }
        for name in ["deposit.address", "addresses.given", MARK] {
            let path = self.node_folder.join(name);
            if path.exists() {
                let copy = own.join(name);
                std::fs::copy(&path, &copy).map_err(io_at("back up", &path))?;
                parts.extend(Part::of(copy, Some(NODE)));
            }
        }
        parts.extend(Part::of(self.settings.clone(), Some(SETTINGS)));
        if !parts.iter().any(|part| part.name == WORDS) {
            let path = self.data_dir.join(WORDS);
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(io_at("back up", &path)(missing));
        }
        Ok(parts)
    }

    /// Writes manifest and parts, and waits until all of it is on the disk. Says how long the file is.
    fn write(&self, manifest: &Manifest, parts: &[Part], file: &Path) -> Result<u64, BackupError> {
        let into = file.parent().unwrap_or(file);
        make_private(into)?;
        let new = file.with_extension("new");
        let written = self.write_new(manifest, parts, &new);
        if written.is_err() {
            // A full disk, most likely: what is there of it only takes up room.
            let _ = std::fs::remove_file(&new);
        }
        let bytes = written?;
        // Before it has its name: one that is not known to be ours is never let go.
        Made::note(&self.data_dir, &name_of(file))?;
        std::fs::rename(&new, file).map_err(io_at("name", file))?;
        sync_folder(into)?;
        Ok(bytes)
    }

    fn write_new(
        &self,
        manifest: &Manifest,
        parts: &[Part],
        new: &Path,
    ) -> Result<u64, BackupError> {
        let failed = io_at("write", new);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(new)
            .map_err(&failed)?;
        let mut sealer =
            Sealer::begin(&self.keys.backup_key(), BufWriter::new(file)).map_err(&failed)?;
        let json = serde_json::to_vec(manifest).map_err(|error| failed(error.into()))?;
        let length =
            u32::try_from(json.len()).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        sealer
            .write_all(&length.to_be_bytes())
            .and_then(|()| sealer.write_all(&json))
            .map_err(&failed)?;
        for (part, entry) in parts.iter().zip(&manifest.parts) {
            part.copy_to(entry, &mut sealer)?;
        }
        let written = sealer.finish().and_then(|buffered| {
            let file = buffered
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            Ok(file.metadata()?.len())
        });
        written.map_err(&failed)
    }
}

/// A file on its way into a backup.
struct Part {
    name: String,
    path: PathBuf,
}

impl Part {
    /// `None` for a name that is no text: none of ours.
    fn of(path: PathBuf, folder: Option<&str>) -> Option<Self> {
        let file = path.file_name()?.to_str()?;
        let name = folder.map_or_else(|| file.to_owned(), |folder| format!("{folder}/{file}"));
        Some(Self { name, path })
    }

    fn entry(&self) -> Result<PartEntry, BackupError> {
        let mut sum = Sha256::new();
        let bytes = File::open(&self.path)
            .and_then(|mut file| io::copy(&mut file, &mut sum))
            .map_err(io_at("read", &self.path))?;
        Ok(PartEntry {
            name: self.name.clone(),
            bytes,
            sha256: hex::encode(sum.finalize()),
        })
    }

    fn copy_to(&self, entry: &PartEntry, into: &mut impl Write) -> Result<(), BackupError> {
        let failed = io_at("back up", &self.path);
        let file = File::open(&self.path).map_err(&failed)?;
        // As much as was counted: a file that grows under our eyes must not shift what follows.
        let mut counted = BufReader::new(file).take(entry.bytes);
        let copied = io::copy(&mut counted, into).map_err(&failed)?;
        if copied == entry.bytes {
            Ok(())
        } else {
            Err(failed(io::Error::other("it became shorter meanwhile")))
        }
    }
}

impl From<&copy::MonitoredChannel> for ChannelEntry {
    fn from(channel: &copy::MonitoredChannel) -> Self {
        Self {
            channel_id: hex::encode(channel.channel_id),
            counterparty: channel.counterparty.clone(),
            funding: channel.funding.to_string(),
            update_id: channel.update_id,
            balance_sat: channel.balance_sat,
        }
    }
}

/// A private folder that is gone when it is dropped.
pub(super) struct Staging(pub(super) PathBuf);

impl Staging {
    /// Makes it anew; what a killed program left of it goes. A folder that somebody else makes in between is not taken for ours.
    pub(super) fn begin(path: &Path) -> Result<Self, BackupError> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_at("clear", path)(error));
            }
            Ok(()) | Err(_) => {}
        }
        make_new(path)?;
        Ok(Self(path.to_owned()))
    }

    fn folder(&self, name: &str) -> Result<PathBuf, BackupError> {
        let path = self.0.join(name);
        make_private(&path)?;
        Ok(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is cleared by the next one.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes a folder for the owner only, if it is not there.
pub(super) fn make_private(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_at("make", path))
}

/// Makes a folder for the owner only, which must not be there yet, in one that is.
pub(super) fn make_new(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(io_at("make", path))
}

/// The name of a backup's file.
pub(super) fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(io_at("sync", path))
}

/// The files directly in a folder, in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let list = || {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    };
    list().map_err(io_at("list", path))
}
