//! Parses an `Authorization` header as a list (RFC 9110, sections 5.6.1 and 11.6.3), because
//! libraries and proxies join several lines with commas. Both reading and removing credentials use
//! it.

use std::ops::Range;

/// The longest scheme name. The parts of an L402 credential, which commas separate as well, are
/// longer.
const SCHEME_BYTES_MAX: usize = 32;

/// The separator between the remaining credentials.
const SEPARATOR: &[u8] = b", ";

/// One credential of the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listed<'a> {
    /// An L402 credential: the text after its scheme, up to the part with the preimage.
    Ours(&'a [u8]),
    /// A credential of another scheme, as the client wrote it.
    Foreign(&'a [u8]),
}

/// The credentials in a header value, in order.
///
/// Everything after an L402 credential belongs to it until another scheme begins, so that no part
/// of it reaches an upstream.
pub(super) fn credentials(value: &[u8]) -> impl Iterator<Item = Listed<'_>> {
    let mut elements = Elements { value, at: 0 }.peekable();
    std::iter::from_fn(move || {
        let first = elements.next()?;
        let text = &value[first.clone()];
        let ours = after_our_scheme(text);
        let mut end = first.end;
        let mut is_complete = ours.is_some() && text.contains(&b':');
        while let Some(next) = elements.next_if(|next| !begins_credential(&value[next.clone()])) {
            if !is_complete {
                end = next.end;
            }
            is_complete |= ours.is_some() && value[next].contains(&b':');
        }
        Some(match ours {
            Some(rest) => Listed::Ours(&value[first.end - rest.len()..end]),
            None => Listed::Foreign(&value[first.start..end]),
        })
    })
}

/// The value without L402 credentials, empty if nothing is left; `None` if it holds none of them.
pub(super) fn without_ours(value: &[u8]) -> Option<Vec<u8>> {
    if !value.contains(&b',') {
        return after_our_scheme(value.trim_ascii()).map(|_| Vec::new());
    }
    let mut has_ours = false;
    let mut foreign = Vec::new();
    for listed in credentials(value) {
        match listed {
            Listed::Ours(_) => has_ours = true,
            Listed::Foreign(text) => foreign.push(text),
        }
    }
    has_ours.then(|| foreign.join(SEPARATOR))
}

/// Whether the value is exactly one L402 credential with one macaroon.
pub(super) fn is_one_of_ours(value: &[u8]) -> bool {
    !value.contains(&b',') && after_our_scheme(value.trim_ascii()).is_some()
}

/// The text after the scheme, if that is `L402` or its older name `LSAT`.
fn after_our_scheme(credential: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = credential.split_at_checked(4)?;
    let is_ours = scheme.eq_ignore_ascii_case(b"L402") || scheme.eq_ignore_ascii_case(b"LSAT");
    // A longer scheme name that only begins with `L402` or `LSAT` is another scheme.
    let is_whole = rest
        .first()
        .is_none_or(|byte| !byte.is_ascii_alphanumeric());
    (is_ours && is_whole).then(|| rest.trim_ascii())
}

/// Whether a new credential begins here: a scheme followed by something. A name followed by `=` is
/// a parameter. A part of an L402 credential may have spaces before its colon.
fn begins_credential(element: &[u8]) -> bool {
    if after_our_scheme(element).is_some() {
        return true;
    }
    let Some(end) = element.iter().position(u8::is_ascii_whitespace) else {
        return false;
    };
    let (scheme, rest) = element.split_at(end);
    scheme.len() <= SCHEME_BYTES_MAX
        && scheme.iter().all(|byte| is_token_char(*byte))
        && !matches!(rest.trim_ascii_start().first(), Some(b'=' | b':'))
}

/// A token character (RFC 9110, section 5.6.2).
fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The ranges of the elements between commas, trimmed; empty elements are skipped.
struct Elements<'a> {
    value: &'a [u8],
    /// The start of the next element.
    at: usize,
}

impl Iterator for Elements<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        while self.at < self.value.len() {
            let start = self.at;
            let end = start + element_length(&self.value[start..]);
            self.at = end + 1;
            let text = &self.value[start..end];
            let start = end - text.trim_ascii_start().len();
            let length = text.trim_ascii().len();
            if length > 0 {
                return Some(start..start + length);
            }
        }
        None
    }
}

/// The length of the element at the start of `text`: up to the next comma outside quotes.
fn element_length(text: &[u8]) -> usize {
    let mut at = 0;
    let mut before = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b',' => return at,
            b'"' if before == b'=' => {
                at += quoted_length(&text[at..]).unwrap_or(1);
                before = b'"';
            }
            b' ' | b'\t' => at += 1,
            other => {
                before = *other;
                at += 1;
            }
        }
    }
    at
}

