//! One line of the journal.

use serde::{Deserialize, Serialize};

use super::super::record::{
    ActivationRecord, ChannelRecord, RevocationRecord, SaleRecord, TokenRecord,
};

/// One line of the journal or of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::account::ledger) enum Line {
    /// A sale at the time of writing. A later line for the same payment replaces it.
    Sale(SaleRecord),
    /// A token and its counts.
    Token(TokenRecord),
    /// A channel at the time of writing.
    Channel(ChannelRecord),
    /// A revocation of tokens.
    Revocation(RevocationRecord),
    /// A payment that opens a channel, at the time of writing.
    Activation(ActivationRecord),
    /// The first line of a dump: a random number that identifies the dump.
    Dump(u64),
    /// Several lines of a dump, compressed (see [`packed`]).
    Packed(String),
}
