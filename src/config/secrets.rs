//! The files and folders that settings name as secret. None of them is ever sold.

use std::path::{Component, Path, PathBuf};

use crate::sell::route::{Resource, Route};

use super::meaning::Meaning;
use super::raw::Raw;

/// Secret files in the data folder. They are listed in addition to the folder, so that a hard link
/// to one is also detected.
const IN_DATA_DIR: [&str; 3] = ["seed.words", "master.key", "admin.token"];

impl Meaning<'_> {
    /// Refuses a data folder that is empty or contains `..`.
    pub(super) fn data_dir_is_one(&mut self, raw: &Raw, data_dir: &Path) {
        let mut parts = data_dir.components();
        if raw.data_dir.is_empty() || parts.any(|part| part == Component::ParentDir) {
            self.complain(
                "data_dir",
                "give a folder of its own, without `..`, as in \"tollhouse-data\"",
            );
        }
    }

    /// Adds a file that this key names as secret. A relative path starts at the settings file's
    /// folder.
    pub(super) fn secret(&mut self, key: &str, file: &str) -> PathBuf {
        let path = self.folder.join(file);
        self.secrets.add(key, path.clone());
        path
    }

    /// Adds the secrets of all settings: the settings file itself, which may hold passwords, and
    /// the data folder.
    pub(super) fn own_secrets(&mut self, file: &Path, data_dir: &Path) {
        self.secrets.add("data_dir", data_dir.to_owned());
        for name in IN_DATA_DIR {
            self.secrets.add("data_dir", data_dir.join(name));
        }
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        self.secrets.add("", file);
    }

    /// Rejects routes with a folder that contains a secret or is inside a secret folder.
    pub(super) fn no_secrets_for_sale(&mut self, routes: &[Route]) {
        let secrets: Vec<_> = self
            .secrets
            .iter()
            .map(|secret| (secret.key.clone(), secret.place()))
            .collect();
        for (number, route) in (1..).zip(routes) {
            let Resource::Files { folder } = &route.resource else {
                continue;
            };
            let mut told: Vec<&Path> = Vec::new();
            for (key, place) in &secrets {
                let is_apart = !place.starts_with(folder) && !folder.starts_with(place);
                // A complaint about the data folder covers everything in it.
                if is_apart || told.iter().any(|told| place.starts_with(told)) {
                    continue;
                }
                told.push(place);
                let (folder, place) = (folder.display(), place.display());
                let what = match key.as_str() {
                    "data_dir" => format!(
                        "{folder} contains the data folder {place}, or is inside it: the seed and keys would be for sale"
                    ),
                    "" => format!(
                        "this settings file, {place}, would be for sale: move it out of {folder}"
                    ),
                    _ => format!(
                        "{place}, the secret file in {key}, would be for sale: move it out of {folder}"
                    ),
                };
                self.complain(&format!("route[{number}].files"), what);
            }
        }
    }
}
