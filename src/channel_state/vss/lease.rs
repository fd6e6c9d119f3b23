//! A lease that lets only one program use a store. It is an object in the store. Its holder renews
//! it every few seconds and names its last version, so the server itself rejects a second holder. A
//! program that finds an unreleased lease waits to see whether somebody renews it. A program that
//! finds its own lease replaced ends. Each renewal writes new random bytes, so a copy of a folder
//! or a machine cannot take another's lease for its own.
//!
//! ldk-node's client does not check for other writers. So it gets its headers only while the lease
//! is fresh, and it sends no request without them. A lease stops being fresh here before it expires
//! for others.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use vss_client_ng::error::VssError;
use vss_client_ng::types::{GetObjectRequest, KeyValue, PutObjectRequest};

use crate::base::secret_file;
use crate::channel_state::error::ChannelStateError;

use super::client::{Client, KEY, client};
use super::headers::{Current, Sent};
use super::owner::{Whose, whose};
use super::place::{Lost, Vss};
use super::trouble::Trouble;
use super::write_permit::Pass;

/// The file with the last known version of the lease. A server that shows an older version was
/// reset to an earlier state.
const NOTE: &str = "vss.version";

/// The interval between renewals.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// The interval after a failed renewal. It is shorter, because the node's writes wait for the
/// renewal.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// How long to wait for another holder to renew its lease.
const LAPSES_AFTER: Duration = Duration::from_secs(30);

/// The value of a released lease.
const NOBODY: &[u8] = b"";

/// The number of renewals between two writes of the version to the file: five minutes, to spare the
/// disk.
const NOTED_EVERY: i64 = 30;

/// The right to use a store.
pub(crate) struct Lease {
    client: Client,
    /// The headers of `client`.
    sent: Arc<Sent>,
    store_id: String,
    /// Gives the headers to ldk-node's client.
    pass: Arc<Pass>,
    note: PathBuf,
    /// The value of the next renewal, and the version that it replaces. A `std` mutex: held to copy
    /// it, never across an await.
    next: Mutex<Found>,
    /// The last renewal that the server answered. A `std` mutex: held to copy it, never across an
    /// await.
    last: Mutex<Option<Found>>,
}

/// Why the lease cannot be taken.
#[derive(Debug)]
pub(crate) enum NoLease {
    /// The server gives no good answer. A retry may help.
    Away(Trouble),
    /// A retry does not help, for this reason.
    Never(ChannelStateError),
}

/// A value and its version: as found in the store, or as the next renewal with the version that it
/// replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    value: Vec<u8>,
    version: i64,
}

/// The result of a look at a store, which changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreSeen {
    /// No node has ever used the store.
    Unused,
    /// The last holder has released the lease.
    Free,
    /// A program uses the store, or ended without releasing the lease.
    Held {
        /// The version of the lease, which each renewal raises.
        version: i64,
    },
}

/// The maximum time of a look.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// The time after a look within which a lease in use is renewed.
pub const RENEWED_WITHIN: Duration = Duration::from_secs(RENEW_EVERY.as_secs() + 2);

/// Looks at a store as its node would, with the headers of the settings. The error says why the
/// server gives no good answer.
pub async fn seen(vss: &Vss) -> Result<StoreSeen, String> {
    let (headers, sent) = (Current::of(&vss.headers), Arc::new(Sent::default()));
    sent.say(headers.named());
    let client = client(vss, sent);
    let Ok(found) = timeout(LOOK_MAX, look(&client, &vss.store_id)).await else {
        let seconds = LOOK_MAX.as_secs();
        return Err(format!(
            "the server of node.vss did not answer within {seconds} s"
        ));
    };
    let found = found.map_err(|error| Trouble::of(&error, &headers).to_string())?;
    Ok(match found {
        None => StoreSeen::Unused,
        Some(found) if found.value == NOBODY => StoreSeen::Free,
        Some(Found { version, .. }) => StoreSeen::Held { version },
    })
}

