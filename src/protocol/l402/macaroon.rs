//! The format of tokens: macaroons in the version 2 binary format, as the macaroon libraries write
//! it.
//!
//! Minting, parsing and the HMAC chain are implemented here, because every challenge and every paid
//! request needs them. Property tests compare them with the `macaroon` crate, which mints the
//! operator's tokens.

use ::macaroon::{ByteString, Macaroon, MacaroonKey};
use hmac::Mac;

use super::base64::{TOKEN_BYTES_MAX, decode_base64};
use super::identifier::{IDENTIFIER_BYTES, Identifier};
use super::root_key::{RootKeys, keyed};

/// The location that deployed clients expect in an L402 token.
const LOCATION: &str = "lsat";

/// The largest token that is read, in bytes. Minted tokens have about 300 bytes; the rest is for
/// caveats that holders add.
pub const MACAROON_BYTES_MAX: usize = TOKEN_BYTES_MAX;

/// The most caveats of a token that is read. Each costs an HMAC before the token is known to be
/// genuine. Minted tokens have up to 40, with eight services.
pub const CAVEATS_MAX: usize = 64;

/// The version byte of the binary format.
const VERSION_2: u8 = 2;
/// The end of a section.
const END: u8 = 0;
/// The tag of a location. It is optional in the header; in a caveat it marks a third party.
const LOCATION_TAG: u8 = 1;
/// The tag of an identifier: that of the token, or the text of a caveat.
const IDENTIFIER_TAG: u8 = 2;
/// The tag of the signature, which is the last field.
const SIGNATURE_TAG: u8 = 6;

/// The key with which the libraries derive a macaroon's first key.
const KEY_GENERATOR: [u8; 32] = *b"macaroons-key-generator\0\0\0\0\0\0\0\0\0";

/// Mints a token with this identifier and these first-party caveats; `None` for an unknown epoch.
pub fn mint(keys: &RootKeys, identifier: &Identifier, caveats: &[String]) -> Option<Vec<u8>> {
    let identifier = identifier.to_bytes();
    // The time 0 is safe here: only older keys can be retired, and none of them mints.
    let root_key = keys.root_key(&identifier, 0)?;
    let texts: usize = caveats.iter().map(|caveat| caveat.len() + 5).sum();
    let mut token = Vec::with_capacity(1 + 6 + 69 + texts + 1 + 34);
    token.push(VERSION_2);
    push_field(&mut token, LOCATION_TAG, LOCATION.as_bytes());
    push_field(&mut token, IDENTIFIER_TAG, &identifier);
    token.push(END);
    let mut signature = first_link(&root_key, &identifier);
    for caveat in caveats {
        push_field(&mut token, IDENTIFIER_TAG, caveat.as_bytes());
        token.push(END);
        signature = hmac(&signature, caveat.as_bytes());
    }
    token.push(END);
    push_field(&mut token, SIGNATURE_TAG, &signature);
    Some(token)
}

/// Mints with the `macaroon` crate, which takes four times as long. This function is for tokens
/// that are rarely minted, and for tests of [`mint`].
pub fn mint_by_crate(
    keys: &RootKeys,
    identifier: &Identifier,
    caveats: &[String],
) -> Option<Vec<u8>> {
    let identifier = identifier.to_bytes();
    let root_key = keys.root_key(&identifier, 0)?;
    // `MacaroonKey::generate` derives the key; `[u8; 32].into()` would skip that step.
    let key = MacaroonKey::generate(&root_key);
    let mut macaroon =
        Macaroon::create(Some(LOCATION.to_owned()), &key, identifier.to_vec().into()).ok()?;
    for caveat in caveats {
        macaroon.add_first_party_caveat(ByteString(caveat.clone().into_bytes()));
    }
    // The crate writes version 2 only as URL-safe base64, but the header needs the standard
    // alphabet. So the text is decoded into bytes again.
    let text = macaroon.serialize(::macaroon::Format::V2).ok()?;
    decode_base64(text.as_bytes())
}

/// A parsed token that is not yet verified. It borrows the bytes that it was parsed from.
#[derive(Clone, Copy)]
pub struct Parsed<'a> {
    /// The 66 bytes of the identifier.
    pub identifier: &'a [u8; IDENTIFIER_BYTES],
    /// The caveat section up to its end mark. Its format has been checked.
    caveats: &'a [u8],
    /// The last link of the HMAC chain.
    pub signature: &'a [u8; 32],
}

impl std::fmt::Debug for Parsed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parsed")
            .field("identifier", &self.identifier)
            .finish_non_exhaustive()
    }
}

