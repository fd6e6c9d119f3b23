//! The names of environment variables that are settings.

/// The prefix of the program's variables.
pub(super) const PREFIX: &str = "TOLLHOUSE";

/// The separator between the parts of a key.
pub(super) const SEPARATOR: &str = "__";

/// The variable that sets this key: `TOLLHOUSE__HTTP__LISTEN` for `http.listen`.
pub(super) fn variable_of(key: &str) -> String {
    let parts = key.split('.').map(|part| part.to_ascii_uppercase());
    let parts: Vec<_> = std::iter::once(PREFIX.to_owned()).chain(parts).collect();
    parts.join(SEPARATOR)
}
