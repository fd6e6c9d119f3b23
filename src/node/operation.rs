//! The errors that every operation of the node can have.

use std::time::Duration;

use super::error::NodeUnavailable;

/// The reasons why an operation of the node failed. Nothing was changed, unless the variant says
/// otherwise.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The node is unavailable.
    #[error(transparent)]
    Unavailable(#[from] NodeUnavailable),
    /// ldk-node refused the operation without more details than its error.
    #[error("the node refused to {what}: {source}")]
    Refused {
        /// The operation.
        what: &'static str,
        /// The error of ldk-node.
        #[source]
        source: ldk_node::NodeError,
    },
    /// The operation took too long; it may still happen.
    #[error(
        "no answer within {within:?} to: {what}. It may still happen; look at the status before you try again"
    )]
    Late {
        /// The operation.
        what: &'static str,
        /// The length of the wait.
        within: Duration,
    },
    /// The node waits for its store.
    #[error(
        "the node waits for its store (its disk, or the server of node.vss), and cannot be asked to {0}: the status says what is known"
    )]
    Waits(&'static str),
    /// The operation began, but its result was neither recorded nor reported. It may still happen.
    #[error(
        "it is not known what came of this: {what}. It may still happen; look at the status before you try again"
    )]
    Unsure {
        /// The operation.
        what: &'static str,
    },
}

/// Adds the name of the operation to an error of ldk-node.
pub(super) fn refused(what: &'static str) -> impl FnOnce(ldk_node::NodeError) -> OperationError {
    move |source| {
        if source == ldk_node::NodeError::NotRunning {
            return NodeUnavailable::NotRunning.into();
        }
        OperationError::Refused { what, source }
    }
}
