//! A payment that arrived, and how it was booked.

use super::record::SaleRecord;

/// A payment that the node received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The payment hash.
    pub payment_hash: [u8; 32],
    /// The amount that arrived, in msat.
    pub amount_msat: u64,
}

/// The meaning of a received payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// A new sale, now on disk.
    New(SaleRecord),
    /// A sale that is already recorded: the node repeated the event.
    Known,
    /// Another payment of an invoice that was already paid.
    Surplus(SaleRecord),
}
