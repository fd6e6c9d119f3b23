//! The end of ldk-node.

use std::sync::Arc;

/// Always before the last handle goes: a running node that is dropped panics.
pub(super) async fn stop_node(node: &Arc<ldk_node::Node>) {
    let stopping = Arc::clone(node);
    match tokio::task::spawn_blocking(move || stopping.stop()).await {
        Ok(Ok(())) => tracing::info!("The node is stopped"),
        Ok(Err(error)) => tracing::error!("Failed to stop the node: {error}"),
        Err(error) => tracing::error!("Stopping the node panicked: {error}"),
    }
}
