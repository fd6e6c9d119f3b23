//! The node's own threads. ldk-node waits for its database on them, and requests must not wait with
//! it.

use super::error::NodeError;

/// The name of the threads.
pub(super) const NAME: &str = "node";

/// One thread may wait for the disk while the other serves the peers.
const THREADS: usize = 2;

/// The node's own runtime. Dropping it does not wait for its tasks, because a runtime must not wait
/// inside another one.
pub(super) struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    pub(super) fn start() -> Result<Self, NodeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(NAME)
            .enable_all()
            .build()
            .map_err(NodeError::Runtime)?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn handle(&self) -> tokio::runtime::Handle {
        let runtime = self.0.as_ref();
        runtime
            .expect("it is taken out only when it is dropped")
            .handle()
            .clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
