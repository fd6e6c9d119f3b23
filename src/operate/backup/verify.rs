//! Looking through a backup as if it were restored, without restoring it.

use std::path::Path;

use bitcoin::Network;

use crate::account::ledger::record::Totals;
use crate::account::ledger::{self, Ledger};
use crate::base::clock::Clock;
use crate::channel_state::copy::{self, State};
use crate::keys::NodeKeys;

use super::create::Staging;
use super::manifest::{LEDGER, Manifest, NODE};
use super::open::Opened;
use super::{BackupError, folder};

/// What a backup was found to hold: all of it was read.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its table of contents.
    pub manifest: Manifest,
    /// The channel state, read from the copy.
    pub state: State,
    /// What was sold, by the books that were rebuilt from the copy.
    pub totals: Totals,
    /// When it was made, for people.
    pub created: String,
    /// How old it is, in seconds.
    pub age_secs: u64,
}

/// What a look takes on the disk for a while, in lengths of the backup: what was fetched, what is unpacked, and the books' store
/// that is built of that, which is up to three times the journal.
const ROOM_LENGTHS: u64 = 5;

/// What is left to the node and the books besides.
const ROOM_BYTES: u64 = 256 * 1024 * 1024;

/// How much room there should be on a disk on which a backup of this length is looked through.
pub fn room_wanted(bytes: u64) -> u64 {
    bytes
        .saturating_mul(ROOM_LENGTHS)
        .saturating_add(ROOM_BYTES)
}

/// Decrypts everything, checks every sum, has SQLite check the channel state, reads the monitors, and rebuilds the books. Only the
/// channel state and the books are written to the disk, into `scratch`, which is removed again: no words, no keys, no tokens.
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

/// Whether it is a backup of a node on this network.
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
