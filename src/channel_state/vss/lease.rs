//! Who may use a store: one program. Its lease is an object in the store, renewed every few seconds by versions, so that the server
//! itself refuses a second one. Whoever finds a lease that was not given back waits whether it is renewed; whoever finds that its own was
//! replaced ends. Each renewal says something that nobody else can have said, so that no copy of a folder or of a machine takes
//! another's for its own.
//!
//! ldk-node's client writes whatever is there. So it is given headers only while the lease is fresh: a request without them is not sent,
//! and a lease goes stale here before it lapses for others.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use vss_client_ng::error::VssError;
use vss_client_ng::types::{GetObjectRequest, KeyValue, PutObjectRequest};

use crate::base::secret_file;
use crate::channel_state::ChannelStateError;
use crate::channel_state::vss::owner::{Whose, whose};
use crate::channel_state::vss::write_permit::Pass;

use super::client::{Client, KEY, client};
use super::headers::{Current, Sent};
use super::trouble::Trouble;
use super::{Lost, Vss};

/// Holds the version of the lease, as it was known last: a server that shows an older one was set back.
const NOTE: &str = "vss.version";

/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// The same after one that was not answered well: what waits for it waits no longer than it must.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// How long another's lease is waited for to be renewed.
const LAPSES_AFTER: Duration = Duration::from_secs(30);

/// What stands in a lease that was given back.
const NOBODY: &[u8] = b"";

/// How often the version is noted, in renewals: every five minutes, for a disk that does not like to be written to.
const NOTED_EVERY: i64 = 30;

/// The right to use a store.
pub(crate) struct Lease {
    client: Client,
    /// The headers of this client.
    sent: Arc<Sent>,
    store_id: String,
    /// What ldk-node's client has to have.
    pass: Arc<Pass>,
    note: PathBuf,
    /// What the next renewal writes. A std mutex: held to copy it.
    next: Mutex<Found>,
    /// What was written last, and answered. A std mutex: held to copy it.
    last: Mutex<Option<Found>>,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum NoLease {
    /// The server gives no good answer: worth another try.
    Away(Trouble),
    /// There is a reason that another try does not mend.
    Never(ChannelStateError),
}

/// What stands in the store, or is to replace what has this version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    value: Vec<u8>,
    version: i64,
}

/// What a look at a store has found, without having touched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreSeen {
    /// No node has ever used it.
    Unused,
    /// Whoever used it last has given it back.
    Free,
    /// Somebody uses it, or ended without giving it back.
    Held {
        /// The version of the lease, which each renewal raises.
        version: i64,
    },
}

/// How long a look waits for the server.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// How long after one look another one finds the lease renewed if it is in use.
pub const RENEWED_WITHIN: Duration = Duration::from_secs(RENEW_EVERY.as_secs() + 2);

/// Looks at a store as its node would, with the headers of the settings. Says why there is no good answer.
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

/// The lease that is there; nothing if there is none.
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
    /// Takes it, once it is certain that nobody else has it: at once if it was given back; otherwise after the time in which
    /// whoever has it would have renewed it. `is_marked` if this folder's node has used the store before; `seed` is what its names
    /// are derived from.
    pub(crate) async fn take(
        vss: &Vss,
        folder: &Path,
        is_marked: bool,
        seed: &[u8; 32],
        pass: &Arc<Pass>,
    ) -> Result<Self, NoLease> {
        // Not that of the round before, should there have been one.
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

    /// Goes on from this version, with something that nobody has said before.
    fn stands_at(&self, version: i64) -> Result<(), String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| error.to_string())?;
        *self.next() = Found {
            value: random.to_vec(),
            version,
        };
        Ok(())
    }

    /// The version that was noted last; 0 for none.
    fn noted(&self) -> i64 {
        let noted = std::fs::read_to_string(&self.note).ok();
        noted.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    async fn look(&self) -> Result<Option<Found>, Trouble> {
        let found = look(&self.client, &self.store_id).await;
        found.map_err(|error| self.trouble(&error))
    }

    /// Writes this over what has its version. Until that is answered the same is written again, so that an answer that was lost can
    /// be told from somebody else's word.
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

    /// Renews it.
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

    /// Renews it until told to stop. Ends early only when it is another's, or gone.
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

    /// Renews it, or says why that was not possible now.
    async fn renew(&self) -> Result<Option<Trouble>, Lost> {
        let named = self.pass.headers.named();
        if !self.pass.knows(&named) {
            self.sent.say(named);
            // They may be another account's, whose lease may have the same version: nothing is written before its value was seen.
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

    /// Looks whether it still is, and goes on from there; says why that cannot be seen now.
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
            // The answer to the renewal before was lost.
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

    /// Gives it back, so that nobody need wait. Nothing may be written behind it.
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
