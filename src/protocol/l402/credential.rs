//! A credential as a client presents it: token and preimage, in every spelling of deployed clients.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::authorization::{Listed, credentials, is_one_of_ours, without_ours};
use super::base64::decode_base64;
use super::macaroon::{MACAROON_BYTES_MAX, Parsed};

/// The most tokens in a credential. Clients send one; the specification allows a list.
const MACAROONS_MAX: usize = 4;

/// The most credentials that are read in one request. Clients send one. The size limit of the
/// headers applies, too.
pub const CREDENTIALS_MAX: usize = 8;

/// The headers in which gRPC clients send a macaroon in hex.
pub const MACAROON_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("macaroon"),
    HeaderName::from_static("grpc-metadata-macaroon"),
    HeaderName::from_static("token"),
];

/// The headers that grpc-gateway forwards as `authorization` and `token`. Credentials in them are
/// removed, but never read.
const GRPC_AUTHORIZATION: HeaderName = HeaderName::from_static("grpc-metadata-authorization");
const GRPC_TOKEN: HeaderName = HeaderName::from_static("grpc-metadata-token");

/// A token and preimage as presented, not yet verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The bytes of each token. All of them must verify.
    pub macaroons: Vec<Vec<u8>>,
    /// The preimage after the colon, if present. It may also be in a caveat.
    pub preimage: Option<[u8; 32]>,
}

/// Prints nothing of the token or the preimage, because both are secrets.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl Credential {
    /// Parses the text after the scheme: `<base64 macaroon>[,<base64 macaroon>…][:<64 hex
    /// preimage>]`.
    fn read(text: &str) -> Option<Self> {
        let (tokens, preimage) = match text.trim().split_once(':') {
            Some((tokens, preimage)) => {
                (tokens, Some(decode_preimage(preimage.trim().as_bytes())?))
            }
            None => (text.trim(), None),
        };
        let mut macaroons = Vec::with_capacity(1);
        for token in tokens.split(',') {
            if macaroons.len() == MACAROONS_MAX {
                return None;
            }
            macaroons.push(decode_base64(token.trim().as_bytes())?);
        }
        Some(Self {
            macaroons,
            preimage,
        })
    }
}

/// The L402 credentials in the headers of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    /// No header contains an L402 credential.
    Nothing,
    /// The headers contain credentials, but none can be parsed.
    Unreadable,
    /// The credentials that can be parsed, in the order of their headers. One valid credential is
    /// enough.
    Credentials(Vec<Credential>),
}

/// Collects the credentials in a request's headers. Each header may be a list.
pub fn presented(headers: &HeaderMap) -> Presented {
    let mut found = Vec::new();
    let mut unreadable = false;
    let values = headers.get_all(AUTHORIZATION).iter();
    for listed in values.flat_map(|value| credentials(value.as_bytes())) {
        let Listed::Ours(text) = listed else {
            continue;
        };
        match std::str::from_utf8(text).ok().and_then(Credential::read) {
            Some(credential) if found.len() < CREDENTIALS_MAX => found.push(credential),
            _ => unreadable = true,
        }
    }
    for name in &MACAROON_HEADERS {
        let values = headers.get_all(name).iter();
        for text in values.flat_map(|value| elements(value.as_bytes())) {
            let is_shared = *name == MACAROON_HEADERS[2];
            match hex::decode(text) {
                // Other programs use the name `token`, too. A value that is not a macaroon is
                // theirs.
                Ok(bytes) if is_shared && Parsed::read(&bytes).is_err() => {}
                Ok(bytes) if bytes.len() <= MACAROON_BYTES_MAX && found.len() < CREDENTIALS_MAX => {
                    found.push(Credential {
                        macaroons: vec![bytes],
                        preimage: None,
                    });
                }
                _ => unreadable |= !is_shared,
            }
        }
    }
    match (found.is_empty(), unreadable) {
        (true, false) => Presented::Nothing,
        (true, true) => Presented::Unreadable,
        (false, _) => Presented::Credentials(found),
    }
}

/// The header value of the only credential, if the request has exactly one: an L402 credential with
/// one macaroon, and no macaroon in another header.
pub fn only_credential(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    let is_only = values.next().is_none()
        && is_one_of_ours(value)
        && !MACAROON_HEADERS
            .iter()
            .any(|name| headers.contains_key(name));
    is_only.then_some(value)
}

/// Removes everything that could be an L402 credential from these headers, so that no upstream sees
/// it. A credential of another scheme on the same line is kept.
pub fn strip(headers: &mut HeaderMap) {
    for name in [AUTHORIZATION, GRPC_AUTHORIZATION] {
        edit_values(headers, name, without_ours);
    }
    let [macaroon, grpc_macaroon, token] = MACAROON_HEADERS;
    headers.remove(macaroon);
    headers.remove(grpc_macaroon);
    // The header `token` belongs to the upstream unless it holds a macaroon.
    for name in [token, GRPC_TOKEN] {
        edit_values(headers, name, without_macaroons);
    }
}

/// Whether [`strip`] can change this header.
pub fn may_be_in(name: &HeaderName) -> bool {
    [AUTHORIZATION, GRPC_AUTHORIZATION, GRPC_TOKEN].contains(name)
        || MACAROON_HEADERS.contains(name)
}

/// Edits the values of a header: `None` keeps a value, an empty result removes it.
fn edit_values(headers: &mut HeaderMap, name: HeaderName, edit: fn(&[u8]) -> Option<Vec<u8>>) {
    if let http::header::Entry::Occupied(entry) = headers.entry(name) {
        let (name, values) = entry.remove_entry_mult();
        let edited = values.filter_map(|value| match edit(value.as_bytes()) {
            None => Some(value),
            Some(rest) if rest.is_empty() => None,
            Some(rest) => {
                let mut kept = HeaderValue::try_from(rest).ok()?;
                kept.set_sensitive(value.is_sensitive());
                Some(kept)
            }
        });
        let edited: Vec<_> = edited.collect();
        for value in edited {
            headers.append(name.clone(), value);
        }
    }
}

/// The elements of a list header, without empty ones.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    elements.filter(|element| !element.is_empty())
}

/// The list without hex macaroons; `None` if it has none.
fn without_macaroons(value: &[u8]) -> Option<Vec<u8>> {
    // A macaroon of any program in the binary format that Tollhouse mints.
    let is_macaroon =
        |element: &&[u8]| hex::decode(element).is_ok_and(|bytes| Parsed::read(&bytes).is_ok());
    let (macaroons, others): (Vec<_>, Vec<_>) = elements(value).partition(is_macaroon);
    (!macaroons.is_empty()).then(|| others.join(&b", "[..]))
}

/// Decodes a preimage of 64 hex digits in upper or lower case.
pub(super) fn decode_preimage(text: &[u8]) -> Option<[u8; 32]> {
    let mut preimage = [0; 32];
    hex::decode_to_slice(text, &mut preimage).ok()?;
    Some(preimage)
}
