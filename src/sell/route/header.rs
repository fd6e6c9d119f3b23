//! Header names as upstream servers read them: CGI and PHP treat several names as the same. Pure.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The name as the most lenient server reads it, which treats all characters except letters and
/// digits as the same. CGI does this for dashes (RFC 3875, section 4.1.18). PHP and Apache also do
/// it for dots and other characters.
pub fn folded(name: &HeaderName) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let name = name.as_str();
    if name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let fold = |byte: u8| if is_plain(byte) { byte.into() } else { '-' };
    Cow::Owned(name.bytes().map(fold).collect())
}

/// Removes all headers that some server could treat as this one.
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

/// Servers could read different values of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disputed;

/// The value of a header that a price depends on. Fails if servers could read different values. The
/// public listener has already removed the headers that `Connection` names.
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
