//! What is wrong with the settings.

use std::fmt;

use super::origin;
use super::variables::{PREFIX, variable_of};

/// One mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The file, or the environment.
    pub origin: String,
    /// The key; empty if the complaint is about the whole file.
    pub key: String,
    /// The mistake and its correction.
    pub what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.origin, self.what)
        } else if self.origin == origin::ENVIRONMENT && !self.key.starts_with(PREFIX) {
            let (origin, variable) = (&self.origin, variable_of(&self.key));
            write!(f, "{origin}: {variable} ({}): {}", self.key, self.what)
        } else {
            write!(f, "{}: {}: {}", self.origin, self.key, self.what)
        }
    }
}

/// All mistakes in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaints(pub Vec<Complaint>);

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Complaints {}
