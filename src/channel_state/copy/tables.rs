//! The tables of the database file.

use std::time::Duration;

/// The name of ldk-node's file.
pub const FILE: &str = "ldk_node_data.sqlite";

/// ldk-node's table.
pub(super) const LIVE: &str = "ldk_node_data";

/// Our table in the same file: monitors that must not be loaded yet. ldk-node does not read it.
pub(super) const ASIDE: &str = "tollhouse_set_aside";

/// The maximum wait while another connection locks the file. ldk-node's own writes take
/// milliseconds.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The version of ldk-node's schema that this program knows.
pub(super) const SCHEMA_VERSION: u32 = 2;
