//! What the file of [`spending`](super) says: what each token has spent, and the payments whose end is not known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// By token id in hex.
pub(super) type Accounts = BTreeMap<String, Account>;

/// What one token has spent, and may spend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct Account {
    /// In msat.
    pub(super) spent_msat: u64,
    /// Payments whose end is not known.
    pub(super) pending: Vec<Pending>,
}

/// An account in the file: a number where nothing is pending, as programs before this one wrote it.
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
    /// What it has spent, and may have.
    pub(super) fn taken_msat(&self) -> u64 {
        let pending = self.pending.iter().map(|it| it.most_msat);
        pending.fold(self.spent_msat, u64::saturating_add)
    }
}

/// A payment whose end is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::admin) struct Pending {
    /// The reservation's number.
    pub(in crate::admin) number: u64,
    /// The payment's id, hex; of an offer it is known once it was sent.
    pub(in crate::admin) payment_id: Option<String>,
    /// What it pays, in msat.
    pub(in crate::admin) amount_msat: u64,
    /// What it may cost at most, in msat.
    pub(in crate::admin) most_msat: u64,
    /// When it was made, Unix seconds.
    pub(in crate::admin) made_secs: u64,
    /// Whether it was about to be sent. If not, it never was.
    pub(in crate::admin) is_begun: bool,
    /// Whether it may have been sent without the node's having a record of it.
    pub(in crate::admin) is_unsure: bool,
}
