//! The route table: which path and method belong to which service, at which price, for which resource. Pure.
//!
//! Matching and forwarding see one and the same path, normalised once by [`RequestPath::parse`].

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};

use crate::price::Price;

/// What one payment buys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How many requests; `None` for any number.
    pub requests: Option<u64>,
    /// How long the token is good, from the latest moment at which its invoice can be paid in time.
    pub valid: Duration,
}

/// `5 requests within 1h`
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.requests {
            Some(1) => f.write_str("1 request")?,
            Some(requests) => write!(f, "{requests} requests")?,
            None => f.write_str("any number of requests")?,
        }
        write!(f, " within {}", Span(self.valid))
    }
}

/// A span of time in the largest unit that it is a whole number of, as the settings take it.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        for (unit_secs, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
            if secs != 0 && secs.is_multiple_of(unit_secs) {
                return write!(f, "{}{unit}", secs / unit_secs);
            }
        }
        write!(f, "{secs}s")
    }
}

/// A service: what a token opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The name that stands in the token.
    pub service: Arc<str>,
    /// What one payment costs.
    pub price: Price,
    /// What one payment buys.
    pub grant: Grant,
}

/// Who may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Free,
    /// Who has paid.
    Paid(Offer),
}

/// What is behind a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Another HTTP server.
    Upstream {
        /// Its base address, with no slash at the end.
        base: Uri,
        /// Whether the route's own prefix is taken off the path before it is forwarded.
        strip_prefix: bool,
    },
    /// The files of a folder.
    Files {
        /// The folder, absolute and without links.
        folder: PathBuf,
    },
}

/// Which paths a route is for. Both kinds match with and without a slash at the end: an upstream that makes no difference
/// must not give away at one what is sold at the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This path.
    Exact(String),
    /// Everything at or below this path, which has no slash at its end; empty for everything.
    Below(String),
}

/// A pattern that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is no path for a route: {why}")]
pub struct PatternError {
    /// What was written.
    pub path: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Pattern {
    /// Reads `/exact/path` or `/everything/below/*`.
    pub fn parse(path: &str) -> Result<Self, PatternError> {
        let refused = |why| PatternError {
            path: path.to_owned(),
            why,
        };
        if !path.starts_with('/') {
            return Err(refused("it begins with a slash, as in `/articles/*`"));
        }
        // With the slash in front of the star, so that `/a//*` shows what it is.
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

    /// Whether this path belongs to the pattern.
    pub fn matches(&self, path: &RequestPath) -> bool {
        let path = path.as_str();
        match self {
            Self::Exact(exact) => path.strip_suffix('/').unwrap_or(path) == exact,
            Self::Below(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    /// The pattern in small letters.
    fn folded(&self) -> Self {
        match self {
            Self::Exact(exact) => Self::Exact(exact.to_ascii_lowercase()),
            Self::Below(prefix) => Self::Below(prefix.to_ascii_lowercase()),
        }
    }

    /// Of two patterns that match one path, the one with the higher rank decides.
    fn specificity(&self) -> (usize, bool) {
        match self {
            Self::Exact(exact) => (exact.len(), true),
            Self::Below(prefix) => (prefix.len(), false),
        }
    }

    /// What comes after the pattern's own prefix, beginning with a slash, as it is sent on; all of it for an exact pattern.
    pub fn rest<'a>(&self, path: &'a RequestPath) -> &'a str {
        match self {
            Self::Exact(_) => path.wire(),
            // The two forms of a path differ inside segments only, so the prefix ends at the same slash in both.
            Self::Below(prefix) => match path.wire().match_indices('/').nth(segments(prefix)) {
                Some((slash, _)) => &path.wire()[slash..],
                None => "/",
            },
        }
    }
}

/// How many segments a path has that does not end with a slash.
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

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What the route is called in books and logs: its pattern as written.
    pub name: Arc<str>,
    /// The paths it is for.
    pub pattern: Pattern,
    /// The methods it takes; empty for all. HEAD goes with GET.
    pub methods: Vec<Method>,
    /// Who may pass.
    pub access: Access,
    /// What is behind it.
    pub resource: Resource,
}

impl Route {
    /// The methods that the route takes, if they are limited: HEAD with GET.
    pub fn methods_taken(&self) -> Vec<Method> {
        let mut methods = self.methods.clone();
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        methods
    }

    /// Whether the route takes this method.
    pub fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}

/// What the table says of a request.
#[derive(Debug)]
pub enum Found<'a> {
    /// This route.
    Route(&'a Arc<Route>),
    /// The path is known, the method is not taken there. Never a less specific route: a guarded path must not be open by
    /// another method.
    MethodNotTaken {
        /// What is taken there, HEAD with GET.
        methods: Vec<Method>,
        /// Whether any of it is sold.
        is_paid: bool,
    },
    /// No route.
    Nothing,
    /// Two servers could read the path in two ways that belong to different routes.
    Ambiguous(PathError),
}

/// Two routes, of which one can never be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "route {second} (`{path}`) is shadowed by route {first}: both take the same path and method"
)]
pub struct Shadowed {
    /// The first one's number, counted from 1.
    pub first: usize,
    /// The second one's number.
    pub second: usize,
    /// The path of both.
    pub path: String,
}

