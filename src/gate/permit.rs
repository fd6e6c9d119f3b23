//! The proof that a request may be served. Only the gate makes one; serving consumes it.

use crate::l402::TokenId;
use crate::ledger::Reservation;

/// Proof that a request may be served, used up by serving it. Dropped, its use counts as delivered.
#[derive(Debug)]
#[must_use = "a permit is given to the resource; dropped, its use counts as delivered"]
pub struct Permit {
    /// The use that was reserved for it; none for a free request.
    reservation: Option<Reservation>,
}

/// Why a permit was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The route is unguarded.
    Free,
    /// A credential was admitted.
    Paid,
}

impl Permit {
    pub(super) fn free() -> Self {
        Self { reservation: None }
    }

    pub(super) fn paid(reservation: Reservation) -> Self {
        Self {
            reservation: Some(reservation),
        }
    }

    /// Why it was given.
    pub fn reason(&self) -> Reason {
        if self.reservation.is_some() {
            Reason::Paid
        } else {
            Reason::Free
        }
    }

    /// The service that was paid for.
    pub fn service(&self) -> Option<&str> {
        self.reservation.as_ref()?.service()
    }

    /// The token that was admitted.
    pub fn token_id(&self) -> Option<TokenId> {
        self.reservation.as_ref()?.token_id().map(TokenId)
    }

    /// Returns the use to the holder: nothing was delivered, and it was not the holder's doing.
    pub fn give_back(self) {
        if let Some(reservation) = self.reservation {
            reservation.give_back();
        }
    }
}
