//! The records of what was sold: the [`ledger`], in its [`store`].

pub mod ledger;
pub mod store;
