//! Verifying a backup without restoring it.

use std::path::Path;

use bitcoin::Network;

use crate::account::ledger::record::Totals;
use crate::account::ledger::{self, Ledger};
use crate::base::clock::Clock;
use crate::channel_state::copy::{self, State};
use crate::keys::NodeKeys;

use super::create::Staging;
use super::error::BackupError;
use super::folder;
use super::manifest::{LEDGER, Manifest, NODE};
use super::open::Opened;

/// The content of a verified backup.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The manifest of the backup.
    pub manifest: Manifest,
    /// The channel state, read from the copy.
    pub state: State,
    /// The sums of all sales, from the ledger that was rebuilt from the copy.
    pub totals: Totals,
    /// When the backup was made, as text for people.
    pub created: String,
    /// The age of the backup, in seconds.
    pub age_secs: u64,
}

/// The disk space that verifying a backup takes, as a multiple of its length. This covers the
/// fetched file, the unpacked parts, and the ledger's store that is built from them, which has up
/// to three times the length of the journal.
const ROOM_LENGTHS: u64 = 5;

/// The disk space that must stay free for the node and the ledger.
const ROOM_BYTES: u64 = 256 * 1024 * 1024;

/// The free disk space that verifying a backup of this length requires.
pub fn room_wanted(bytes: u64) -> u64 {
    bytes
        .saturating_mul(ROOM_LENGTHS)
        .saturating_add(ROOM_BYTES)
}

/// Decrypts everything, checks every hash, has SQLite check the channel state, reads the monitors,
/// and rebuilds the ledger. Only the channel state and the ledger are written to `scratch`, which
/// is deleted afterwards. Seed words, keys and tokens are never written.
pub fn verify(
    file: &Path,
    keys: &NodeKeys,
    network: Option<Network>,
    scratch: &Path,
    clock: &Clock,
) -> Result<Verified, BackupError> {
    let opened = Opened::open(file, keys)?;
    is_of(file, &opened.manifest, network)?;
    let staging = Staging::begin(scratch)?;
    let is_read_there = |name: &str| {
        [NODE, LEDGER]
            .iter()
            .any(|it| Path::new(name).starts_with(it))
    };
    let place = |name: &str| is_read_there(name).then(|| name.into());
    let manifest = opened.unpack(&staging.0, keys, place)?;
    let state = match manifest.channels_on {
        None => copy::read(&staging.0.join(NODE).join(copy::FILE), keys)?,
        Some(_) => State::default(),
    };
    let ledger = Ledger::open(
        &ledger::Config {
            folder: staging.0.join(LEDGER),
            challenges_max: 1,
            quotas_max: 1,
        },
        clock.clone(),
    )?;
    let totals = ledger.totals();
    ledger.close()?;
    Ok(Verified {
        created: folder::shown(manifest.created_secs),
        age_secs: clock.unix_secs().saturating_sub(manifest.created_secs),
        manifest,
        state,
        totals,
    })
}

/// Checks that the backup is of a node on this network.
pub(super) fn is_of(
    file: &Path,
    manifest: &Manifest,
    network: Option<Network>,
) -> Result<(), BackupError> {
    match network {
        Some(wanted) if wanted.to_string() != manifest.network => Err(BackupError::OtherNetwork {
            path: file.to_owned(),
            found: manifest.network.clone(),
            wanted,
        }),
        Some(_) | None => Ok(()),
    }
}
