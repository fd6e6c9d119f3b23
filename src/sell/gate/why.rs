//! Why a credential does not open a request.

use crate::protocol::l402::Refusal;

/// The reason why the presented credential does not open the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The request has no credential.
    #[error("this resource is sold: pay the invoice and ask again with the token and the preimage")]
    NotPaid,
    /// The request has a credential that cannot be parsed.
    #[error("the credential cannot be read: write `Authorization: L402 <macaroon>:<preimage>`")]
    Unreadable,
    /// The credential was parsed, and the check failed.
    #[error("the credential is refused: {0}")]
    Refused(#[from] Refusal),
    /// The operator has revoked the credential.
    #[error("the credential is revoked")]
    Revoked,
    /// Everything that the payment bought has been served.
    #[error("the credential is used up")]
    UsedUp,
}
