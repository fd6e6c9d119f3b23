//! The records of all sales: the [`ledger`] and the [`store`] that holds it.

pub mod ledger;
pub mod store;
