//! A thousand good credentials without a thousand payments: minted here, with the merchant's own master key.
//!
//! The payer could buy them, one payment each; what the gate does with them would be the same, for it verifies a token
//! and a preimage by arithmetic alone. That this arithmetic is the merchant's is checked against a token of its own.

use std::fs;

use anyhow::{Context, Result, bail};
use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256};
use regtest::client::Credential;
use regtest::network::Network;
use regtest::token::Token;

use super::goods::{SERVICE, SMALL};

/// How many tokens a client uses in turn.
pub(super) const CREDENTIALS: u32 = 1_000;
/// What root keys are derived with.
const ROOT_KEY_LABEL: &[u8] = b"l402-root-v1";
/// What macaroon libraries derive a macaroon's first key with.
const KEY_GENERATOR: [u8; 32] = *b"macaroons-key-generator\0\0\0\0\0\0\0\0\0";
/// Version 0, in front of payment hash and token id.
const VERSION: [u8; 2] = [0, 0];
/// The first two bytes of a token id: the epoch of the merchant's only master key.
const EPOCH: [u8; 2] = [0, 0];

/// Makes the credentials for the one service that is sold.
pub(super) async fn mint(network: &Network) -> Result<Vec<Credential>> {
    let master = master_key(network)?;
    let url = format!("{}{}", network.gate_url(), SMALL.sold);
    let pattern = network.client().challenge(&url).await?.token()?;
    if signature(&master, &pattern.identifier, &pattern.caveats).as_slice() != pattern.signature {
        bail!("the merchant signs its tokens in another way than this benchmark does");
    }
    if pattern
        .caveat("services")
        .is_none_or(|services| !services.starts_with(SERVICE))
    {
        bail!(
            "the merchant's token is for another service: {:?}",
            pattern.caveats
        );
    }
    Ok((0..CREDENTIALS)
        .map(|number| credential(&master, &pattern, number))
        .collect())
}

/// One credential. Preimage and token id are derived from the master key, which is as good as random.
fn credential(master: &[u8; 32], pattern: &Token, number: u32) -> Credential {
    let preimage = hmac(master, &[b"preimage", &number.to_be_bytes()]);
    let token_id = hmac(master, &[b"token id", &number.to_be_bytes()]);
    let payment_hash = sha256::Hash::hash(&preimage).to_byte_array();
    let identifier = [&VERSION[..], &payment_hash, &EPOCH, &token_id[2..]].concat();
    let token = Token {
        signature: signature(master, &identifier, &pattern.caveats).to_vec(),
        identifier,
        ..pattern.clone()
    };
    Credential {
        macaroon_base64: token.to_base64(),
        preimage_hex: hex::encode(preimage),
    }
}

/// The end of a token's HMAC chain.
fn signature(master: &[u8; 32], identifier: &[u8], caveats: &[String]) -> [u8; 32] {
    let root_key = hmac(master, &[ROOT_KEY_LABEL, identifier]);
    let key = hmac(&KEY_GENERATOR, &[&root_key]);
    caveats
        .iter()
        .fold(hmac(&key, &[identifier]), |signature, caveat| {
            hmac(&signature, &[caveat.as_bytes()])
        })
}

/// HMAC-SHA256 of these parts, one after the other.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut engine = HmacEngine::<sha256::Hash>::new(key);
    for part in parts {
        engine.input(part);
    }
    Hmac::from_engine(engine).to_byte_array()
}

/// The merchant's master key: a line of 64 hex digits.
fn master_key(network: &Network) -> Result<[u8; 32]> {
    let file = network.merchant.data_dir().join("master.key");
    let text =
        fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key)
        .with_context(|| format!("{} holds no key", file.display()))?;
    Ok(key)
}
