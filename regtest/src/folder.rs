//! Temporary folders of a run.

use anyhow::{Context, Result};
use tempfile::TempDir;

/// How the names of the folders begin, so that one left behind by a kill can be told.
const PREFIX: &str = "tollhouse-regtest-";

/// A new folder that is removed when the value is dropped.
///
/// # Errors
/// When the system's temporary folder cannot be written.
pub fn temporary() -> Result<TempDir> {
    TempDir::with_prefix(PREFIX).context("failed to make a temporary folder")
}
