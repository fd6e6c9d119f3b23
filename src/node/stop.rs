//! Stops ldk-node.

use std::sync::Arc;

/// Stops the node. Must run before the last handle is dropped, because dropping a running node
/// panics.
pub(super) async fn stop_node(node: &Arc<ldk_node::Node>) {
    let stopping = Arc::clone(node);
    match tokio::task::spawn_blocking(move || stopping.stop()).await {
        Ok(Ok(())) => tracing::info!("The node is stopped"),
        Ok(Err(error)) => tracing::error!("Failed to stop the node: {error}"),
        Err(error) => tracing::error!("Stopping the node panicked: {error}"),
    }
}
