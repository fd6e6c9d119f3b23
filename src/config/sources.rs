//! The sources of the settings and the order in which they apply.

use std::ffi::OsString;
use std::path::Path;

use config::{Environment, File, FileFormat};

use super::complaint::{Complaint, Complaints};
use super::environment::own_variables;
use super::variables::PREFIX;

/// The default settings, in a file with comments for operators.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The origin of a built-in value.
pub(super) const BUILT_IN: &str = "the built-in defaults";

/// Merges built-in defaults, file and environment; later ones win. Also returns the variables.
pub(super) fn merged(
    file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(config::Value, config::Map<String, String>), Complaints> {
    let own = own_variables(environment)?;
    let origin = file.display().to_string();
    let whole = |what: String| {
        Complaints(vec![Complaint {
            origin: origin.clone(),
            key: String::new(),
            what,
        }])
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| whole(format!("failed to read the settings: {error}")))?;
    // Parses the text here, because the crate would guess the format from the file's extension.
    let parsed = toml_value(&text, &origin).map_err(&whole)?;
    let merged = config::Config::builder()
        .add_source(toml_value(DEFAULTS, BUILT_IN).map_err(&whole)?)
        .add_source(parsed)
        .add_source(
            Environment::with_prefix(PREFIX)
                .prefix_separator("__")
                .separator("__")
                .source(Some(own.clone())),
        )
        .build()
        .map_err(|error| whole(error.to_string()))?;
    Ok((merged.cache, own))
}

/// Parses TOML and records the origin of each value. Complaints never quote the content: a file
/// named by mistake may hold a seed or a token.
pub(super) fn toml_value(text: &str, origin: &str) -> Result<Named, String> {
    if let Err(error) = text.parse::<toml::Table>() {
        return Err(unread(text, &error));
    }
    let parsed = config::Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .build();
    let parsed = parsed.map_err(|_| "this is TOML that cannot be read as settings".to_owned())?;
    Ok(Named {
        value: renamed(parsed.cache, origin),
        origin: origin.to_owned(),
    })
}

/// The place of a TOML error and what was expected. In a file without any setting only the line is
/// given, because a column could reveal the length of a seed word.
pub(super) fn unread(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    if !text.contains('=') {
        return format!(
            "line {line}: there is not one `key = value` in this file: is it the right one?"
        );
    }
    let column = before
        .chars()
        .rev()
        .take_while(|char| *char != '\n')
        .count()
        + 1;
    format!("line {line}, column {column}: {}", error.message())
}

/// Sets the origin of this value and all values inside it: the crate sets none for text.
pub(super) fn renamed(value: config::Value, origin: &str) -> config::Value {
    let named = Some(origin.to_owned());
    if let config::ValueKind::Table(table) = value.kind {
        let table = table.into_iter();
        let table: config::Map<_, _> = table
            .map(|(key, value)| (key, renamed(value, origin)))
            .collect();
        return config::Value::new(named.as_ref(), table);
    }
    if let config::ValueKind::Array(values) = value.kind {
        let values = values.into_iter();
        let values: Vec<_> = values.map(|value| renamed(value, origin)).collect();
        return config::Value::new(named.as_ref(), values);
    }
    config::Value::new(named.as_ref(), value.kind)
}

/// A source of settings whose values know their origin.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) value: config::Value,
    pub(super) origin: String,
}

impl config::Source for Named {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        let config::ValueKind::Table(table) = &self.value.kind else {
            let what = format!("{} is no table", self.origin);
            return Err(config::ConfigError::Message(what));
        };
        Ok(table.clone())
    }
}
