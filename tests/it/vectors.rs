//! Five tokens on which four independent libraries agree, byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use macaroon::{ByteString, Macaroon, MacaroonKey, Verifier};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tollhouse::protocol::l402::Identifier;
use tollhouse::protocol::l402::caveat::{Subject, Unsatisfied, satisfy};
use tollhouse::protocol::l402::macaroon::Parsed;

use crate::support::Sold;

#[derive(Debug, Deserialize)]
struct Vector {
    name: String,
    location: String,
    root_key_hex: String,
    derived_key_hex: String,
    preimage_hex: String,
    payment_hash_hex: String,
    token_id_hex: String,
    identifier_hex: String,
    caveats: Vec<String>,
    signature_hex: String,
    wrong_signature_without_key_derivation_hex: String,
    macaroon_hex: String,
    macaroon_base64: String,
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../fixtures/macaroons.json")).unwrap();
    assert_eq!(vectors.len(), 5);
    vectors
}

impl Vector {
    fn bytes(&self) -> Vec<u8> {
        hex::decode(&self.macaroon_hex).unwrap()
    }

    fn root_key(&self) -> [u8; 32] {
        hex::decode(&self.root_key_hex).unwrap().try_into().unwrap()
    }
}

#[test]
fn our_reader_reads_every_field() {
    for vector in vectors() {
        let bytes = vector.bytes();
        assert_eq!(
            STANDARD.encode(&bytes),
            vector.macaroon_base64,
            "{}",
            vector.name
        );
        let token = Parsed::read(&bytes).unwrap();
        assert_eq!(hex::encode(token.identifier), vector.identifier_hex);
        assert_eq!(hex::encode(token.signature), vector.signature_hex);
        let caveats: Vec<_> = token
            .caveats()
            .map(|caveat| String::from_utf8(caveat.to_vec()).unwrap())
            .collect();
        assert_eq!(caveats, vector.caveats);
        let identifier = Identifier::from_bytes(token.identifier).unwrap();
        assert_eq!(
            hex::encode(identifier.payment_hash),
            vector.payment_hash_hex
        );
        assert_eq!(identifier.token_id.to_string(), vector.token_id_hex);
        let preimage = hex::decode(&vector.preimage_hex).unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(preimage)),
            vector.payment_hash_hex
        );
    }
}

#[test]
fn our_chain_ends_in_every_signature() {
    for vector in vectors() {
        let bytes = vector.bytes();
        let expected = Parsed::read(&bytes)
            .unwrap()
            .expected_signature(&vector.root_key());
        assert_eq!(
            hex::encode(expected),
            vector.signature_hex,
            "{}",
            vector.name
        );
        assert_ne!(
            hex::encode(expected),
            vector.wrong_signature_without_key_derivation_hex
        );
        let mut other = vector.root_key();
        other[31] ^= 1;
        assert_ne!(
            hex::encode(Parsed::read(&bytes).unwrap().expected_signature(&other)),
            vector.signature_hex
        );
    }
}

#[test]
fn the_crate_verifies_each_and_mints_the_same_bytes() {
    for vector in vectors() {
        let key = MacaroonKey::generate(&vector.root_key());
        assert_eq!(
            hex::encode(&key[..]),
            vector.derived_key_hex,
            "{}",
            vector.name
        );
        let read = Macaroon::deserialize_binary(&vector.bytes()).unwrap();
        let mut verifier = Verifier::default();
        let identifier = hex::decode(&vector.identifier_hex).unwrap();
        let location = Some(vector.location.clone());
        let mut minted = Macaroon::create(location, &key, identifier.into()).unwrap();
        for caveat in &vector.caveats {
            let caveat = ByteString(caveat.clone().into_bytes());
            verifier.satisfy_exact(caveat.clone());
            minted.add_first_party_caveat(caveat);
        }
        assert!(verifier.verify(&read, &key, Vec::new()).is_ok());
        let minted = Sold::from_crate(&minted, [0; 32]).macaroon;
        assert_eq!(hex::encode(minted), vector.macaroon_hex, "{}", vector.name);
    }
}

#[test]
fn their_caveats_mean_what_they_say() {
    let subject = |service, now_secs| Subject {
        service,
        tier: 0,
        price_msat: 1,
        path: "/",
        method: "GET",
        client: None,
        now_secs,
    };
    let [plain, timed, narrowed, bare, long] = vectors().try_into().unwrap();
    let hold = |vector: &Vector, subject: &Subject<'_>| {
        satisfy(
            vector.caveats.iter().map(|caveat| caveat.as_bytes()),
            subject,
        )
    };
    assert!(hold(&plain, &subject("service1", 0)).is_ok());
    assert_eq!(
        hold(&plain, &subject("service2", 0)),
        Err(Unsatisfied::Service)
    );
    let until = 1_893_456_000;
    assert!(hold(&timed, &subject("lightning_loop", until - 1)).is_ok());
    assert_eq!(
        hold(&timed, &subject("lightning_loop", until)),
        Err(Unsatisfied::Expired)
    );
    assert!(
        hold(&timed, &subject("pool", until)).is_ok(),
        "another service's time"
    );
    let earlier = 1_861_920_000;
    let allowance = hold(&narrowed, &subject("lightning_loop", earlier - 1)).unwrap();
    assert_eq!(allowance.valid_until_secs, Some(earlier));
    assert_eq!(
        allowance.preimage.map(hex::encode),
        Some(narrowed.preimage_hex.clone())
    );
    assert_eq!(
        hold(&narrowed, &subject("lightning_loop", earlier)),
        Err(Unsatisfied::Expired)
    );
    // Elsewhere a token without a service opens everything; here it opens nothing.
    assert_eq!(
        hold(&bare, &subject("service1", 0)),
        Err(Unsatisfied::Service)
    );
    assert!(hold(&long, &subject("svc19", 0)).is_ok());
    assert_eq!(hold(&long, &subject("svc20", 0)), Err(Unsatisfied::Service));
}