/// The length of the quoted parameter value at the start of `text`. `None` if the quotes do not
/// close, or if text follows them in the same element. So a stray quotation mark cannot hide the
/// text after it.
fn quoted_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'"' => break,
            _ => at += 1,
        }
    }
    let length = at + 1;
    let next = text[length..].trim_ascii_start().first();
    next.is_none_or(|next| *next == b',').then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Placeholders with the length of real macaroons and preimages.
    const M: &str = "AgEEbHahdAJCAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const N: &str = "AgEEbHahdAJCAAB_-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";
    const P: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    /// Parses a value that contains `%M`, `%N` and `%P`. Returns the L402 credentials, and the
    /// value without them.
    fn read(value: &str) -> (Vec<String>, Option<String>) {
        let short = |text: &[u8]| {
            let text = String::from_utf8(text.to_vec()).unwrap();
            text.replace(M, "%M").replace(N, "%N").replace(P, "%P")
        };
        let value = value.replace("%M", M).replace("%N", N).replace("%P", P);
        let ours = credentials(value.as_bytes()).filter_map(|listed| match listed {
            Listed::Ours(text) => Some(short(text)),
            Listed::Foreign(_) => None,
        });
        let rest = without_ours(value.as_bytes());
        (ours.collect(), rest.map(|rest| short(&rest)))
    }

    #[test]
    fn a_list_may_mix_our_credentials_and_others_in_any_order() {
        for (value, ours, rest) in [
            ("L402 %M:%P", &["%M:%P"][..], Some("")),
            ("lsat  %M:%P ", &["%M:%P"], Some("")),
            ("L402 %M:%P,", &["%M:%P"], Some("")),
            (" , ,L402 %M:%P, ,", &["%M:%P"], Some("")),
            ("L402 %M,%N:%P", &["%M,%N:%P"], Some("")),
            ("L402 %M, %N : %P", &["%M, %N : %P"], Some("")),
            ("L402 %M:%P, Bearer up", &["%M:%P"], Some("Bearer up")),
            ("Bearer up, L402 %M:%P", &["%M:%P"], Some("Bearer up")),
            (
                "Bearer up,LSAT %M, %N:%P",
                &["%M, %N:%P"],
                Some("Bearer up"),
            ),
            ("L402 %M:%P,L402 %N:%P", &["%M:%P", "%N:%P"], Some("")),
            ("L402 %M, lsat %N:%P", &["%M", "%N:%P"], Some("")),
            (
                "Basic a, L402 %M:%P, Bearer b",
                &["%M:%P"],
                Some("Basic a, Bearer b"),
            ),
            (
                r#"Digest a="x, L402 y", b="\"", L402 %M:%P, c d"#,
                &["%M:%P"],
                Some(r#"Digest a="x, L402 y", b="\"", c d"#),
            ),
            (
                r#"L402 %M:%P, Digest a="1,  2",b = "3""#,
                &["%M:%P"],
                Some(r#"Digest a="1,  2",b = "3""#),
            ),
            (
                "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=c;d, Signature=e, L402 %M:%P",
                &["%M:%P"],
                Some("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=c;d, Signature=e"),
            ),
            ("Bearer up", &[], None),
            ("Digest a=b, c=\"d\"", &[], None),
            ("L4021 %M:%P, L402x %M", &[], None),
            ("", &[], None),
            (",", &[], None),
        ] {
            let (read_ours, read_rest) = read(value);
            assert_eq!(read_ours, ours, "{value}");
            assert_eq!(read_rest.as_deref(), rest, "{value}");
        }
    }

    #[test]
    fn malformed_credentials_of_ours_are_removed_completely() {
        for value in [
            "L402",
            "L402,%M:%P",
            "L402 ,%M:%P",
            "L402:%M:%P",
            "L402=%M:%P",
            "L402\t%M,\t%N\t:\t%P",
            "L402 %M, %N, %P",
            "L402 %M %N:%P",
            "L402 %M,%N %P",
            "L402 %M,x,%N:%P",
            "L402 %M:%P, %N:%P",
            "L402 %M:%P, %P",
            "L402 \"%M:%P\"",
            "L402 \"%M, %N:%P\"",
            "L402 macaroon=\"%M\", preimage=\"%P\"",
            "L402 macaroon = %M, preimage = %P",
            "LSAT token=\"%M, %N\", preimage=\"%P",
            "Digest a=\"x, L402 %M:%P",
            "Digest a=\"x, L402 %M:%P, b=\"y\"",
            "Digest a=\"x\" y, L402 %M:%P, b=\"y",
            "Bearer \"x, L402 %M:%P",
        ] {
            let (_, rest) = read(value);
            let rest = rest.expect(value);
            assert!(!rest.contains('%'), "{value}: {rest}");
        }
    }

    #[test]
    fn a_single_credential_is_distinguished_from_a_list() {
        for (value, is_one) in [
            ("L402 %M:%P", true),
            ("lsat %M:%P", true),
            ("L402 %M,%N:%P", false),
            ("L402 %M:%P,", false),
            ("L402 %M:%P, Bearer up", false),
            ("Bearer up", false),
        ] {
            assert_eq!(is_one_of_ours(value.as_bytes()), is_one, "{value}");
        }
    }
}
