//! Who may use a store: one program. Its lease is an object in the store, renewed every few seconds by versions, so that the server
//! itself refuses a second one. Whoever finds a lease that was not given back waits whether it is renewed; whoever finds that its own was
//! replaced ends. Each renewal says something that nobody else can have said, so that no copy of a folder or of a machine takes
//! another's for its own.
//!
//! ldk-node's client writes whatever is there. So it is given headers only while the lease is fresh: a request without them is not sent,
//! and a lease goes stale here before it lapses for others.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use vss_client_ng::client::VssClient;
use vss_client_ng::error::VssError;
use vss_client_ng::headers::{FixedHeaders, VssHeaderProvider, VssHeaderProviderError};
use vss_client_ng::types::{GetObjectRequest, KeyValue, PutObjectRequest};
use vss_client_ng::util::retry::{
    ExponentialBackoffRetryPolicy, MaxAttemptsRetryPolicy, RetryPolicy as _,
};

use super::{Lost, Vss};
use crate::node::NodeError;
use crate::secret_file;

/// What it is kept under. ldk-node's own keys are obfuscated, so none of them is this.
const KEY: &str = "tollhouse.lease";

/// Holds the version of the lease, as it was known last: a server that shows an older one was set back.
const NOTE: &str = "vss.version";

/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// For how long after a renewal was sent something may be sent to the store. The client waits ten seconds for an answer, so that by
/// then nothing is on its way any more when others take the lease for lapsed.
const FRESH: Duration = Duration::from_secs(18);

/// How long another's lease is waited for to be renewed.
const LAPSES_AFTER: Duration = Duration::from_secs(30);

/// What stands in a lease that was given back.
const NOBODY: &[u8] = b"";

/// How often the version is noted, in renewals: every five minutes, for a disk that does not like to be written to.
const NOTED_EVERY: i64 = 30;

type Client = VssClient<MaxAttemptsRetryPolicy<ExponentialBackoffRetryPolicy<VssError>>>;

/// The right to use a store.
pub(in crate::node) struct Lease {
    client: Client,
    store_id: String,
    /// What ldk-node's client has to have.
    pass: Arc<Pass>,
    note: PathBuf,
    /// What the next renewal writes. A std mutex: held to copy it.
    next: Mutex<Found>,
}

/// Why there is none.
#[derive(Debug)]
pub(in crate::node) enum NoLease {
    /// The server gives no good answer: worth another try.
    Away(String),
    /// There is a reason that another try does not mend.
    Never(NodeError),
}

/// What stands in the store, or is to replace what has this version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    value: Vec<u8>,
    version: i64,
}

/// Headers for requests, as long as the lease is fresh.
pub(in crate::node) struct Pass {
    headers: HashMap<String, String>,
    /// When the last renewal that was answered was sent; nothing once the lease is lost or given back.
    renewed: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pass(…)")
    }
}

impl Pass {
    fn renew(&self, sent: Option<Instant>) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = sent;
    }

    /// Whether something may be sent.
    fn is_fresh(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|sent| sent.elapsed() < FRESH)
    }
}

/// What the client wants back, as `async_trait` writes it.
type Headers<'f> = Pin<
    Box<dyn Future<Output = Result<HashMap<String, String>, VssHeaderProviderError>> + Send + 'f>,
>;

impl VssHeaderProvider for Pass {
    fn get_headers<'s, 'r, 'f>(&'s self, _request: &'r [u8]) -> Headers<'f>
    where
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        let headers = if self.is_fresh() {
            Ok(self.headers.clone())
        } else {
            let error = "the lease of the store is not renewed".to_owned();
            Err(VssHeaderProviderError::AuthorizationError { error })
        };
        Box::pin(std::future::ready(headers))
    }
}

