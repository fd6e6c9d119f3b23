//! Request paths in a normal form.

/// A request's path, normalised once for matching, caveats, files and upstreams.
///
/// RFC 3986 leaves open whether `@` and `%40` are equivalent in a path. For matching they are,
/// because otherwise a client could bypass a sold route by its spelling. An upstream still receives
/// the client's spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPath {
    /// The path for matching, in which no character is encoded unless necessary.
    matched: String,
    /// The path for the upstream, with `!$&'()*+,;=:@` as the client wrote them.
    wire: String,
    /// The error about doubled or encoded slashes in the path, if any. Only some routes pass such a
    /// path on.
    slashes: Option<PathError>,
}

/// The reason why a path is refused. No path is repaired: one that two programs could read
/// differently is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path is `*` or empty, or does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// The path has a percent sign without two hex digits.
    #[error("the path has a `%` without two hex digits behind it")]
    Encoding,
    /// The path has a `.` or `..` segment, plain or encoded, or with path parameters.
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// The path has `//`.
    #[error("the path has doubled slashes")]
    EmptySegment,
    /// The path has `%2F`.
    #[error("the path has an encoded slash")]
    EncodedSlash,
    /// The path has a backslash, plain or encoded.
    #[error("the path has a backslash")]
    Backslash,
    /// The path has a NUL or another control character, plain or encoded.
    #[error("the path has a control character")]
    ControlCharacter,
    /// Some servers ignore case or the text after a `;`, and would read the path as that of
    /// another, sold route.
    #[error(
        "some servers would take this path for another one, which is sold: mind the case, and leave out any `;`"
    )]
    Lookalike,
}

impl RequestPath {
    /// Normalises a path. Decodes characters that need no encoding, and writes the others in
    /// upper-case hex. Refuses ambiguous paths.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        let path = Self::read(raw)?;
        path.slashes.map_or(Ok(path), Err)
    }

    /// Normalises a path that may have doubled or encoded slashes. The route decides whether such a
    /// path is passed on.
    pub fn read(raw: &str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let mut matched = String::with_capacity(raw.len());
        let mut wire = String::with_capacity(raw.len());
        let mut rest = raw.as_bytes();
        let mut slashes = None;
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
                b'\\' => return Err(PathError::Backslash),
                b'/' if was_encoded => {
                    slashes = Some(PathError::EncodedSlash);
                    push_encoded(&mut matched, b'/');
                    push_encoded(&mut wire, b'/');
                }
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
        check_dots(&matched)?;
        if matched.contains("//") {
            slashes = Some(PathError::EmptySegment);
        }
        Ok(Self {
            matched,
            wire,
            slashes,
        })
    }

    /// The error about the path's slashes, for routes that do not pass them on.
    pub(super) fn slashes(&self) -> Option<PathError> {
        self.slashes
    }

    /// The forms in which servers could read this path because of its slashes. Servers decode `%2F`
    /// and merge several slashes. Some take the text after two leading slashes for a host, or
    /// remove path parameters first. A pattern that matches any partly decoded form also matches
    /// one of these.
    pub(super) fn readings(&self) -> Result<Vec<Self>, PathError> {
        let mut readings = Vec::new();
        for text in [self.matched.clone(), cut_parameters(&self.matched)] {
            let decoded = text.replace(ENCODED_SLASH, "/");
            readings.push(Self::parse(&merge_slashes(&decoded))?);
            if let Some(behind) = decoded.strip_prefix("//") {
                let path = behind.find('/').map_or("/", |slash| &behind[slash..]);
                readings.push(Self::parse(&merge_slashes(path))?);
            }
        }
        Ok(readings)
    }

    /// The path for matching, percent-encoded only where necessary.
    pub fn as_str(&self) -> &str {
        &self.matched
    }

    /// The path for the upstream.
    pub fn wire(&self) -> &str {
        &self.wire
    }

    /// The path as read by a server that removes path parameters from each segment; `None` if it
    /// has none.
    pub(super) fn without_parameters(&self) -> Option<Result<Self, PathError>> {
        let has_parameters = self.matched.contains(';');
        has_parameters.then(|| Self::parse(&cut_parameters(&self.matched)))
    }

    /// Whether the path has upper-case letters, which some servers ignore.
    pub(super) fn has_upper_case(&self) -> bool {
        self.matched.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    /// The path in lower case, for matching.
    pub(super) fn in_small_letters(&self) -> Self {
        Self {
            matched: self.matched.to_ascii_lowercase(),
            wire: self.wire.clone(),
            slashes: self.slashes,
        }
    }
}

