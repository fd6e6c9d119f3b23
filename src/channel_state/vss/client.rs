//! The client with which the lease is kept; ldk-node has one of its own.

use std::sync::Arc;
use std::time::Duration;

use vss_client_ng::client::VssClient;
use vss_client_ng::error::VssError;
use vss_client_ng::util::retry::{
    ExponentialBackoffRetryPolicy, MaxAttemptsRetryPolicy, RetryPolicy as _,
};

use super::Vss;
use super::headers::Sent;

/// What the lease is kept under. ldk-node's own keys are obfuscated, so none of them is this.
pub(super) const KEY: &str = "tollhouse.lease";

/// Tries once: whoever keeps the lease knows when to try again.
pub(super) type Client = VssClient<MaxAttemptsRetryPolicy<ExponentialBackoffRetryPolicy<VssError>>>;

/// A client that sends these headers.
pub(super) fn client(vss: &Vss, sent: Arc<Sent>) -> Client {
    let once = ExponentialBackoffRetryPolicy::new(Duration::ZERO).with_max_attempts(1);
    VssClient::new_with_headers(vss.url.clone(), once, sent)
}
