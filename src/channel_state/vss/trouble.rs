//! Why the server gives no good answer, and whether another try may mend it: as its client says it, and as ldk-node's log repeats that.

use std::fmt;
use std::path::PathBuf;

use vss_client_ng::error::VssError;

use crate::base::text;
use crate::protocol::invoice::Unready;

use super::headers::Current;

/// What is shown of what a server says: a sentence or two.
const SHOWN_CHARS_MAX: usize = 300;

/// How its client says that it refuses who asks.
const REFUSED: &str = "Authentication or Authorization failure: ";

/// How it says that of something in front of the server, which speaks no VSS.
const REFUSED_BEFORE: [&str; 2] = ["HttpStatusCode: 401", "HttpStatusCode: 403"];

/// How it says everything else that is no fault of what is kept.
const AWAY: [&str; 4] = [
    "InternalError: ",
    "InternalServerError: ",
    "Request sent to VSS Storage was invalid: ",
    "Potential version conflict in write operation: ",
];

/// What stands in the place of headers while the lease is not renewed.
pub(super) const NOT_RENEWED: &str = "the lease of the store is not renewed";

/// Why there is no good answer: worth another try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It does not answer, or not as such a server does.
    Away(String),
    /// It does not take the headers that say who asks.
    Refused {
        /// Where they stand.
        file: Option<PathBuf>,
        /// What it said.
        said: String,
    },
}

impl Trouble {
    pub(super) fn of(error: &VssError, headers: &Current) -> Self {
        let text = error.to_string();
        let away = || Self::Away(shown(&text, headers));
        Self::in_line(&text, headers).unwrap_or_else(away)
    }

    /// What a line of ldk-node's log says of the server; nothing if the server is well, and what it keeps is not.
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

    /// What it is to who would buy.
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

/// What a server says, as it may be shown: on one line, not long, without what it knows from our headers.
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
            // As ldk-node repeats it.
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
