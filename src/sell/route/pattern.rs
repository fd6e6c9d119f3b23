//! Patterns for the paths of a route.

use std::fmt;

use super::path::{PathError, RequestPath};

/// The paths that a route matches. Both kinds match with and without a trailing slash. Otherwise an
/// upstream that ignores the slash would serve a sold path for free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Exactly this path.
    Exact(String),
    /// This path and all paths below it, written without a trailing slash; empty for all paths.
    Below(String),
}

/// A pattern that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is no path for a route: {why}")]
pub struct PatternError {
    /// The pattern as written.
    pub path: String,
    /// The reason why the pattern is refused.
    pub why: &'static str,
}

impl Pattern {
    /// Parses `/exact/path` or `/everything/below/*`.
    pub fn parse(path: &str) -> Result<Self, PatternError> {
        let refused = |why| PatternError {
            path: path.to_owned(),
            why,
        };
        if !path.starts_with('/') {
            return Err(refused("it begins with a slash, as in `/articles/*`"));
        }
        // The slash before the star stays, so that `/a//*` is seen to have doubled slashes.
        let (literal, is_prefix) = match path.strip_suffix('*') {
            Some(literal) if literal.ends_with('/') => (literal, true),
            Some(_) | None => (path, false),
        };
        if literal.contains('*') {
            return Err(refused("a `*` stands at the end only, as in `/articles/*`"));
        }
        if literal.contains(';') {
            return Err(refused(
                "a `;` and what follows it is cut off by some servers",
            ));
        }
        match RequestPath::parse(literal) {
            Ok(normal) if normal.as_str() == literal => {}
            Ok(_) => {
                return Err(refused(
                    "characters that need no %-encoding are written as they are",
                ));
            }
            Err(PathError::Encoding) => {
                return Err(refused("a `%` wants two hex digits behind it"));
            }
            Err(_) => {
                return Err(refused(
                    "no `.` or `..` segments, doubled slashes, backslashes or control characters",
                ));
            }
        }
        let trimmed = literal.strip_suffix('/').unwrap_or(literal).to_owned();
        Ok(if is_prefix {
            Self::Below(trimmed)
        } else {
            Self::Exact(trimmed)
        })
    }

    /// Whether this path matches the pattern.
    pub fn matches(&self, path: &RequestPath) -> bool {
        let path = path.as_str();
        match self {
            Self::Exact(exact) => path.strip_suffix('/').unwrap_or(path) == exact,
            Self::Below(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    /// The pattern in lower case.
    pub(super) fn folded(&self) -> Self {
        match self {
            Self::Exact(exact) => Self::Exact(exact.to_ascii_lowercase()),
            Self::Below(prefix) => Self::Below(prefix.to_ascii_lowercase()),
        }
    }

    /// The rank of the pattern. If several patterns match a path, the one with the highest rank
    /// applies.
    pub(super) fn specificity(&self) -> (usize, bool) {
        match self {
            Self::Exact(exact) => (exact.len(), true),
            Self::Below(prefix) => (prefix.len(), false),
        }
    }

    /// The pattern's prefix without a trailing slash; empty for an exact pattern.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Exact(_) => "",
            Self::Below(prefix) => prefix,
        }
    }

    /// The part of the path after the pattern's prefix, starting with a slash, in the upstream's
    /// form. The whole path for an exact pattern.
    pub fn rest<'a>(&self, path: &'a RequestPath) -> &'a str {
        match self {
            Self::Exact(_) => path.wire(),
            // Both forms of a path have the same slashes, so the prefix ends at the same one in
            // both.
            Self::Below(prefix) => match path.wire().match_indices('/').nth(segments(prefix)) {
                Some((slash, _)) => &path.wire()[slash..],
                None => "/",
            },
        }
    }
}

/// The number of segments in a path without a trailing slash.
fn segments(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) if exact.is_empty() => f.write_str("/"),
            Self::Exact(exact) => f.write_str(exact),
            Self::Below(prefix) => write!(f, "{prefix}/*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_written_in_the_normal_form() {
        for path in ["/", "/*", "/a", "/a/*", "/a/b.html", "/a%20b"] {
            assert!(Pattern::parse(path).is_ok(), "{path}");
        }
        for path in [
            "", "a", "*", "/a*", "/a;b/*", "/*/a", "/a/**", "/../a", "/%61", "//", "/a//*", "/%2f",
        ] {
            assert!(Pattern::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_left_of_a_path_below_a_prefix_is_a_path() {
        let below = Pattern::parse("/chain/*").unwrap();
        for (path, rest) in [("/chain", "/"), ("/chain/", "/"), ("/chain/a/b", "/a/b")] {
            assert_eq!(below.rest(&RequestPath::parse(path).unwrap()), rest);
        }
        let spelt = RequestPath::parse("/ch%2Bin/a%2Bb").unwrap();
        assert_eq!(Pattern::parse("/ch+in/*").unwrap().rest(&spelt), "/a%2Bb");
        assert_eq!(
            Pattern::parse("/*")
                .unwrap()
                .rest(&RequestPath::parse("/a").unwrap()),
            "/a"
        );
    }
}