/// All routes, the most specific first.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// In the order in which they are tried.
    routes: Vec<Arc<Route>>,
    /// Their patterns in small letters, in the same order.
    folded: Vec<Pattern>,
    /// Whether that makes a difference to any of them.
    has_upper_case: bool,
}

impl RouteTable {
    /// Orders the routes; refuses a pair of which one could never be reached.
    pub fn new(routes: Vec<Route>) -> Result<Self, Shadowed> {
        for (index, second) in routes.iter().enumerate() {
            for (earlier, first) in routes[..index].iter().enumerate() {
                let share_a_method = first.methods.is_empty()
                    || second.methods.is_empty()
                    || first.methods.iter().any(|method| second.takes(method))
                    || second.methods.iter().any(|method| first.takes(method));
                if first.pattern == second.pattern && share_a_method {
                    return Err(Shadowed {
                        first: earlier + 1,
                        second: index + 1,
                        path: second.pattern.to_string(),
                    });
                }
            }
        }
        let mut routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.pattern.specificity()));
        let folded: Vec<_> = routes.iter().map(|route| route.pattern.folded()).collect();
        Ok(Self {
            has_upper_case: routes
                .iter()
                .zip(&folded)
                .any(|(route, folded)| route.pattern != *folded),
            folded,
            routes,
        })
    }

    /// The route of a request. The most specific path decides; its routes may share it by method.
    pub fn find(&self, method: &Method, path: &RequestPath) -> Found<'_> {
        let Some(best) = self.routes.iter().find(|route| route.pattern.matches(path)) else {
            return Found::Nothing;
        };
        // The server behind a free `/*` must not be asked for `/Guarded/x` or `/guarded;a/x`.
        let folded = match path.folded() {
            None if !self.has_upper_case => None,
            None => Some(path.clone()),
            Some(Ok(folded)) => Some(folded),
            Some(Err(error)) => return Found::Ambiguous(error),
        };
        if let Some(folded) = folded
            && let Some((index, _)) = self
                .folded
                .iter()
                .enumerate()
                .find(|(_, pattern)| pattern.matches(&folded))
            && let Access::Paid(_) = self.routes[index].access
            && self.routes[index].pattern != best.pattern
        {
            return Found::Ambiguous(PathError::Lookalike);
        }
        let same = || {
            self.routes
                .iter()
                .filter(|route| route.pattern == best.pattern)
        };
        match same().find(|route| route.takes(method)) {
            Some(route) => Found::Route(route),
            None => Found::MethodNotTaken {
                methods: same().flat_map(|route| route.methods_taken()).collect(),
                is_paid: same().any(|route| matches!(route.access, Access::Paid(_))),
            },
        }
    }

    /// All routes, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}

