//! What is sold: another server's answer, or a file. Cannot be called without a [`Permit`].

mod body;
mod cache;
mod files;
mod forward;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;

use crate::gate::Permit;
use crate::route::{RequestPath, Resource, Route};

/// Whatever goes wrong inside a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body in either direction, streamed.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The limits on what is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The longest request body, in bytes.
    pub body_bytes_max: u64,
    /// How long a request body may take in all.
    pub body_timeout: Duration,
    /// How long an upstream may take until its response head.
    pub upstream_timeout: Duration,
}

/// Why a permitted request was not served. The use goes back to the holder unless the request's own body was the reason.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No such file, or none that is served.
    #[error("there is nothing here")]
    NotFound,
    /// Files take GET and HEAD.
    #[error("a file takes GET and HEAD only")]
    MethodNotAllowed,
    /// The request's body is longer than the limit.
    #[error("the request's body is longer than {0} bytes")]
    BodyTooLarge(u64),
    /// The request's body did not arrive in time.
    #[error("the request's body took too long")]
    BodyTooSlow,
    /// The request's body ended before its time.
    #[error("the request's body broke off")]
    BodyBroken,
    /// The upstream did not answer.
    #[error("the upstream does not answer")]
    UpstreamUnreachable(#[source] BoxError),
    /// The upstream did not answer in time.
    #[error("the upstream took too long")]
    UpstreamTimeout,
    /// A file that is there cannot be read.
    #[error("failed to read a file")]
    Unreadable(#[source] std::io::Error),
}

/// Where a request comes from, as the upstream is told.
#[derive(Clone, Copy, Debug)]
pub struct Downstream {
    /// The client's address.
    pub client: std::net::IpAddr,
}

/// Serves what routes name.
#[derive(Debug)]
pub struct Resources {
    /// The limits.
    config: Config,
    /// Keeps connections to upstreams.
    client: forward::Client,
}

impl Resources {
    /// With these limits.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            client: forward::client(),
        }
    }

    /// The longest request body, in bytes.
    pub fn body_bytes_max(&self) -> u64 {
        self.config.body_bytes_max
    }

    /// Looks whether there is something to sell at this path: a file that is not there, or cannot be read, is said to be so
    /// before any challenge. Only an upstream knows of its own paths.
    pub async fn look(&self, route: &Route, path: &RequestPath) -> Result<(), Failure> {
        match &route.resource {
            Resource::Upstream { .. } => Ok(()),
            Resource::Files { folder } => files::find(folder, route.pattern.rest(path))
                .await
                .map(|_| ()),
        }
    }

    /// Serves the request and uses up the permit.
    pub async fn serve(
        &self,
        permit: Permit,
        route: &Route,
        path: &RequestPath,
        downstream: Downstream,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        // What is free for one client is not free for the next one, who would have it from a cache.
        let is_sold = permit.reason() != crate::gate::Reason::Free;
        let mut response = match &route.resource {
            Resource::Upstream { base, strip_prefix } => {
                let rest = if *strip_prefix {
                    route.pattern.rest(path)
                } else {
                    path.wire()
                };
                let target = forward::Target {
                    base,
                    path: rest,
                    downstream,
                };
                self.forward(permit, target, request).await?
            }
            Resource::Files { folder } => {
                files::serve(permit, folder, route.pattern.rest(path), request).await?
            }
        };
        if is_sold {
            cache::keep_private(response.headers_mut());
        }
        Ok(response)
    }
}
