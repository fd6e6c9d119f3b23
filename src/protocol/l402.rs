//! The L402 protocol, bytes to bytes: challenge headers, credentials, tokens and their caveats, verification.
//!
//! Knows nothing of HTTP servers, storage, the node or the time: whatever it needs comes as an argument. What is written
//! and accepted is what deployed clients write and accept (lnget, the Go interceptor, npm `l402`, PyPI `l402`,
//! lightning-tools), which is not everywhere what the specification prints.

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