/// A request's path, normalised once: what matching, caveats, files and upstreams see all comes from here.
///
/// RFC 3986 leaves open whether `@` and `%40` mean the same in a path. For matching they do, or a guarded path could be
/// written so that it misses its route; an upstream is still sent the spelling that the client chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPath {
    /// Whatever may stand in a path as it is, stands there as it is.
    matched: String,
    /// The same, with `!$&'()*+,;=:@` as the client wrote them.
    wire: String,
}

/// Why a path is refused. Nothing is resolved or repaired: a path that two programs could read in two ways is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `*`, or empty.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A percent sign without two hex digits.
    #[error("the path has a `%` without two hex digits behind it")]
    Encoding,
    /// `.` or `..`, plain or encoded, also in front of a `;`.
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// `//`
    #[error("the path has doubled slashes")]
    EmptySegment,
    /// An encoded slash or backslash, or a plain backslash.
    #[error("the path has an encoded separator or a backslash")]
    Separator,
    /// NUL or another control character, plain or encoded.
    #[error("the path has a control character")]
    ControlCharacter,
    /// Read as some servers do (in small letters, without what stands behind a `;`), the path is one that is sold, and as
    /// it is written it is another one.
    #[error(
        "some servers would take this path for another one, which is sold: mind the case, and leave out any `;`"
    )]
    Lookalike,
}

impl RequestPath {
    /// Normalises a path: what need not be encoded is decoded, what stays encoded is in upper case. Everything that is
    /// ambiguous is refused.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let mut matched = String::with_capacity(raw.len());
        let mut wire = String::with_capacity(raw.len());
        let mut rest = raw.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            let (byte, was_encoded) = match byte {
                b'%' => {
                    let (hex, after) = after.split_at_checked(2).ok_or(PathError::Encoding)?;
                    let mut decoded = [0];
                    hex::decode_to_slice(hex, &mut decoded).map_err(|_| PathError::Encoding)?;
                    rest = after;
                    (decoded[0], true)
                }
                plain => {
                    rest = after;
                    (plain, false)
                }
            };
            match byte {
                b'\\' => return Err(PathError::Separator),
                b'/' if was_encoded => return Err(PathError::Separator),
                0..=0x1f | 0x7f => return Err(PathError::ControlCharacter),
                plain if plain == b'/' || is_unreserved(plain) => {
                    matched.push(char::from(plain));
                    wire.push(char::from(plain));
                }
                plain if is_path_char(plain) => {
                    matched.push(char::from(plain));
                    if was_encoded {
                        push_encoded(&mut wire, plain);
                    } else {
                        wire.push(char::from(plain));
                    }
                }
                other => {
                    push_encoded(&mut matched, other);
                    push_encoded(&mut wire, other);
                }
            }
        }
        check_segments(&matched)?;
        Ok(Self { matched, wire })
    }

    /// The path as it is matched, still percent-encoded where it must be.
    pub fn as_str(&self) -> &str {
        &self.matched
    }

    /// The path as it is sent on.
    pub fn wire(&self) -> &str {
        &self.wire
    }

    /// What a server makes of it that knows no upper case and cuts path parameters off each segment; `None` if that is the
    /// path itself.
    fn folded(&self) -> Option<Result<Self, PathError>> {
        let is_plain = |byte: u8| !byte.is_ascii_uppercase() && byte != b';';
        if self.matched.bytes().all(is_plain) {
            return None;
        }
        let cut = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
        let path: Vec<_> = self.matched.split('/').map(cut).collect();
        let folded = Self::parse(&path.join("/")).map(|path| Self {
            matched: path.matched.to_ascii_lowercase(),
            wire: path.wire,
        });
        Some(folded)
    }
}

/// RFC 3986, section 2.1: with upper-case digits.
fn push_encoded(text: &mut String, byte: u8) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    text.push('%');
    text.push(DIGITS[usize::from(byte >> 4)]);
    text.push(DIGITS[usize::from(byte & 0xf)]);
}

