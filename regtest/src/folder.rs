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

/// Keeps the folder of a network whose test has failed, for somebody to look at; else it is gone.
pub(crate) fn keep_if_failed(dir: Option<TempDir>) {
    if std::thread::panicking()
        && let Some(dir) = dir
    {
        eprintln!(
            "the folder of the failed run is kept: {}",
            dir.keep().display()
        );
    }
}
