//! Tokens against the `macaroon` crate, which is the yardstick: what it mints we verify, what we mint it verifies, and what
//! was tampered with neither opens anything.

use http::HeaderMap;
use macaroon::{ByteString, Format, Macaroon, MacaroonKey, Verifier};
use proptest::collection::vec;
use proptest::prelude::*;
use tollhouse::protocol::l402::caveat::Subject;
use tollhouse::protocol::l402::credential::{Presented, presented};
use tollhouse::protocol::l402::macaroon::{FormatError, Parsed, mint, mint_by_crate};
use tollhouse::protocol::l402::{
    Credential, Identifier, Refusal, RootKeys, TokenId, Verified, prove,
};

use crate::support::{NOW_SECS, Sold, master_key};

fn keys() -> RootKeys {
    RootKeys::new(&master_key(), &[])
}

const SUBJECT: Subject<'static> = Subject {
    service: "chain",
    tier: 0,
    price_msat: 10_000,
    path: "/chain/blocks",
    method: "GET",
    client: None,
    now_secs: NOW_SECS,
};

fn sold(caveats: &[&str]) -> Sold {
    let caveats: Vec<_> = caveats.iter().map(|text| (*text).to_owned()).collect();
    Sold::mint(&keys(), &caveats)
}

fn verified(macaroon: &[u8], preimage: [u8; 32]) -> Result<Verified, Refusal> {
    let credential = Credential {
        macaroons: vec![macaroon.to_vec()],
        preimage: Some(preimage),
    };
    verify(&credential)
}

/// As the gate verifies a credential that it sees for the first time.
fn verify(credential: &Credential) -> Result<Verified, Refusal> {
    prove(&keys(), credential, SUBJECT.now_secs)?.verify(&keys(), &SUBJECT)
}

/// The crate's verdict under this root key, with every caveat satisfied.
fn crate_verifies(macaroon: &Macaroon, root_key: &[u8; 32]) -> bool {
    let mut verifier = Verifier::default();
    for caveat in macaroon.first_party_caveats() {
        let macaroon::Caveat::FirstParty(caveat) = caveat else {
            return false;
        };
        verifier.satisfy_exact(caveat.predicate());
    }
    let key = MacaroonKey::generate(root_key);
    verifier.verify(macaroon, &key, Vec::new()).is_ok()
}

fn identifier() -> impl Strategy<Value = Identifier> {
    let halves = (any::<[u8; 32]>(), any::<[u8; 32]>());
    halves.prop_map(|(payment_hash, random)| Identifier {
        payment_hash,
        token_id: TokenId::new(0, 0, random),
    })
}

