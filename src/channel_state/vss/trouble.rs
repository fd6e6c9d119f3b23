//! Why the server gives no good answer, and whether a retry may help: recognised in the errors of
//! the VSS client, and in the lines of ldk-node's log that repeat them.

use std::fmt;
use std::path::PathBuf;

use vss_client_ng::error::VssError;

use crate::base::text;
use crate::protocol::invoice::Unready;

use super::headers::Current;

/// The maximum number of characters shown of a server's message: a sentence or two.
const SHOWN_CHARS_MAX: usize = 300;

/// The client's text if the server rejects the headers.
const REFUSED: &str = "Authentication or Authorization failure: ";

/// The client's text if a proxy in front of the server rejects the headers. Such a proxy does not
/// speak VSS.
const REFUSED_BEFORE: [&str; 2] = ["HttpStatusCode: 401", "HttpStatusCode: 403"];

/// The client's texts for all other errors that do not mean a damaged state.
const AWAY: [&str; 4] = [
    "InternalError: ",
    "InternalServerError: ",
    "Request sent to VSS Storage was invalid: ",
    "Potential version conflict in write operation: ",
];

/// The error that replaces the headers while the lease is not renewed.
pub(super) const NOT_RENEWED: &str = "the lease of the store is not renewed";

/// Why the server gives no good answer. A retry may help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server does not answer, or not as a VSS server.
    Away(String),
    /// The server rejects the headers.
    Refused {
        /// The file with the headers.
        file: Option<PathBuf>,
        /// The server's message.
        said: String,
    },
}

impl Trouble {
    pub(super) fn of(error: &VssError, headers: &Current) -> Self {
        let text = error.to_string();
        let away = || Self::Away(shown(&text, headers));
        Self::in_line(&text, headers).unwrap_or_else(away)
    }

    /// The server's trouble, as reported in a line of ldk-node's log; `None` if the line reports
    /// none, for example if it says that stored data cannot be read.
    pub(crate) fn in_line(line: &str, headers: &Current) -> Option<Self> {
        let refused = |said: &str| Self::Refused {
            file: headers.file.clone(),
            said: shown(said, headers),
        };
        if line.contains(NOT_RENEWED) {
            return Some(Self::Away(NOT_RENEWED.to_owned()));
        }
        if let Some((_, said)) = line.split_once(REFUSED) {
            return Some(refused(said));
        }
        if let Some(status) = REFUSED_BEFORE.iter().find(|said| line.contains(**said)) {
            return Some(refused(status));
        }
        let at = AWAY.iter().filter_map(|said| line.find(said)).min()?;
        Some(Self::Away(shown(&line[at..], headers)))
    }

    /// The reason that buyers get.
    pub(crate) fn unready(&self) -> Unready {
        match self {
            Self::Away(_) => Unready::StoreUnreachable,
            Self::Refused { .. } => Unready::StoreRefuses,
        }
    }

    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why) => write!(f, "the server of node.vss gives no good answer: {why}"),
            Self::Refused {
                file: Some(file),
                said,
            } => write!(
                f,
                "the server of node.vss refuses the headers of {} ({said}): write good ones into it, they are read anew",
                file.display()
            ),
            Self::Refused { file: None, said } => write!(
                f,
                "the server of node.vss wants to know who asks ({said}): name headers in node.vss.headers_file"
            ),
        }
    }
}

/// A server's message in a form that may be shown: one short line, without secrets from our
/// headers.
pub(crate) fn shown(said: &str, headers: &Current) -> String {
    let said = headers.without(said.to_owned());
    let start: String = said.chars().take(SHOWN_CHARS_MAX).collect();
    text::shown(&start).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::headers::Headers;
    use super::*;

    fn nobody() -> Current {
        Current::of(&Headers::default())
    }

    #[test]
    fn every_error_of_the_client_is_worth_another_try_and_a_refusal_is_called_one() {
        let said = || "said".to_owned();
        let away = [
            VssError::NoSuchKeyError(said()),
            VssError::InvalidRequestError(said()),
            VssError::ConflictError(said()),
            VssError::InternalServerError(said()),
            VssError::InternalError(said()),
        ];
        for error in away {
            let trouble = Trouble::of(&error, &nobody());
            assert_eq!(trouble.unready(), Unready::StoreUnreachable, "{error}");
            // ldk-node's log repeats the error in this form.
            let line = format!(
                "Failed to read channel manager from store: Failed to read from key //manager: {error}"
            );
            let is_told = !matches!(error, VssError::NoSuchKeyError(_));
            assert_eq!(
                Trouble::in_line(&line, &nobody()).is_some(),
                is_told,
                "{line}"
            );
        }
        let proxy = "Unable to decode ErrorResponse from server, HttpStatusCode: 401 Unauthorized, DecodeErr: x";
        for error in [
            VssError::AuthError(said()),
            VssError::InternalError(proxy.to_owned()),
        ] {
            let trouble = Trouble::of(&error, &nobody());
            assert_eq!(trouble.unready(), Unready::StoreRefuses, "{error}");
        }
        let own = VssError::AuthError(NOT_RENEWED.to_owned());
        assert!(!Trouble::of(&own, &nobody()).is_refusal());
    }

    #[test]
    fn what_is_kept_and_cannot_be_read_is_no_trouble_of_the_servers() {
        for line in [
            "Failed to setup VSS store: Failed to decode schema version: Invalid Tag",
            "Failed to setup VSS store: Failed to decode schema version: Unknown required feature preventing decode",
            "Failed to read channel manager from store: Invalid Tag",
            "Failed to read channel manager from store: Nonsense bytes didn't map to the type they were interpreted as",
            "Failed to read channel monitors from store: Failed to decode data read from key monitors//x: buffer underflow",
        ] {
            assert_eq!(Trouble::in_line(line, &nobody()), None, "{line}");
        }
    }

    #[test]
    fn what_a_server_says_is_shown_on_one_line_that_ends() {
        let said = format!("one\ntwo\u{1b}[2J{}", "x".repeat(1_000));
        let shown = shown(&said, &nobody());
        assert!(shown.starts_with("one\\ntwo\\u{1b}[2J"), "{shown}");
        assert!(shown.len() < 2 * SHOWN_CHARS_MAX);
    }
}
