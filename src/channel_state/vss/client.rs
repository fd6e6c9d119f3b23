//! The client for the lease. ldk-node has a client of its own.

use std::sync::Arc;
use std::time::Duration;

use vss_client_ng::client::VssClient;
use vss_client_ng::error::VssError;
use vss_client_ng::util::retry::{
    ExponentialBackoffRetryPolicy, MaxAttemptsRetryPolicy, RetryPolicy as _,
};

use super::headers::Sent;
use super::place::Vss;

/// The key of the lease. ldk-node's own keys are obfuscated, so none of them equals this one.
pub(super) const KEY: &str = "tollhouse.lease";

/// A client that tries each request once, because the lease decides when to retry.
pub(super) type Client = VssClient<MaxAttemptsRetryPolicy<ExponentialBackoffRetryPolicy<VssError>>>;

/// A client that sends these headers.
pub(super) fn client(vss: &Vss, sent: Arc<Sent>) -> Client {
    let once = ExponentialBackoffRetryPolicy::new(Duration::ZERO).with_max_attempts(1);
    VssClient::new_with_headers(vss.url.clone(), once, sent)
}
