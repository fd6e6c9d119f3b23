//! Settings: built-in defaults, then the file, then the environment. They are read strictly and
//! turned into the `Config` of each room. Rooms below never see a settings file or an environment
//! variable.

mod backups;
mod chain;
mod circles;
mod classes;
mod complaint;
mod environment;
mod front;
mod liquidity;
mod log;
mod log_config;
mod meaning;
mod node;
mod offers;
mod origin;
mod overlap;
mod peers;
mod presets;
mod quotes;
mod raw;
mod routes;
mod secrets;
mod settings;
mod sources;
mod strict;
mod understood;
mod upstreams;
mod usual_rates;
mod variables;
mod vss;
mod web_address;
mod withdraw;

use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize as _;

use crate::base::secret_file::Secrets;

use environment::named_for;
use meaning::Meaning;
use raw::Raw;
use sources::merged;
use strict::Strict;

pub use complaint::{Complaint, Complaints};
pub use log_config::{LogConfig, LogFormat};
pub use presets::{Preset, Presets};
pub use settings::Config;
pub use understood::{Understood, understood, understood_with};

/// Reads the settings from this file and the environment of the process.
pub fn load(file: &Path) -> Result<Config, Complaints> {
    load_with(file, std::env::vars_os())
}

/// Reads the settings from this file and the given environment.
pub fn load_with(
    file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, Complaints> {
    let origin = file.display().to_string();
    let (merged, own) = merged(file, environment)?;
    let raw = Raw::deserialize(Strict::root(&merged)).map_err(|mismatch| {
        let is_variable = mismatch.origin.as_deref() == Some(origin::ENVIRONMENT);
        let key = match mismatch.key.unwrap_or_default() {
            key if is_variable && mismatch.is_table => named_for(&key, &own),
            key => key,
        };
        Complaints(vec![Complaint {
            origin: mismatch.origin.unwrap_or_else(|| origin.clone()),
            key,
            what: mismatch.what,
        }])
    })?;
    // This is the folder of the path as given, not of a link's target: the data folder must not
    // move when a link changes.
    let folder = std::path::absolute(file)
        .ok()
        .and_then(|file| file.parent().map(Path::to_owned))
        .unwrap_or_default();
    Meaning {
        merged: &merged,
        origin: &origin,
        folder: &folder,
        complaints: Vec::new(),
        warnings: Vec::new(),
        currencies: Vec::new(),
        hook_names: Vec::new(),
        secrets: Secrets::default(),
    }
    .of(&raw, file)
}
