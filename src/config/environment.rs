//! Settings in the environment: finds the program's variables and refuses values that are surely
//! mistakes.

use std::ffi::OsString;

use super::complaint::{Complaint, Complaints};
use super::origin::ENVIRONMENT;
use super::variables::{PREFIX, SEPARATOR, variable_of};

/// Quotes that a shell or an env file should have removed.
const QUOTES: [(char, char); 5] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('\u{201c}', '\u{201d}'),
    ('\u{2018}', '\u{2019}'),
];

/// The program's variables. A misspelt one is an error.
pub(super) fn own_variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<config::Map<String, String>, Complaints> {
    let mut own = config::Map::new();
    let mut complaints = Vec::new();
    for (name, value) in environment {
        let name = name.to_string_lossy().into_owned();
        let is_ours = name
            .split_at_checked(PREFIX.len())
            .is_some_and(|(prefix, rest)| {
                prefix.eq_ignore_ascii_case(PREFIX) && rest.starts_with('_')
            });
        if !is_ours || is_of_a_service(&name, &value.to_string_lossy()) {
            continue;
        }
        match setting(&name, value) {
            Ok(value) => drop(own.insert(name, value)),
            Err(what) => complaints.push(Complaint {
                origin: ENVIRONMENT.to_owned(),
                key: name,
                what: what.to_owned(),
            }),
        }
    }
    if complaints.is_empty() {
        Ok(own)
    } else {
        Err(Complaints(complaints))
    }
}

/// The value of one variable, or the reason why it is refused.
fn setting(name: &str, value: OsString) -> Result<String, &'static str> {
    let value = value.into_string().map_err(|_| "the value is not UTF-8")?;
    if name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err("write the variable in capitals, such as TOLLHOUSE__HTTP__LISTEN");
    }
    if !name[PREFIX.len()..].starts_with(SEPARATOR) {
        return Err(
            "unknown setting: write two underscores between the parts, such as TOLLHOUSE__HTTP__LISTEN",
        );
    }
    if value.contains(char::is_control) {
        return Err("the value contains a control character, such as a line break");
    }
    let is_blank = |char: char| char.is_whitespace() || char == '\u{feff}';
    if value.starts_with(is_blank) || value.ends_with(is_blank) {
        return Err("the value begins or ends with white space (a blank)");
    }
    let is_quoted = |(first, last): (char, char)| {
        let inner = value.strip_prefix(first);
        inner.is_some_and(|inner| inner.ends_with(last))
    };
    if QUOTES.into_iter().any(is_quoted) {
        return Err("the value is quoted, and the quotes would be part of it: remove them");
    }
    Ok(value)
}

/// Whether Kubernetes set this variable. It adds host and port variables for each Service in the
/// namespace, and those of a Service called `tollhouse` begin with the same prefix.
fn is_of_a_service(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    if rest.starts_with(SEPARATOR) {
        return false;
    }
    if rest.ends_with("_SERVICE_HOST") || rest.ends_with("_SERVICE_PORT") {
        return true;
    }
    // The port may have a name.
    if rest.contains("_SERVICE_PORT_") {
        return true;
    }
    if rest.ends_with("_PORT") && value.contains("://") {
        return true;
    }
    rest.match_indices("_PORT_").any(|(at, word)| {
        let mut words = rest[at + word.len()..].split('_');
        let number = words.next().unwrap_or_default();
        let is_port = number.parse::<u16>().is_ok();
        let is_protocol = words
            .next()
            .is_some_and(|word| ["TCP", "UDP", "SCTP"].contains(&word));
        let ends_well = match (words.next(), words.next()) {
            (None, None) => true,
            (Some(word), None) => ["PROTO", "PORT", "ADDR"].contains(&word),
            (_, Some(_)) => false,
        };
        is_port && is_protocol && ends_well
    })
}

/// The variable that sets this key, or else one that sets a part of it.
pub(super) fn named_for(key: &str, own: &config::Map<String, String>) -> String {
    let exact = variable_of(key);
    let part = format!("{exact}{SEPARATOR}");
    let mut parts: Vec<_> = own.keys().filter(|name| name.starts_with(&part)).collect();
    parts.sort();
    match parts.first() {
        Some(name) if !own.contains_key(&exact) => (*name).clone(),
        Some(_) | None => exact,
    }
}
