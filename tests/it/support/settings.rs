//! Settings in a folder of their own.

use std::ffi::OsString;
use std::path::PathBuf;

use tempfile::TempDir;
use tollhouse::config::{Complaint, Config, load_with};

/// A folder with a settings file and something to sell.
pub(crate) struct Settings {
    pub(crate) dir: TempDir,
}

impl Settings {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["articles", "other"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("plain.txt"), "no folder").unwrap();
        Self { dir }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("settings.toml")
    }

    pub(crate) fn load(
        &self,
        text: &str,
        environment: &[(&str, &str)],
    ) -> Result<Config, Vec<Complaint>> {
        std::fs::write(self.file(), text).unwrap();
        let pairs = environment.iter();
        let environment = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        load_with(&self.file(), environment).map_err(|complaints| complaints.0)
    }
}

/// The least that can be started.
pub(crate) const CHAIN: &str = "[node.chain]\nesplora = \"http://127.0.0.1:3002\"\n";
