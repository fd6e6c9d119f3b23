//! Making a backup. The parts are copied into a staging folder, hashed, and encrypted into one
//! file. The file gets its final name only when it is complete and on the disk.

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

use super::config::{ACCESS_LIST, CHECKS, CLEAN_STOP, Source};
use super::error::{BackupError, io_at};
use super::folder;
use super::made::{FILE as MADE_LIST, Made};
use super::manifest::{ChannelEntry, LEDGER, Manifest, NODE, PartEntry, SETTINGS, WORDS};
use super::name::name_of;
use super::seal::Sealer;

/// The maximum size of the files directly in the data folder that a backup includes. Keys and
/// tokens have some hundred bytes, so larger files are not ours.
const SECRET_BYTES_MAX: u64 = 1024 * 1024;

/// The files directly in the data folder that a backup includes in any size. What access tokens
/// have spent may take a few megabytes. Without it, their limits would start again at zero.
const GROWING: [&str; 3] = [ACCESS_LIST, "access.spent", MADE_LIST];

/// The staging folder, in the data folder.
const STAGING: &str = "backup.new";

/// The subfolder of the staging folder for copies of the files directly in the data folder.
const OWN: &str = "own";

/// The lock file of the data folder.
const LOCK: &str = "lock";

/// A backup that was made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Created {
    /// The path of the file.
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// The length of the file.
    pub bytes: u64,
    /// When the backup was made, Unix seconds.
    pub created_secs: u64,
    /// The number of channels in it.
    pub channels: usize,
}

impl Source {
    /// Makes a backup in this folder. `running` is the open ledger of a running program. Without
    /// it, the caller must hold the lock of the data folder.
    pub fn create(
        &self,
        running: Option<&Ledger>,
        unix_secs: u64,
        into: &Path,
    ) -> Result<Created, BackupError> {
        // Without a readable list, no backup is made: a backup that is not in the list would never
        // be deleted.
        Made::adopt(&self.data_dir, &self.node_folder)?;
        Made::read(&self.data_dir)?;
        let staging = Staging::begin(&self.data_dir.join(STAGING))?;
        // The channel state is copied before the ledger, so every payment that it has acknowledged
        // is already in the ledger.
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
        // Channels that a recovery has set aside are also in the backup.
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
        // The newest name must belong to the last backup made, even if the clock was set back.
        // Keeping, sending and restoring all go by the name.
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

    /// Collects the files of a backup: the staged copies, and the small files in the data folder.
    fn parts(&self, staging: &Path) -> Result<Vec<Part>, BackupError> {
        let mut parts = Vec::new();
        for name in [NODE, LEDGER] {
            for path in files(&staging.join(name))? {
                parts.extend(Part::of(path, Some(name)));
            }
        }
        // Include every small file directly in the folder, so that future secrets are backed up,
        // too. Some of these files are replaced while the program runs. Copy each first, so that
        // the hash matches the written bytes.
        let own = staging.join(OWN);
        make_private(&own)?;
        for path in files(&self.data_dir)? {
            let meta = path.metadata().map_err(io_at("look at", &path))?;
            let is_ours = is_included(&path, meta.len())
                && path.extension().is_none_or(|ending| ending != "new")
                // This mark is created again where the backup is restored.
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

    /// Writes manifest and parts, waits until the file is on the disk, and returns its length.
    fn write(&self, manifest: &Manifest, parts: &[Part], file: &Path) -> Result<u64, BackupError> {
        let into = file.parent().unwrap_or(file);
        make_private(into)?;
        let new = file.with_extension("new");
        let written = self.write_new(manifest, parts, &new);
        if written.is_err() {
            // Most likely the disk is full, so the partial file must not take up room.
            let _ = std::fs::remove_file(&new);
        }
        let bytes = written?;
        // Record the name before the file gets it: a backup that is not in the list would never be
        // deleted.
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

/// A file to be written into a backup.
struct Part {
    name: String,
    path: PathBuf,
}

impl Part {
    /// `None` for a name that is not valid text, because Tollhouse writes no such names.
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
        // Copy exactly the counted bytes, so that a growing file does not shift the parts behind
        // it.
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

/// A private folder that is deleted when the value is dropped.
pub(super) struct Staging(pub(super) PathBuf);

impl Staging {
    /// Creates an empty folder, after deleting what a killed program left there. Fails if another
    /// process creates the folder in between.
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
        // If this fails, the next `begin` clears the folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Creates a folder that only the owner can access, unless it exists.
pub(super) fn make_private(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_at("make", path))
}

/// Creates a folder that only the owner can access. It must not exist yet, and its parent must
/// exist.
pub(super) fn make_new(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(io_at("make", path))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(io_at("sync", path))
}

/// The files directly in a folder, sorted by name.
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

/// Whether a backup includes a file of this size directly in the data folder.
fn is_included(path: &Path, bytes: u64) -> bool {
    let is_growing = GROWING.iter().any(|name| path.ends_with(name));
    let is_included = is_growing || bytes <= SECRET_BYTES_MAX;
    if !is_included {
        tracing::warn!(
            file.path = %path.display(),
            file.bytes = bytes,
            "The backup leaves out {}: it is larger than {SECRET_BYTES_MAX} bytes, so it is not a file of Tollhouse",
            path.display()
        );
    }
    is_included
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tollhouse_writes_is_included_in_any_size_and_other_large_files_are_not() {
        let included = |name: &str, bytes| is_included(&Path::new("/data").join(name), bytes);
        assert!(included("admin.token", 100));
        assert!(included("access.spent", 5_000_000));
        assert!(included("access.made", 2_000_000));
        assert!(included("backup.made", 2_000_000));
        assert!(included("a-secret-of-a-later-version", SECRET_BYTES_MAX));
        assert!(!included("video.mp4", SECRET_BYTES_MAX + 1));
    }
}
