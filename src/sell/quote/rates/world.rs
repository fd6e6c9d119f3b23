//! What every rate shares.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;

use super::super::ask::Asker;
use super::memory::Memory;

/// The first pause after a failure. It doubles with each failure, up to the usual refresh interval.
pub(super) const RETRY_FIRST: Duration = Duration::from_secs(2);

/// The shared resources that a refresh needs.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) asker: Asker,
    pub(super) clock: Clock,
    /// The file with the last good rates.
    pub(super) memory: Option<Arc<Memory>>,
}
