//! The content of the [`spending`](super) file: each token's spent amount and its payments under
//! way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The accounts by token id in hex.
pub(super) type Accounts = BTreeMap<String, Account>;

/// The amount that one token has spent, and its payments under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct Account {
    /// The amount spent, in msat.
    pub(super) spent_msat: u64,
    /// Payments with an unknown outcome.
    pub(super) pending: Vec<Pending>,
}

/// An account in the file. Without pending payments it is a plain number, as older programs wrote
/// it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Spent(u64),
    Account {
        spent_msat: u64,
        pending: Vec<Pending>,
    },
}

impl From<Written> for Account {
    fn from(written: Written) -> Self {
        let (spent_msat, pending) = match written {
            Written::Spent(spent_msat) => (spent_msat, Vec::new()),
            Written::Account {
                spent_msat,
                pending,
            } => (spent_msat, pending),
        };
        Self {
            spent_msat,
            pending,
        }
    }
}

impl From<Account> for Written {
    fn from(account: Account) -> Self {
        match account.pending.is_empty() {
            true => Self::Spent(account.spent_msat),
            false => Self::Account {
                spent_msat: account.spent_msat,
                pending: account.pending,
            },
        }
    }
}

impl Account {
    /// The spent and the reserved amount together.
    pub(super) fn taken_msat(&self) -> u64 {
        let pending = self.pending.iter().map(|it| it.most_msat);
        pending.fold(self.spent_msat, u64::saturating_add)
    }
}

/// A payment with an unknown outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::operate::api) struct Pending {
    /// The reservation's number.
    pub(in crate::operate::api) number: u64,
    /// The payment's id in hex; for an offer it is known only after the payment is sent.
    pub(in crate::operate::api) payment_id: Option<String>,
    /// The amount to pay, in msat.
    pub(in crate::operate::api) amount_msat: u64,
    /// The maximum cost, in msat.
    pub(in crate::operate::api) most_msat: u64,
    /// When the reservation was made, Unix seconds.
    pub(in crate::operate::api) made_secs: u64,
    /// Whether the payment was about to be sent. If not, it was never sent.
    pub(in crate::operate::api) is_begun: bool,
    /// Whether the payment may have been sent although the node has no record of it.
    pub(in crate::operate::api) is_unsure: bool,
}
