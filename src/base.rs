//! General building blocks that know nothing of payments, tokens or requests.

pub mod amount;
pub mod clock;
pub mod disk_space;
pub mod error_chain;
pub mod live;
pub mod log;
pub mod pace;
pub mod price;
pub mod secret_file;
pub mod span;
pub mod sparing;
pub mod text;
pub mod via;
