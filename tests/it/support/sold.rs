//! Tokens for payments whose preimages are known.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use macaroon::{ByteString, Macaroon};
use sha2::{Digest as _, Sha256};
use tollhouse::protocol::l402::{Identifier, RootKeys, TokenId};

use crate::support::NOW_SECS;

/// A token and the preimage that makes it good.
#[derive(Clone, Debug)]
pub(crate) struct Sold {
    pub(crate) macaroon: Vec<u8>,
    pub(crate) preimage: [u8; 32],
}

impl Sold {
    /// A token with these caveats for a payment of its own.
    pub(crate) fn mint(keys: &RootKeys, caveats: &[String]) -> Self {
        let mut random = [0; 32];
        getrandom::fill(&mut random).unwrap();
        Self::of(keys, TokenId::new(keys.epoch(), NOW_SECS, random), caveats)
    }

    /// The same of this id.
    pub(crate) fn of(keys: &RootKeys, token_id: TokenId, caveats: &[String]) -> Self {
        let mut preimage = [0; 32];
        getrandom::fill(&mut preimage).unwrap();
        let identifier = Identifier {
            payment_hash: Sha256::digest(preimage).into(),
            token_id,
        };
        Self {
            macaroon: tollhouse::protocol::l402::macaroon::mint(keys, &identifier, caveats)
                .unwrap(),
            preimage,
        }
    }

    /// The value of an `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("L402 {}:{}", self.base64(), hex::encode(self.preimage))
    }

    pub(crate) fn base64(&self) -> String {
        STANDARD.encode(&self.macaroon)
    }

    /// A copy that its holder has added a caveat to, with the library that holders use.
    pub(crate) fn with_caveat(&self, caveat: &str) -> Self {
        let mut macaroon = Macaroon::deserialize_binary(&self.macaroon).unwrap();
        macaroon.add_first_party_caveat(ByteString(caveat.as_bytes().to_vec()));
        Self::from_crate(&macaroon, self.preimage)
    }

    /// What that library writes.
    pub(crate) fn from_crate(macaroon: &Macaroon, preimage: [u8; 32]) -> Self {
        let text = macaroon.serialize(macaroon::Format::V2).unwrap();
        Self {
            macaroon: URL_SAFE.decode(text).unwrap(),
            preimage,
        }
    }

    /// A copy whose bytes were edited without the key: the signature stays what it was.
    pub(crate) fn edited(&self, edit: impl FnOnce(&mut regtest::token::Token)) -> Self {
        let mut token = regtest::token::Token::from_bytes(&self.macaroon).unwrap();
        edit(&mut token);
        Self {
            macaroon: token.to_bytes(),
            preimage: self.preimage,
        }
    }

    pub(crate) fn identifier(&self) -> Identifier {
        let parsed = tollhouse::protocol::l402::macaroon::Parsed::read(&self.macaroon).unwrap();
        Identifier::from_bytes(parsed.identifier).unwrap()
    }
}