/// Up to six texts, some of them long enough for a length of two bytes.
fn caveats() -> impl Strategy<Value = Vec<String>> {
    vec(
        prop_oneof!["[ -~]{1,40}", "\\PC{1,20}", "[a-z=,:]{120,300}"],
        0..6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_we_mint_the_crate_verifies(identifier in identifier(), caveats in caveats()) {
        let bytes = mint(&keys(), &identifier, &caveats).unwrap();
        let root_key = keys().root_key(&identifier.to_bytes(), 0).unwrap();
        let theirs = Macaroon::deserialize_binary(&bytes).unwrap();
        prop_assert_eq!(theirs.identifier().0, identifier.to_bytes().to_vec());
        prop_assert_eq!(theirs.location(), Some("lsat".to_owned()));
        prop_assert!(crate_verifies(&theirs, &root_key));
        let mut other = root_key;
        other[0] ^= 1;
        prop_assert!(!crate_verifies(&theirs, &other));
    }

    #[test]
    fn our_minting_equals_the_crates(identifier in identifier(), caveats in caveats()) {
        let (ours, theirs) = (mint(&keys(), &identifier, &caveats), mint_by_crate(&keys(), &identifier, &caveats));
        prop_assert!(ours.is_some());
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn what_the_crate_mints_we_verify(
        identifier in identifier(),
        caveats in caveats(),
        location in proptest::option::of("[ -~]{1,200}"),
    ) {
        let root_key = keys().root_key(&identifier.to_bytes(), 0).unwrap();
        let key = MacaroonKey::generate(&root_key);
        let mut theirs = Macaroon::create(location, &key, identifier.to_bytes().to_vec().into()).unwrap();
        for caveat in &caveats {
            theirs.add_first_party_caveat(ByteString(caveat.clone().into_bytes()));
        }
        let bytes = Sold::from_crate(&theirs, [0; 32]).macaroon;
        let ours = Parsed::read(&bytes).unwrap();
        prop_assert_eq!(Identifier::from_bytes(ours.identifier), Some(identifier));
        let read: Vec<_> = ours.caveats().map(|caveat| caveat.to_vec()).collect();
        let written: Vec<_> = caveats.iter().map(|caveat| caveat.clone().into_bytes()).collect();
        prop_assert_eq!(read, written);
        prop_assert_eq!(&ours.expected_signature(&root_key), ours.signature);
    }

    #[test]
    fn limits_only_ever_narrow(limits in vec(0_u64..6, 1..6)) {
        let mut copy = sold(&["services=chain:0"]);
        for limit in &limits {
            copy = copy.with_caveat(&format!("chain_requests={limit}"));
        }
        let verified = verified(&copy.macaroon, copy.preimage);
        if limits.is_sorted_by(|before, after| after <= before) {
            prop_assert_eq!(verified.unwrap().allowance.requests_max, limits.last().copied());
        } else {
            prop_assert_eq!(verified, Err(Refusal::Widened));
        }
    }

    #[test]
    fn random_bytes_are_no_token_and_no_panic(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(verified(&bytes, [0; 32]).is_err());
        let behind_a_good_start = [&[2_u8, 1, 4][..], b"lsat", &[2, 66], &bytes].concat();
        prop_assert!(verified(&behind_a_good_start, [0; 32]).is_err());
    }

    #[test]
    fn random_headers_are_no_credential_and_no_panic(text in "(L402|LSAT) [ -~]{0,200}") {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", text.parse().unwrap());
        if let Presented::Credentials(credentials) = presented(&headers) {
            for credential in credentials {
                prop_assert!(verify(&credential).is_err());
            }
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_never_opens_more() {
    let good = sold(&["services=chain:0", "chain_requests=5"]);
    let whole = verified(&good.macaroon, good.preimage).unwrap();
    // The location is a hint that no signature covers: version, tag and length stand before it.
    let location = 3..3 + "lsat".len();
    for index in 0..good.macaroon.len() {
        for bit in 0..8 {
            let mut flipped = good.macaroon.clone();
            flipped[index] ^= 1 << bit;
            let verified = verified(&flipped, good.preimage);
            if location.contains(&index) {
                assert_eq!(verified, Ok(whole));
            } else {
                assert!(verified.is_err(), "bit {bit} of byte {index}");
            }
        }
    }
}

#[test]
fn a_cut_or_longer_token_is_refused() {
    let good = sold(&["services=chain:0", "chain_requests=5"]);
    for length in 0..good.macaroon.len() {
        assert!(
            verified(&good.macaroon[..length], good.preimage).is_err(),
            "{length}"
        );
    }
    for byte in 0..=255 {
        let longer = [&good.macaroon[..], &[byte]].concat();
        assert_eq!(Parsed::read(&longer).err(), Some(FormatError::NotVersion2));
    }
    let twice = [&good.macaroon[..], &good.macaroon].concat();
    assert!(verified(&twice, good.preimage).is_err());
}

#[test]
fn removing_or_reordering_caveats_is_refused() {
    let good = sold(&[
        "services=chain:0",
        "chain_requests=5",
        "chain_valid_until=9000000000",
    ]);
    assert!(verified(&good.macaroon, good.preimage).is_ok());
    for index in 0..3 {
        let shorter = good.edited(|token| drop(token.caveats.remove(index)));
        let refused = verified(&shorter.macaroon, shorter.preimage);
        assert_eq!(refused, Err(Refusal::WrongSignature), "caveat {index}");
    }
    // Not even a holder takes back what they added themselves.
    let narrowed = good.with_caveat("chain_requests=1");
    let undone = narrowed.edited(|token| drop(token.caveats.pop()));
    assert_eq!(
        verified(&undone.macaroon, good.preimage),
        Err(Refusal::WrongSignature)
    );
    let swapped = good.edited(|token| token.caveats.swap(0, 1));
    assert_eq!(
        verified(&swapped.macaroon, good.preimage),
        Err(Refusal::WrongSignature)
    );
}

#[test]
fn a_third_party_caveat_is_refused() {
    let good = sold(&["services=chain:0"]);
    let mut theirs = Macaroon::deserialize_binary(&good.macaroon).unwrap();
    let key = MacaroonKey::generate(b"somebody else's");
    theirs.add_third_party_caveat("https://elsewhere.example", &key, b"who".to_vec().into());
    let with = Sold::from_crate(&theirs, good.preimage);
    assert_eq!(
        verified(&with.macaroon, with.preimage),
        Err(Refusal::ThirdPartyCaveat)
    );
}

#[test]
fn only_the_binary_format_of_version_2_is_read() {
    let good = sold(&["services=chain:0"]);
    let theirs = Macaroon::deserialize_binary(&good.macaroon).unwrap();
    for format in [Format::V1, Format::V2JSON] {
        let text = theirs.serialize(format).unwrap();
        assert!(verified(text.as_bytes(), good.preimage).is_err());
        let mut headers = HeaderMap::new();
        let header = format!("L402 {text}:{}", hex::encode(good.preimage));
        headers.insert("authorization", header.parse().unwrap());
        let opened = match presented(&headers) {
            Presented::Credentials(credentials) => credentials
                .iter()
                .any(|credential| verify(credential).is_ok()),
            Presented::Nothing | Presented::Unreadable => false,
        };
        assert!(!opened);
    }
}

#[test]
fn a_token_of_the_largest_size_is_read_and_a_longer_one_is_not() {
    let base = sold(&["services=chain:0"]);
    let (head, longest) = (
        base.macaroon.len(),
        tollhouse::protocol::l402::macaroon::MACAROON_BYTES_MAX,
    );
    // A caveat of this size costs four bytes more: tag, two of length, end mark.
    let fits = base.with_caveat(&"x".repeat(longest - head - 4));
    assert_eq!(fits.macaroon.len(), longest);
    assert!(verified(&fits.macaroon, fits.preimage).is_ok());
    let long = base.with_caveat(&"x".repeat(longest - head - 3));
    assert_eq!(
        Parsed::read(&long.macaroon).err(),
        Some(FormatError::TooLong)
    );
}

#[test]
fn a_token_of_many_caveats_is_not_even_hashed() {
    let max = tollhouse::protocol::l402::macaroon::CAVEATS_MAX;
    for (count, is_read) in [(max, true), (max + 1, false)] {
        let caveats: Vec<String> = (0..count).map(|number| format!("a={number}")).collect();
        let sold = Sold::mint(&keys(), &caveats);
        assert_eq!(
            tollhouse::protocol::l402::macaroon::Parsed::read(&sold.macaroon).is_ok(),
            is_read
        );
    }
}

#[test]
fn an_identifier_of_another_length_or_version_is_refused() {
    let key = MacaroonKey::generate(b"any");
    for identifier in [
        vec![0; 65],
        vec![0; 67],
        vec![],
        [&[0, 1][..], &[0; 64]].concat(),
    ] {
        let theirs = Macaroon::create(None, &key, identifier.into());
        // The crate refuses some of them itself.
        let Ok(theirs) = theirs else { continue };
        let bytes = Sold::from_crate(&theirs, [0; 32]).macaroon;
        assert_eq!(verified(&bytes, [0; 32]), Err(Refusal::Unreadable));
    }
}
