//! What an access token may do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::Drawing;

/// The requests that a token allows. Each scope includes those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Read everything, change nothing.
    Read,
    /// Make invoices and addresses, so that money comes in.
    Invoices,
    /// Pay within the token's limit, so that money goes out.
    Spend,
    /// Do everything.
    Admin,
}

impl Scope {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Invoices => "invoices",
            Self::Spend => "spend",
            Self::Admin => "admin",
        }
    }

    /// How the node counts addresses and invoices that a holder of this scope requests. Only those
    /// of the operator are unlimited.
    pub(super) fn drawing(self) -> Drawing {
        match self {
            Self::Admin => Drawing::ByOperator,
            Self::Read | Self::Invoices | Self::Spend => Drawing::ByOthers,
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [Self::Read, Self::Invoices, Self::Spend, Self::Admin];
        all.into_iter().find(|scope| scope.name() == name)
    }
}