impl Lease {
    /// Takes it, once it is certain that nobody else has it: at once if it was given back; otherwise after the time in which
    /// whoever has it would have renewed it. `is_marked` if this folder's node has used the store before.
    pub(in crate::node) async fn take(
        vss: &Vss,
        folder: &std::path::Path,
        is_marked: bool,
    ) -> Result<Self, NoLease> {
        let once = ExponentialBackoffRetryPolicy::new(Duration::ZERO).with_max_attempts(1);
        let headers = Arc::new(FixedHeaders::new(vss.headers.0.clone()));
        let lease = Self {
            client: VssClient::new_with_headers(vss.url.clone(), once, headers),
            store_id: vss.store_id.clone(),
            pass: Arc::new(Pass {
                headers: vss.headers.0.clone(),
                renewed: Mutex::default(),
            }),
            note: folder.join(NOTE),
            next: Mutex::default(),
        };
        let lost = || NoLease::Never(NodeError::StateGone);
        let found = match lease.look().await.map_err(NoLease::Away)? {
            Some(found) => found,
            None if is_marked => return Err(lost()),
            None => Found::default(),
        };
        if found.version < lease.noted() {
            return Err(lost());
        }
        if found.value != NOBODY {
            let seconds = LAPSES_AFTER.as_secs();
            tracing::info!(
                "The store {vss} was not given back by whoever used it last: waiting {seconds} s to see whether it still is in use"
            );
            sleep_until(Instant::now() + LAPSES_AFTER).await;
            let still = lease.look().await.map_err(NoLease::Away)?;
            if still.as_ref() != Some(&found) {
                return Err(NoLease::Never(NodeError::StateTaken));
            }
        }
        lease.stands_at(found.version).map_err(NoLease::Away)?;
        match lease.put().await {
            Ok(()) => Ok(lease),
            Err(VssError::ConflictError(_)) => Err(NoLease::Never(NodeError::StateTaken)),
            Err(error) => Err(NoLease::Away(error.to_string())),
        }
    }

    /// What ldk-node's client has to have.
    pub(in crate::node) fn pass(&self) -> Arc<Pass> {
        Arc::clone(&self.pass)
    }

    fn next(&self) -> MutexGuard<'_, Found> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What is there; nothing if there is none.
    async fn look(&self) -> Result<Option<Found>, String> {
        let asked = GetObjectRequest {
            store_id: self.store_id.clone(),
            key: KEY.to_owned(),
        };
        match self.client.get_object(&asked).await {
            Ok(found) => {
                let KeyValue { version, value, .. } = found.value.unwrap_or_default();
                Ok(Some(Found { value, version }))
            }
            Err(VssError::NoSuchKeyError(_)) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
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
        let sent = Instant::now();
        let next = self.next().clone();
        let version = next.version + 1;
        self.write(next).await?;
        self.pass.renew(Some(sent));
        if version % NOTED_EVERY == 0
            && let Err(error) = secret_file::replace(&self.note, &version.to_string())
        {
            tracing::warn!("Failed to note the version of the store's lease: {error}");
        }
        self.stands_at(version).map_err(VssError::InternalError)
    }

    /// Renews it until told to stop. Ends early only when it is another's, or gone.
    pub(in crate::node) async fn keep(&self, stop: &CancellationToken) -> Result<(), Lost> {
        let mut is_away = false;
        loop {
            tokio::select! {
                () = sleep_until(Instant::now() + RENEW_EVERY) => {}
                () = stop.cancelled() => return Ok(()),
            }
            let Some(why) = self.renew().await? else {
                is_away = false;
                continue;
            };
            if !is_away {
                tracing::warn!(
                    "The server of node.vss gives no good answer ({why}): nothing is written there until it does"
                );
            }
            is_away = true;
        }
    }

    /// Renews it, or says why that was not possible now.
    async fn renew(&self) -> Result<Option<String>, Lost> {
        match self.put().await {
            Ok(()) => return Ok(None),
            Err(VssError::ConflictError(_)) => {}
            Err(error) => return Ok(Some(error.to_string())),
        }
        let found = match self.look().await {
            Ok(found) => found,
            Err(why) => return Ok(Some(why)),
        };
        let next = self.next().clone();
        let is_own = found
            .as_ref()
            .is_some_and(|it| it.value == next.value && it.version == next.version + 1);
        if is_own {
            // The answer to the renewal before was lost.
            if let Err(why) = self.stands_at(next.version + 1) {
                return Ok(Some(why));
            }
            return Ok(self.put().await.err().map(|error| error.to_string()));
        }
        self.pass.renew(None);
        Err(match found {
            Some(_) => Lost::Taken,
            None => Lost::Gone,
        })
    }

    /// Gives it back, so that nobody need wait. Nothing may be written behind it.
    pub(in crate::node) async fn give_back(&self) {
        self.pass.renew(None);
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
