//! Inbound liquidity from providers. A provider opens a channel out of the first payment over it
//! (LSPS2), or sells a channel (LSPS1). A challenge never waits for a provider: the operator starts
//! the call, or a bundle is kept ready.

pub(super) mod activation;
pub(super) mod builder;
pub(super) mod facet;
mod order;
pub(super) mod settings;
mod terms;

pub use activation::{ActivateError, Activation};
pub use facet::Liquidity;
pub use order::{Channel, LightningOption, OnchainOption, Order, OrderError, OrderStatus};
pub use settings::{Config, KeptReady, NotAProvider, Provider, Token};
pub use terms::{ProviderTerms, Terms};
