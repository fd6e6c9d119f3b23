//! What the doctor found.

use std::time::Duration;

use serde_json::{Value, json};

/// How long to wait for a connection to a port.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    Good,
    Look,
    Bad,
}

/// The result of one check.
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) grade: Grade,
    /// The result, and what to do about it.
    pub(super) found: String,
}

/// The results of all checks.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn note(&mut self, what: &'static str, grade: Grade, found: impl Into<String>) {
        let found = found.into();
        self.0.push(Finding { what, grade, found });
    }

    pub(super) fn worst(&self) -> Grade {
        let is = |grade| self.0.iter().any(|finding| finding.grade == grade);
        match (is(Grade::Bad), is(Grade::Look)) {
            (true, _) => Grade::Bad,
            (false, true) => Grade::Look,
            (false, false) => Grade::Good,
        }
    }
}

impl Finding {
    pub(super) fn json(&self) -> Value {
        let grade = match self.grade {
            Grade::Good => "good",
            Grade::Look => "look",
            Grade::Bad => "bad",
        };
        json!({ "what": self.what, "grade": grade, "found": self.found })
    }
}
