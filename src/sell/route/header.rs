//! Header names as servers behind us read them: what speaks CGI or PHP takes several names for one. Pure.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A name as the most lenient server reads it: whatever is no letter and no digit is the same (CGI, RFC 3875, section 4.1.18;
/// PHP and Apache fold dots and the rest besides).
pub fn folded(name: &HeaderName) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let name = name.as_str();
    if name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let fold = |byte: u8| if is_plain(byte) { byte.into() } else { '-' };
    Cow::Owned(name.bytes().map(fold).collect())
}

/// Takes out every header that some server could take for this one.
pub fn remove_alike(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(name);
    let wanted = folded(name);
    let alike: Vec<HeaderName> = headers
        .keys()
        .filter(|other| folded(other) == wanted)
        .cloned()
        .collect();
    for name in alike {
        headers.remove(name);
    }
}

/// Servers would not agree on what a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disputed;

/// The value of a header that a price depends on: whatever server reads it, it has to read the same. What `Connection` names
/// is not asked about here, the public listener has taken it out before.
pub fn undisputed<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h HeaderValue>, Disputed> {
    let wanted = folded(name);
    if headers
        .keys()
        .any(|other| other != name && folded(other) == wanted)
    {
        return Err(Disputed);
    }
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => Err(Disputed),
    }
}
