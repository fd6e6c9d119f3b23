//! Lists every setting in force with its value and origin, for `tollhouse check`. Values that may
//! be secret are hidden.

use std::ffi::OsString;
use std::path::Path;

use config::{Value, ValueKind};

use super::complaint::Complaints;
use super::origin::ENVIRONMENT;
use super::sources::{BUILT_IN, merged};
use super::variables::variable_of;

/// The text shown instead of a value that may be secret.
const HIDDEN: &str = "(not shown)";

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Understood {
    /// The full key, such as `http.listen` or `route[2].price`.
    pub key: String,
    /// The value in TOML.
    pub value: String,
    /// The file, the environment variable, or `default`.
    pub origin: String,
}

/// Every setting of this file and of the process's environment, sorted by key.
pub fn understood(file: &Path) -> Result<Vec<Understood>, Complaints> {
    understood_with(file, std::env::vars_os())
}

/// Every setting of this file and of the given environment, sorted by key.
pub fn understood_with(
    file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Understood>, Complaints> {
    let (merged, _) = merged(file, environment)?;
    let mut found = Vec::new();
    collect(&merged, "", &mut found);
    Ok(found)
}

fn collect(value: &Value, key: &str, found: &mut Vec<Understood>) {
    match &value.kind {
        ValueKind::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            for (name, value) in entries {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                collect(value, &key, found);
            }
        }
        ValueKind::Array(values) if values.iter().any(is_table) => {
            for (number, value) in (1..).zip(values) {
                collect(value, &format!("{key}[{number}]"), found);
            }
        }
        ValueKind::Nil
        | ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_)
        | ValueKind::String(_)
        | ValueKind::Array(_) => {
            let origin = match value.origin() {
                None | Some(BUILT_IN) => "default".to_owned(),
                Some(ENVIRONMENT) => variable_of(key),
                Some(file) => file.to_owned(),
            };
            let is_header = key.contains("_headers.set.") && !key.ends_with(".file");
            found.push(Understood {
                key: key.to_owned(),
                value: if is_header {
                    HIDDEN.to_owned()
                } else {
                    shown(value)
                },
                origin,
            });
        }
    }
}

fn is_table(value: &Value) -> bool {
    matches!(value.kind, ValueKind::Table(_))
}

fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{:?}", without_secrets(text)),
        ValueKind::Array(values) => {
            let values: Vec<_> = values.iter().map(shown).collect();
            format!("[{}]", values.join(", "))
        }
        ValueKind::Nil
        | ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_)
        | ValueKind::Table(_) => value.to_string(),
    }
}

/// A URL without user, password and query values, which may be secrets.
fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, format!("?{HIDDEN}")),
        None => (rest, String::new()),
    };
    let host = rest.find('/').unwrap_or(rest.len());
    let rest = match rest[..host].rsplit_once('@') {
        Some((_, host_only)) => format!("{HIDDEN}@{host_only}{}", &rest[host..]),
        None => rest.to_owned(),
    };
    format!("{scheme}://{rest}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (url, shown) in [
            ("https://a.example/b", "https://a.example/b"),
            (
                "https://u:p@a.example/b@c",
                "https://(not shown)@a.example/b@c",
            ),
            ("https://a.example?key=1", "https://a.example?(not shown)"),
            ("10 sat", "10 sat"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