/// Reads the lease; `None` if the store has none.
async fn look(client: &Client, store_id: &str) -> Result<Option<Found>, VssError> {
    let asked = GetObjectRequest {
        store_id: store_id.to_owned(),
        key: KEY.to_owned(),
    };
    match client.get_object(&asked).await {
        Ok(found) => {
            let KeyValue { version, value, .. } = found.value.unwrap_or_default();
            Ok(Some(Found { value, version }))
        }
        Err(VssError::NoSuchKeyError(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Lease {
    /// Takes the lease once no other program can hold it. For a released lease, that is at once.
    /// Otherwise, it is after the time in which the holder would have renewed it. `is_marked` says
    /// that this folder's node has used the store before. The names in the store are derived from
    /// `seed`.
    pub(crate) async fn take(
        vss: &Vss,
        folder: &Path,
        is_marked: bool,
        seed: &[u8; 32],
        pass: &Arc<Pass>,
    ) -> Result<Self, NoLease> {
        // A lease of an earlier run of the node no longer counts.
        pass.ends();
        let sent = Arc::new(Sent::default());
        sent.say(pass.headers.named());
        let lease = Self {
            client: client(vss, Arc::clone(&sent)),
            sent,
            store_id: vss.store_id.clone(),
            pass: Arc::clone(pass),
            note: folder.join(NOTE),
            next: Mutex::default(),
            last: Mutex::default(),
        };
        let never = |error| Err(NoLease::Never(error));
        let found = lease.look().await.map_err(NoLease::Away)?;
        if found.is_none() && is_marked {
            return never(ChannelStateError::Gone);
        }
        let found = found.unwrap_or_default();
        if found.version < lease.noted() {
            return never(ChannelStateError::Gone);
        }
        let whose = whose(&lease.client, &lease.store_id, seed).await;
        match whose.map_err(|error| NoLease::Away(lease.trouble(&error)))? {
            Whose::Others => return never(ChannelStateError::OfOthers(vss.to_string())),
            Whose::Nobodys if is_marked => return never(ChannelStateError::Gone),
            Whose::Nobodys | Whose::Ours => {}
        }
        if found.value != NOBODY {
            let seconds = LAPSES_AFTER.as_secs();
            tracing::info!(
                "The store {vss} was not given back by whoever used it last: waiting {seconds} s to see whether it still is in use"
            );
            sleep_until(Instant::now() + LAPSES_AFTER).await;
            let still = lease.look().await.map_err(NoLease::Away)?;
            if still.as_ref() != Some(&found) {
                return never(ChannelStateError::Taken);
            }
        }
        let stands = lease.stands_at(found.version);
        stands.map_err(|why| NoLease::Away(Trouble::Away(why)))?;
        match lease.put().await {
            Ok(()) => Ok(lease),
            Err(VssError::ConflictError(_)) => never(ChannelStateError::Taken),
            Err(error) => Err(NoLease::Away(lease.trouble(&error))),
        }
    }

    fn trouble(&self, error: &VssError) -> Trouble {
        Trouble::of(error, &self.pass.headers)
    }

    fn next(&self) -> MutexGuard<'_, Found> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> MutexGuard<'_, Option<Found>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the next renewal: this version and new random bytes.
    fn stands_at(&self, version: i64) -> Result<(), String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| error.to_string())?;
        *self.next() = Found {
            value: random.to_vec(),
            version,
        };
        Ok(())
    }

    /// The version in the file; 0 if the file is missing or invalid.
    fn noted(&self) -> i64 {
        let noted = std::fs::read_to_string(&self.note).ok();
        noted.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    async fn look(&self) -> Result<Option<Found>, Trouble> {
        let found = look(&self.client, &self.store_id).await;
        found.map_err(|error| self.trouble(&error))
    }

    /// Writes this value if the store has its version. Until the server answers, the node writes
    /// the same value again. So it can tell its own write, if only the answer was lost, from
    /// another program's write.
    async fn write(&self, next: Found) -> Result<(), VssError> {
        let asked = PutObjectRequest {
            store_id: self.store_id.clone(),
            global_version: None,
            transaction_items: vec![KeyValue {
                key: KEY.to_owned(),
                version: next.version,
                value: next.value,
            }],
            delete_items: Vec::new(),
        };
        self.client.put_object(&asked).await.map(drop)
    }

    /// Renews the lease.
    async fn put(&self) -> Result<(), VssError> {
        let (sent, named) = (self.pass.now(), self.sent.said());
        let next = self.next().clone();
        let version = next.version + 1;
        self.write(next.clone()).await?;
        *self.last() = Some(Found { version, ..next });
        if !self.pass.knows(&named) {
            tracing::info!("The server of node.vss takes the headers that say who asks");
        }
        self.pass.renewed(sent, named);
        if version % NOTED_EVERY == 0
            && let Err(error) = secret_file::replace(&self.note, &version.to_string())
        {
            tracing::warn!("Failed to note the version of the store's lease: {error}");
        }
        self.stands_at(version).map_err(VssError::InternalError)
    }

    /// Renews the lease until `stop`. Ends earlier only if another program has taken the lease or
    /// the lease is gone.
    pub(crate) async fn keep(&self, stop: &CancellationToken) -> Result<(), Lost> {
        let mut pause = RENEW_EVERY;
        loop {
            tokio::select! {
                () = sleep_until(Instant::now() + pause) => {}
                () = self.pass.headers.changed.notified() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let Some(trouble) = self.renew().await? else {
                pause = RENEW_EVERY;
                continue;
            };
            pause = RENEW_AGAIN_AFTER;
            if self.pass.is_troubled(trouble.clone()) {
                tracing::warn!("Nothing is written to the store, because {trouble}");
            }
        }
    }

    /// Renews the lease, or returns why that is not possible now.
    async fn renew(&self) -> Result<Option<Trouble>, Lost> {
        let named = self.pass.headers.named();
        if !self.pass.knows(&named) {
            self.sent.say(named);
            // The new headers may belong to another account, whose lease may have the same version.
            // So the node checks that lease's value before it writes.
            if let Some(trouble) = self.is_own().await? {
                return Ok(Some(trouble));
            }
        }
        match self.put().await {
            Ok(()) => return Ok(None),
            Err(VssError::ConflictError(_)) => {}
            Err(error) => return Ok(Some(self.trouble(&error))),
        }
        if let Some(trouble) = self.is_own().await? {
            return Ok(Some(trouble));
        }
        Ok(self.put().await.err().map(|error| self.trouble(&error)))
    }

    /// Checks that the lease is still ours, and continues from its version. Returns why that cannot
    /// be checked now.
    async fn is_own(&self) -> Result<Option<Trouble>, Lost> {
        let found = match self.look().await {
            Ok(found) => found,
            Err(trouble) => return Ok(Some(trouble)),
        };
        let Some(found) = found else {
            self.pass.ends();
            return Err(Lost::Gone);
        };
        let next = self.next().clone();
        if found.value == next.value && found.version == next.version + 1 {
            // The answer to the previous renewal was lost.
            let stands = self.stands_at(found.version);
            *self.last() = Some(found);
            return Ok(stands.err().map(Trouble::Away));
        }
        if self.last().as_ref() == Some(&found) {
            return Ok(None);
        }
        self.pass.ends();
        Err(Lost::Taken)
    }

    /// Releases the lease, so that the next holder need not wait. The node must write nothing after
    /// this.
    pub(crate) async fn give_back(&self) {
        self.pass.ends();
        let version = self.next().version;
        let nobody = Found {
            value: NOBODY.to_vec(),
            version,
        };
        if let Err(error) = self.write(nobody).await {
            tracing::debug!("The lease of the store was not given back: {error}");
        }
    }
}