/// The reasons why bytes are not a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The bytes are not in the version 2 binary format, are incomplete, or have extra bytes at the
    /// end.
    NotVersion2,
    /// The token is longer than [`MACAROON_BYTES_MAX`] or has more caveats than [`CAVEATS_MAX`].
    TooLong,
    /// A caveat requires a discharge from a third party.
    ThirdPartyCaveat,
    /// The identifier is not 66 bytes of version 0.
    UnknownIdentifier,
}

impl<'a> Parsed<'a> {
    /// Parses a token. Every byte must belong to it.
    pub fn read(bytes: &'a [u8]) -> Result<Self, FormatError> {
        if bytes.len() > MACAROON_BYTES_MAX {
            return Err(FormatError::TooLong);
        }
        let mut rest = bytes
            .strip_prefix(&[VERSION_2])
            .ok_or(FormatError::NotVersion2)?;
        if rest.first() == Some(&LOCATION_TAG) {
            take_field(&mut rest, LOCATION_TAG).ok_or(FormatError::NotVersion2)?;
        }
        let identifier = take_field(&mut rest, IDENTIFIER_TAG).ok_or(FormatError::NotVersion2)?;
        rest = rest.strip_prefix(&[END]).ok_or(FormatError::NotVersion2)?;
        let section = rest;
        let mut caveats = 0;
        while rest.first() != Some(&END) {
            caveats += 1;
            if caveats > CAVEATS_MAX {
                return Err(FormatError::TooLong);
            }
            if rest.first() == Some(&LOCATION_TAG) {
                return Err(FormatError::ThirdPartyCaveat);
            }
            take_field(&mut rest, IDENTIFIER_TAG).ok_or(FormatError::NotVersion2)?;
            match rest.split_first() {
                Some((&END, after)) => rest = after,
                Some(_) => return Err(FormatError::ThirdPartyCaveat),
                None => return Err(FormatError::NotVersion2),
            }
        }
        let caveats = &section[..section.len() - rest.len()];
        rest = &rest[1..];
        let signature = take_field(&mut rest, SIGNATURE_TAG).ok_or(FormatError::NotVersion2)?;
        if !rest.is_empty() {
            return Err(FormatError::NotVersion2);
        }
        Ok(Self {
            identifier: identifier
                .try_into()
                .map_err(|_| FormatError::UnknownIdentifier)?,
            caveats,
            signature: signature.try_into().map_err(|_| FormatError::NotVersion2)?,
        })
    }

    /// The texts of the caveats, in order.
    pub fn caveats(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.caveats;
        std::iter::from_fn(move || {
            let text = take_field(&mut rest, IDENTIFIER_TAG)?;
            rest = rest.strip_prefix(&[END])?;
            Some(text)
        })
    }

    /// The correct signature of the token under this root key.
    pub fn expected_signature(&self, root_key: &[u8; 32]) -> [u8; 32] {
        let first = first_link(root_key, self.identifier);
        self.caveats()
            .fold(first, |signature, caveat| hmac(&signature, caveat))
    }
}

/// The first link of the HMAC chain.
fn first_link(root_key: &[u8; 32], identifier: &[u8; IDENTIFIER_BYTES]) -> [u8; 32] {
    hmac(&hmac(&KEY_GENERATOR, root_key), identifier)
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    keyed(key)
        .chain_update(message)
        .finalize()
        .into_bytes()
        .into()
}

/// Writes `tag ‖ varint length ‖ content`.
fn push_field(token: &mut Vec<u8>, tag: u8, content: &[u8]) {
    token.push(tag);
    let mut len = content.len();
    while len >= 0x80 {
        token.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    token.push(len as u8);
    token.extend_from_slice(content);
}

/// Removes `tag ‖ varint length ‖ content` from the front of `rest` and returns the content.
fn take_field<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let after_tag = rest.strip_prefix(&[tag])?;
    let (len, after_len) = match *after_tag.first()? {
        low if low < 0x80 => (usize::from(low), &after_tag[1..]),
        // Two bytes can encode lengths up to 16,383, more than the largest token that is read. So a
        // third byte is never needed.
        low => {
            let high = *after_tag
                .get(1)
                .filter(|high| **high < 0x80 && **high > 0)?;
            (
                usize::from(low & 0x7f) | usize::from(high) << 7,
                &after_tag[2..],
            )
        }
    };
    let (content, after) = after_len.split_at_checked(len)?;
    *rest = after;
    Some(content)
}