/// An encoded slash in the normalised path.
const ENCODED_SLASH: &str = "%2F";

/// Removes the parameters of a path: `;` and the text after it in each segment.
fn cut_parameters(path: &str) -> String {
    let cut = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    let segments: Vec<_> = path.split('/').map(cut).collect();
    segments.join("/")
}

/// Merges each run of slashes into one.
fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for char in path.chars() {
        if char != '/' || !merged.ends_with('/') {
            merged.push(char);
        }
    }
    merged
}

/// Appends a byte in percent-encoding with upper-case digits (RFC 3986, section 2.1).
fn push_encoded(text: &mut String, byte: u8) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    text.push('%');
    text.push(DIGITS[usize::from(byte >> 4)]);
    text.push(DIGITS[usize::from(byte & 0xf)]);
}

fn check_dots(path: &str) -> Result<(), PathError> {
    for segment in path.split('/') {
        // Some servers remove path parameters before they resolve the dots.
        let name = segment.split(';').next().unwrap_or_default();
        if name == "." || name == ".." {
            return Err(PathError::DotSegment);
        }
    }
    Ok(())
}

/// Characters that mean the same whether encoded or not (RFC 3986, section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The other characters that need no encoding in a path (RFC 3986, section 3.3).
fn is_path_char(byte: u8) -> bool {
    b"!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn an_upstream_is_sent_the_spelling_of_the_client() {
        let path = RequestPath::parse("/c%2b+/a%2Bb%61/%e4").unwrap();
        assert_eq!(path.wire(), "/c%2B+/a%2Bba/%E4");
        assert_eq!(path.as_str(), "/c++/a+ba/%E4");
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
            ("/a%2fb", PathError::EncodedSlash),
            ("/a%2Fb", PathError::EncodedSlash),
            ("/a%5cb", PathError::Backslash),
            ("/a\\b", PathError::Backslash),
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
    fn ambiguous_slashes_have_all_their_readings() {
        for (raw, read) in [
            ("/a%2fb", &["/a/b", "/a/b"][..]),
            ("/a//b%2F", &["/a/b/", "/a/b/"]),
            ("//a/b", &["/a/b", "/b", "/a/b", "/b"]),
            ("/%2Fa%2Fb", &["/a/b", "/b", "/a/b", "/b"]),
            ("//a", &["/a", "/", "/a", "/"]),
            ("/a;x%2Fb/c", &["/a;x/b/c", "/a/c"]),
            ("/a%252Fb", &["/a%252Fb", "/a%252Fb"]),
        ] {
            let path = RequestPath::read(raw).unwrap();
            let readings = path.readings().unwrap();
            let readings: Vec<_> = readings.iter().map(RequestPath::as_str).collect();
            assert_eq!(readings, read, "{raw}");
        }
        for raw in [
            "/a%2F..%2Fb",
            "/a%2f.",
            "/a/%2E%2e%2Fb",
            "//../b",
            "/a%2F..;x/b",
        ] {
            let read = RequestPath::read(raw).and_then(|path| path.readings());
            assert_eq!(read, Err(PathError::DotSegment), "{raw}");
        }
        let path = RequestPath::read("/a//%2fb").unwrap();
        assert_eq!((path.as_str(), path.wire()), ("/a//%2Fb", "/a//%2Fb"));
    }
}
