//! Why no bundle is laid ready.

use crate::node::liquidity::ActivateError;
use crate::sell::route::NotABundle;

/// Why a bundle was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The name matches no route and no guarded service.
    #[error(
        "nothing is sold on `{0}`: give the path of a route as it stands in the settings, or the service of a guard"
    )]
    NotSold(String),
    /// The grant cannot be sold in a bundle.
    #[error("on `{name}`: {why}")]
    NotABundle {
        /// The name of the route or guarded service.
        name: String,
        /// The reason.
        why: NotABundle,
    },
    /// The invoice could not be made.
    #[error(transparent)]
    Activate(#[from] ActivateError),
}
