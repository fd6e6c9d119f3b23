//! Who may use a store: one program. Its name is in the store, renewed every few seconds by versions, so that the server itself
//! refuses a second one: whoever finds another's name waits whether it is renewed, and whoever finds that it was replaced ends.
//!
//! What is left: a program that was held up for longer than a lease lasts, and goes on before it looks, writes for some seconds
//! beside its successor. Nobody but the server could keep it from that.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use vss_client_ng::client::VssClient;
use vss_client_ng::error::VssError;
use vss_client_ng::headers::FixedHeaders;
use vss_client_ng::types::{GetObjectRequest, KeyValue, PutObjectRequest};
use vss_client_ng::util::retry::{
    ExponentialBackoffRetryPolicy, MaxAttemptsRetryPolicy, RetryPolicy as _,
};

use super::Vss;
use crate::node::NodeError;

/// What it is kept under. ldk-node's own keys are obfuscated, so none of them is this.
const KEY: &str = "tollhouse.lease";

/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// How long another's lease is waited for to be renewed: three times that, so that one answer may be lost.
const LAPSES_AFTER: Duration = Duration::from_secs(30);

/// What stands in a lease that was given back.
const NOBODY: &[u8] = b"";

type Client = VssClient<MaxAttemptsRetryPolicy<ExponentialBackoffRetryPolicy<VssError>>>;

/// The right to use a store.
pub(in crate::node) struct Lease {
    client: Client,
    store_id: String,
    /// Who has it: this data folder. A second program in it is kept out by its lock.
    holder: Vec<u8>,
    /// The version that the next renewal expects.
    version: AtomicI64,
}

/// Why there is none.
#[derive(Debug)]
pub(in crate::node) enum NoLease {
    /// The server gives no good answer: worth another try.
    Away(String),
    /// Another program has it.
    Taken,
}

/// What was found in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    holder: Vec<u8>,
    version: i64,
}

impl Lease {
    /// Takes it, once it is certain that nobody else has it: at once if this folder had it last, or it was given back; otherwise
    /// after the time in which another one would have renewed it.
    pub(in crate::node) async fn take(vss: &Vss, holder: &str) -> Result<Self, NoLease> {
        let once = ExponentialBackoffRetryPolicy::new(Duration::ZERO).with_max_attempts(1);
        let headers = Arc::new(FixedHeaders::new(vss.headers.0.clone()));
        let lease = Self {
            client: VssClient::new_with_headers(vss.url.clone(), once, headers),
            store_id: vss.store_id.clone(),
            holder: holder.as_bytes().to_vec(),
            version: AtomicI64::new(0),
        };
        let found = lease.look().await?;
        if found.holder != NOBODY && found.holder != lease.holder {
            let seconds = LAPSES_AFTER.as_secs();
            tracing::warn!(
                "The store {vss} was last used by another data folder: waiting {seconds} s to see whether it still is"
            );
            sleep_until(Instant::now() + LAPSES_AFTER).await;
            if lease.look().await? != found {
                return Err(NoLease::Taken);
            }
        }
        lease.version.store(found.version, Ordering::Release);
        match lease.put(&lease.holder).await {
            Ok(()) => Ok(lease),
            Err(VssError::ConflictError(_)) => Err(NoLease::Taken),
            Err(error) => Err(NoLease::Away(error.to_string())),
        }
    }

    async fn look(&self) -> Result<Found, NoLease> {
        let asked = GetObjectRequest {
            store_id: self.store_id.clone(),
            key: KEY.to_owned(),
        };
        match self.client.get_object(&asked).await {
            Ok(found) => {
                let KeyValue { version, value, .. } = found.value.unwrap_or_default();
                Ok(Found {
                    holder: value,
                    version,
                })
            }
            Err(VssError::NoSuchKeyError(_)) => Ok(Found {
                holder: NOBODY.to_vec(),
                version: 0,
            }),
            Err(error) => Err(NoLease::Away(error.to_string())),
        }
    }

    /// Writes this holder over what was there last.
    async fn put(&self, holder: &[u8]) -> Result<(), VssError> {
        let version = self.version.load(Ordering::Acquire);
        let asked = PutObjectRequest {
            store_id: self.store_id.clone(),
            global_version: None,
            transaction_items: vec![KeyValue {
                key: KEY.to_owned(),
                version,
                value: holder.to_vec(),
            }],
            delete_items: Vec::new(),
        };
        self.client.put_object(&asked).await?;
        self.version.store(version + 1, Ordering::Release);
        Ok(())
    }

    /// Renews it until told to stop. Ends early only when somebody else has it.
    pub(in crate::node) async fn keep(&self, stop: &CancellationToken) -> Result<(), NodeError> {
        loop {
            tokio::select! {
                () = sleep_until(Instant::now() + RENEW_EVERY) => {}
                () = stop.cancelled() => return Ok(()),
            }
            match self.put(&self.holder).await {
                Err(VssError::ConflictError(_)) => {}
                // Away: what ldk-node cannot write ends the program by itself.
                Ok(()) | Err(_) => continue,
            }
            // The answer to the last renewal may have been lost.
            match self.look().await {
                Ok(found) if found.holder == self.holder => {
                    self.version.store(found.version, Ordering::Release);
                }
                Ok(_) => return Err(NodeError::StateTaken),
                Err(_) => {}
            }
        }
    }

    /// Gives it back, so that another folder need not wait.
    pub(in crate::node) async fn give_back(&self) {
        if let Err(error) = self.put(NOBODY).await {
            tracing::debug!("The lease of the store was not given back: {error}");
        }
    }
}
