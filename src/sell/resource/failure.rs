//! Why a resource did not answer.

use crate::account::ledger::Left;
use crate::sell::gate::Permit;

use super::downstream::BoxError;

/// A permitted request that was not served.
#[derive(Debug)]
pub struct Unserved {
    /// The reason for the failure.
    pub why: Failure,
    /// The rest of the grant or quota for the client's next request.
    pub left: Left,
}

impl Unserved {
    /// Builds this value after returning the use to the holder.
    pub(super) fn giving_back(permit: Permit, why: Failure) -> Self {
        let left = permit.give_back();
        Self { why, left }
    }

    /// Builds this value for a failure that the client caused, so the use counts.
    pub(super) fn counting(permit: Permit, why: Failure) -> Self {
        let left = permit.left();
        Self { why, left }
    }
}

/// The reason why a permitted request was not served. The use goes back to the holder, unless the
/// request's own body was the reason.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file does not exist or must not be served.
    #[error("there is nothing here")]
    NotFound,
    /// The URL of a folder has no final slash, so relative links in its index would break.
    #[error("the URL of a folder must end with a slash")]
    IsFolder,
    /// The method is not GET or HEAD, the only methods for files.
    #[error("a file takes GET and HEAD only")]
    MethodNotAllowed,
    /// The request's body is longer than the limit.
    #[error("the request's body is longer than {0} bytes")]
    BodyTooLarge(u64),
    /// The request's body did not arrive in time.
    #[error("the request's body took too long")]
    BodyTooSlow,
    /// The request's body ended early.
    #[error("the request's body broke off")]
    BodyBroken,
    /// The upstream did not answer.
    #[error("the upstream does not answer")]
    UpstreamUnreachable(#[source] BoxError),
    /// The upstream's answer is not HTTP, or has too many headers.
    #[error("the upstream sent an invalid response")]
    UpstreamUnreadable(#[source] BoxError),
    /// The upstream did not answer in time.
    #[error("the upstream took too long")]
    UpstreamTimeout,
    /// An existing file cannot be read.
    #[error("failed to read a file")]
    Unreadable(#[source] std::io::Error),
    /// Other answers on the same token used up the grant before this answer began.
    #[error("what was left is taken")]
    UsedUp,
}
