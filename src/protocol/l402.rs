//! The L402 protocol, from bytes to bytes: challenge headers, credentials, tokens and their
//! caveats, and verification.
//!
//! This module knows nothing of HTTP servers, storage, the node or the time: all inputs are
//! arguments. It writes and accepts what deployed clients accept and write (lnget, the Go
//! interceptor, npm `l402`, PyPI `l402`, lightning-tools). This differs in places from the
//! specification.

mod authorization;
pub mod base64;
pub mod caveat;
pub mod challenge;
pub mod credential;
pub mod identifier;
pub mod macaroon;
pub mod root_key;
pub mod sold_as;
pub mod verify;

pub use credential::Credential;
pub use identifier::{Identifier, TokenId};
pub use root_key::{MasterKey, RootKeys};
pub use sold_as::SoldAs;
pub use verify::{Proven, Refusal, Verified, prove, signed};