fn check_segments(path: &str) -> Result<(), PathError> {
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // Some servers cut path parameters off before they resolve the dots.
        let name = segment.split(';').next().unwrap_or_default();
        if name == "." || name == ".." {
            return Err(PathError::DotSegment);
        }
        if segment.is_empty() && segments.peek().is_some() {
            return Err(PathError::EmptySegment);
        }
    }
    Ok(())
}

/// RFC 3986, section 2.3: encoded or not, these mean the same.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986, section 3.3: what else may stand in a path as it is.
fn is_path_char(byte: u8) -> bool {
    b"!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str, methods: &[Method]) -> Route {
        Route {
            name: path.into(),
            pattern: Pattern::parse(path).unwrap(),
            methods: methods.to_vec(),
            access: Access::Free,
            resource: Resource::Files { folder: "/".into() },
        }
    }

    fn found(table: &RouteTable, method: &Method, path: &str) -> Option<String> {
        match table.find(method, &RequestPath::parse(path).unwrap()) {
            Found::Route(route) => Some(route.name.to_string()),
            Found::MethodNotTaken { .. } => Some("405".to_owned()),
            Found::Nothing => None,
            Found::Ambiguous(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn the_most_specific_path_decides() {
        let table = RouteTable::new(vec![
            route("/*", &[]),
            route("/a/*", &[]),
            route("/a/b", &[]),
        ])
        .unwrap();
        for (path, name) in [
            ("/", "/*"),
            ("/ab", "/*"),
            ("/a", "/a/*"),
            ("/a/", "/a/*"),
            ("/a/c/d", "/a/*"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b"),
            ("/a/b/c", "/a/*"),
        ] {
            assert_eq!(
                found(&table, &Method::GET, path).as_deref(),
                Some(name),
                "{path}"
            );
        }
    }

    #[test]
    fn a_path_that_is_guarded_for_one_method_is_not_open_by_another() {
        let table = RouteTable::new(vec![route("/*", &[]), route("/a/*", &[Method::GET])]).unwrap();
        assert_eq!(found(&table, &Method::POST, "/a/x").as_deref(), Some("405"));
        assert_eq!(
            found(&table, &Method::HEAD, "/a/x").as_deref(),
            Some("/a/*")
        );
        let table = RouteTable::new(vec![
            route("/a", &[Method::GET]),
            route("/a", &[Method::POST]),
        ])
        .unwrap();
        assert_eq!(found(&table, &Method::POST, "/a").as_deref(), Some("/a"));
        assert_eq!(found(&table, &Method::PUT, "/a").as_deref(), Some("405"));
        assert_eq!(found(&table, &Method::GET, "/b"), None);
    }

    #[test]
    fn routes_that_shadow_each_other_are_refused() {
        for (first, second) in [
            (route("/a", &[]), route("/a", &[])),
            (route("/a", &[]), route("/a/", &[Method::GET])),
            (
                route("/a", &[Method::GET]),
                route("/a", &[Method::GET, Method::POST]),
            ),
            (route("/a", &[Method::GET]), route("/a", &[Method::HEAD])),
        ] {
            let error = RouteTable::new(vec![first, second]).unwrap_err();
            assert_eq!((error.first, error.second), (1, 2));
        }
    }

    #[test]
    fn paths_come_into_one_form() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/%61", "/a"),
            ("/a%2Db", "/a-b"),
            ("/%e4", "/%E4"),
            ("/a%20b", "/a%20b"),
            ("/a b", "/a%20b"),
            ("/a%3fb", "/a%3Fb"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a;x=1", "/a;x=1"),
            ("/a%3Bb", "/a;b"),
            ("/c%2b%2B", "/c++"),
            ("/%40me", "/@me"),
            ("/...", "/..."),
            ("/a/", "/a/"),
            ("/ä", "/%C3%A4"),
        ] {
            assert_eq!(RequestPath::parse(raw).unwrap().as_str(), normal, "{raw}");
        }
    }

    fn paid(path: &str, service: &str) -> Route {
        Route {
            access: Access::Paid(Offer {
                service: service.into(),
                price: "1 sat".parse().unwrap(),
                grant: Grant {
                    requests: None,
                    valid: Duration::from_secs(1),
                },
            }),
            ..route(path, &[])
        }
    }

    #[test]
    fn a_guarded_path_is_guarded_in_every_spelling() {
        let table = RouteTable::new(vec![
            route("/*", &[]),
            paid("/c++/*", "a"),
            paid("/@vip", "b"),
            paid("/Premium/*", "c"),
            paid("/premium/dear/*", "d"),
        ])
        .unwrap();
        for (path, name) in [
            ("/c%2B%2b/x", "/c++/*"),
            ("/%63++/x", "/c++/*"),
            ("/%40vip", "/@vip"),
            ("/Premium/x;a", "/Premium/*"),
            ("/Premium/X", "/Premium/*"),
            ("/premium/dear/X", "/premium/dear/*"),
            ("/Other;a/x", "/*"),
        ] {
            assert_eq!(
                found(&table, &Method::GET, path).as_deref(),
                Some(name),
                "{path}"
            );
        }
        for path in [
            "/Premium;a/x",
            "/premium/x",
            "/PREMIUM%3Ba/x",
            "/;a/Premium/x",
            "/@VIP",
            "/@vip;a",
            "/Premium/Dear/x",
            "/Premium/dear;a/x",
        ] {
            let path = RequestPath::parse(path).unwrap();
            assert!(
                matches!(table.find(&Method::GET, &path), Found::Ambiguous(_)),
                "{path:?}"
            );
        }
    }

    #[test]
    fn an_upstream_is_sent_the_spelling_of_the_client() {
        let path = RequestPath::parse("/c%2b+/a%2Bb%61/%e4").unwrap();
        assert_eq!(path.wire(), "/c%2B+/a%2Bba/%E4");
        assert_eq!(path.as_str(), "/c++/a+ba/%E4");
        let below = Pattern::parse("/c++/*").unwrap();
        assert!(below.matches(&path));
        assert_eq!(below.rest(&path), "/a%2Bba/%E4");
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for (raw, error) in [
            ("", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("/..", PathError::DotSegment),
            ("/a/../b", PathError::DotSegment),
            ("/a/.", PathError::DotSegment),
            ("/%2e%2e/b", PathError::DotSegment),
            ("/.%2E", PathError::DotSegment),
            ("/..;x/b", PathError::DotSegment),
            ("//", PathError::EmptySegment),
            ("/a//b", PathError::EmptySegment),
            ("//a", PathError::EmptySegment),
            ("/a%2fb", PathError::Separator),
            ("/a%2Fb", PathError::Separator),
            ("/a%5cb", PathError::Separator),
            ("/a\\b", PathError::Separator),
            ("/a%00", PathError::ControlCharacter),
            ("/a\u{7f}", PathError::ControlCharacter),
            ("/%0a", PathError::ControlCharacter),
            ("/%", PathError::Encoding),
            ("/%4", PathError::Encoding),
            ("/%zz", PathError::Encoding),
            ("/%+1", PathError::Encoding),
        ] {
            assert_eq!(RequestPath::parse(raw), Err(error), "{raw}");
        }
    }

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
        assert_eq!(
            Pattern::parse("/*")
                .unwrap()
                .rest(&RequestPath::parse("/a").unwrap()),
            "/a"
        );
    }

    #[test]
    fn a_grant_reads_like_a_sentence() {
        let grant = |requests, secs| {
            Grant {
                requests,
                valid: Duration::from_secs(secs),
            }
            .to_string()
        };
        assert_eq!(grant(Some(5), 3_600), "5 requests within 1h");
        assert_eq!(grant(Some(1), 90), "1 request within 90s");
        assert_eq!(grant(None, 86_400), "any number of requests within 1d");
    }
}
