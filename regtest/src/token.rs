//! What a token says, read for display: the macaroon's version 2 binary format, field by field. Nothing is verified here;
//! only the merchant could.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256};

/// Field types of the format.
const END: u8 = 0;
const LOCATION: u8 = 1;
const IDENTIFIER: u8 = 2;
const SIGNATURE: u8 = 6;

/// A token, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// A hint at who made it.
    pub location: Option<String>,
    /// Version, payment hash and token id.
    pub identifier: Vec<u8>,
    /// The restrictions, as `condition=value`.
    pub caveats: Vec<String>,
    /// The end of the HMAC chain.
    pub signature: Vec<u8>,
}

impl Token {
    /// Takes apart the base64 of a challenge.
    ///
    /// # Errors
    /// When it is no macaroon of version 2 with first-party caveats only.
    pub fn from_base64(base64: &str) -> Result<Self> {
        Self::from_bytes(
            &STANDARD
                .decode(base64)
                .context("the token is no standard base64")?,
        )
    }

    /// Takes apart the binary form.
    ///
    /// # Errors
    /// When it is no macaroon of version 2 with first-party caveats only.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        if take(&mut rest, 1)? != [2] {
            bail!("the token is no macaroon of version 2");
        }
        let (mut location, mut tag) = (None, byte(&mut rest)?);
        if tag == LOCATION {
            location = Some(String::from_utf8_lossy(field(&mut rest)?).into_owned());
            tag = byte(&mut rest)?;
        }
        expect(tag, IDENTIFIER)?;
        let identifier = field(&mut rest)?.to_vec();
        expect(byte(&mut rest)?, END)?;
        let mut caveats = Vec::new();
        while let tag @ 1.. = byte(&mut rest)? {
            expect(tag, IDENTIFIER)?;
            caveats.push(String::from_utf8_lossy(field(&mut rest)?).into_owned());
            expect(byte(&mut rest)?, END).context("a caveat is not first-party")?;
        }
        expect(byte(&mut rest)?, SIGNATURE)?;
        let signature = field(&mut rest)?.to_vec();
        if !rest.is_empty() {
            bail!("{} bytes follow the token", rest.len());
        }
        Ok(Self {
            location,
            identifier,
            caveats,
            signature,
        })
    }

    /// The binary form again.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2];
        if let Some(location) = &self.location {
            push(&mut bytes, LOCATION, location.as_bytes());
        }
        push(&mut bytes, IDENTIFIER, &self.identifier);
        bytes.push(END);
        for caveat in &self.caveats {
            push(&mut bytes, IDENTIFIER, caveat.as_bytes());
            bytes.push(END);
        }
        bytes.push(END);
        push(&mut bytes, SIGNATURE, &self.signature);
        bytes
    }

    /// The binary form as a challenge carries it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.to_bytes())
    }

    /// A copy that its holder restricted further: `signature = HMAC-SHA256(signature, caveat)`.
    #[must_use]
    pub fn attenuated(&self, caveat: &str) -> Self {
        let mut hmac = HmacEngine::<sha256::Hash>::new(&self.signature);
        hmac.input(caveat.as_bytes());
        let mut copy = self.clone();
        copy.caveats.push(caveat.to_owned());
        copy.signature = Hmac::<sha256::Hash>::from_engine(hmac)
            .to_byte_array()
            .to_vec();
        copy
    }

    /// The payment hash in the identifier: bytes 2 to 34 of its 66.
    #[must_use]
    pub fn payment_hash_hex(&self) -> Option<String> {
        self.identifier.get(2..34).map(hex::encode)
    }

    /// The value of a condition's last caveat.
    #[must_use]
    pub fn caveat(&self, condition: &str) -> Option<&str> {
        let values = self
            .caveats
            .iter()
            .filter_map(|caveat| caveat.split_once('='));
        values
            .filter(|(name, _)| *name == condition)
            .map(|(_, value)| value)
            .next_back()
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len).context("the token ends early")?;
    *rest = left;
    Ok(taken)
}

fn byte(rest: &mut &[u8]) -> Result<u8> {
    Ok(take(rest, 1)?[0])
}

/// The length, seven bits a byte with the lowest first, and as many bytes.
fn field<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let mut len = 0_usize;
    for shift in [0, 7, 14] {
        let next = byte(rest)?;
        len |= usize::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return take(rest, len);
        }
    }
    bail!("a field of the token is longer than two megabytes");
}

fn expect(tag: u8, wanted: u8) -> Result<()> {
    if tag != wanted {
        bail!("field {tag} where the format has {wanted}");
    }
    Ok(())
}

fn push(bytes: &mut Vec<u8>, tag: u8, field: &[u8]) {
    bytes.push(tag);
    let mut len = field.len();
    while len > 0x7f {
        bytes.push(u8::try_from(len & 0x7f).expect("seven bits fit a byte") | 0x80);
        len >>= 7;
    }
    bytes.push(u8::try_from(len).expect("the loop left seven bits"));
    bytes.extend_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of the project's vectors; four independent libraries agree on every byte of it.
    const VECTOR: &str = "AgEEbHNhdAJCAAByzW6EIsQH+20JhpDxEwt97X7C9/Xh0wvZ1SHwFTY3kwICAgICAgICAgICAgICAgICAgICAgICAg\
                          ICAgICAgICAAITc2VydmljZXM9c2VydmljZTE6MAACFnNlcnZpY2UxX2NhcGFiaWxpdGllcz0AAAYgag1Lnm7wBWK2\
                          cMQ2s5WHqSwoBAwR181DqZjeHLcCFpQ=";

    #[test]
    fn a_token_of_another_library_is_taken_apart() {
        let token = Token::from_base64(VECTOR).unwrap();
        assert_eq!(token.location.as_deref(), Some("lsat"));
        assert_eq!(
            token.caveats,
            ["services=service1:0", "service1_capabilities="]
        );
        assert_eq!(token.caveat("services"), Some("service1:0"));
        assert_eq!(token.caveat("service2_capabilities"), None);
        assert_eq!(
            token.payment_hash_hex().unwrap(),
            "72cd6e8422c407fb6d098690f1130b7ded7ec2f7f5e1d30bd9d521f015363793"
        );
        assert_eq!(token.to_base64(), VECTOR);
    }

    #[test]
    fn a_long_caveat_survives_the_way_there_and_back() {
        let mut token = Token::from_base64(VECTOR).unwrap();
        token.caveats.push(format!("note={}", "x".repeat(20_000)));
        assert_eq!(Token::from_bytes(&token.to_bytes()).unwrap(), token);
    }

    #[test]
    fn a_token_cut_anywhere_or_with_a_byte_too_many_is_refused() {
        let whole = Token::from_base64(VECTOR).unwrap().to_bytes();
        for len in 0..whole.len() {
            assert!(
                Token::from_bytes(&whole[..len]).is_err(),
                "cut after {len} bytes"
            );
        }
        let mut longer = whole;
        longer.push(0);
        assert!(Token::from_bytes(&longer).is_err());
    }
}
