//! Fuzz targets for what clients send. Targets for private code are beside that code; `grep -rn fuzz::check` finds all.

use std::sync::LazyLock;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tollhouse::protocol::l402::caveat::{Allowance, Subject, satisfy};
use tollhouse::protocol::l402::credential::{CREDENTIALS_MAX, Presented, presented, strip};
use tollhouse::protocol::l402::macaroon::{CAVEATS_MAX, MACAROON_BYTES_MAX, Parsed, mint};
use tollhouse::protocol::l402::{Identifier, MasterKey, RootKeys, TokenId, prove, signed};
use tollhouse::sell::route::{Access, Found, RequestPath, RouteTable};

use crate::support::{NOW_SECS, table_selling};

/// Keys of which no input of the corpus knows anything.
static KEYS: LazyLock<RootKeys> = LazyLock::new(|| {
    let key = MasterKey {
        epoch: 0,
        secret: [0xf5; 32],
        until_secs: None,
    };
    RootKeys::new(&key, &[])
});

/// Headers, one a line.
fn credential(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts
            .next()
            .and_then(|name| HeaderName::from_bytes(name).ok());
        let value = parts.next().map(<[u8]>::trim_ascii);
        let value = value.and_then(|value| HeaderValue::from_bytes(value).ok());
        if let Some((name, value)) = name.zip(value) {
            headers.append(name, value);
        }
    }
    if let Presented::Credentials(credentials) = presented(&headers) {
        assert!(credentials.len() <= CREDENTIALS_MAX);
        for credential in &credentials {
            assert!(credential.macaroons.len() <= 4);
            let mut lengths = credential.macaroons.iter().map(Vec::len);
            assert!(lengths.all(|length| length <= MACAROON_BYTES_MAX));
            assert!(prove(&KEYS, credential, NOW_SECS).is_err(), "forged");
        }
    }
    strip(&mut headers);
    assert_eq!(presented(&headers), Presented::Nothing, "{headers:?}");
    let stripped = headers.clone();
    strip(&mut headers);
    assert_eq!(headers, stripped);
}

#[test]
fn fuzz_credential() {
    regtest::fuzz::check("credential", credential);
}

/// The bytes of a token.
fn macaroon(input: &[u8]) {
    assert!(signed(&KEYS, input, NOW_SECS).is_err(), "forged");
    let Ok(token) = Parsed::read(input) else {
        return;
    };
    let caveats: Vec<_> = token.caveats().collect();
    assert!(caveats.len() <= CAVEATS_MAX);
    let texts = caveats.iter().map(|caveat| std::str::from_utf8(caveat));
    let texts: Result<Vec<_>, _> = texts.map(|text| text.map(str::to_owned)).collect();
    let Some((identifier, texts)) = Identifier::from_bytes(token.identifier).zip(texts.ok()) else {
        return;
    };
    assert_eq!(identifier.to_bytes(), *token.identifier);
    // Written again by us, under a key of ours.
    let identifier = Identifier {
        token_id: TokenId::new(0, NOW_SECS, identifier.token_id.0),
        ..identifier
    };
    let ours = mint(&KEYS, &identifier, &texts).unwrap();
    let (read, again) = signed(&KEYS, &ours, NOW_SECS).unwrap();
    assert_eq!(read, identifier);
    assert!(again.caveats().eq(caveats));
    // One changed bit, in some of the bytes behind the location, which is not signed.
    let some = input.iter().map(|byte| usize::from(*byte)).sum::<usize>() % 16;
    for at in (7 + some..ours.len()).step_by(16) {
        let mut forged = ours.clone();
        forged[at] ^= 1 << (at % 8);
        assert!(signed(&KEYS, &forged, NOW_SECS).is_err(), "byte {at}");
    }
}

#[test]
fn fuzz_macaroon() {
    regtest::fuzz::check("macaroon", macaroon);
}

const SUBJECT: Subject<'static> = Subject {
    service: "a",
    tier: 1,
    price_msat: 10_000,
    path: "/a/page.txt",
    method: "GET",
    client: None,
    now_secs: NOW_SECS,
};

/// What the holder adds to a token, a caveat a line.
fn caveats(input: &[u8]) {
    let until_secs = NOW_SECS + 60;
    let minted = [
        "services=a:1,b:0".to_owned(),
        "a_price_msat=10000".to_owned(),
        format!("a_valid_until={until_secs}"),
        "a_requests=10".to_owned(),
        "a_bytes=1000".to_owned(),
        "a_seconds=100".to_owned(),
    ];
    let added: Vec<_> = input.split(|byte| *byte == b'\n').collect();
    let with = |count: usize| {
        let minted = minted.iter().map(String::as_bytes);
        satisfy(minted.chain(added[..count].iter().copied()), &SUBJECT)
    };
    let mut before = with(0).unwrap();
    for count in 1..=added.len().min(CAVEATS_MAX) {
        // A caveat after one that is not satisfied does not help.
        let Ok(now) = with(count) else {
            assert!(with(added.len()).is_err(), "satisfied again");
            return;
        };
        assert_narrower(&now, &before);
        before = now;
    }
}

fn assert_narrower(now: &Allowance, before: &Allowance) {
    for (now, before) in [
        (now.requests_max, before.requests_max),
        (now.bytes_max, before.bytes_max),
        (now.seconds_max, before.seconds_max),
        (now.price_max_msat, before.price_max_msat),
        (now.valid_until_secs, before.valid_until_secs),
    ] {
        assert!(now.unwrap() <= before.unwrap(), "{now:?} after {before:?}");
    }
    assert_eq!(now.is_priced, before.is_priced);
}

#[test]
fn fuzz_caveats() {
    regtest::fuzz::check("caveats", caveats);
}

/// The path of a request, as a server reads it that decodes it once, ignores case and parameters, and resolves dots.
fn read_loosely(path: &[u8]) -> String {
    let decoded = percent_encoding::percent_decode(path).decode_utf8_lossy();
    let mut segments = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_ascii_lowercase()),
        }
    }
    format!("/{}", segments.join("/"))
}

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| table_selling("/paid/*", "/*"));

/// The path of a request.
fn request_path(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(path) = RequestPath::read(&text) else {
        return;
    };
    assert!(path.as_str().len() <= 3 * text.len());
    for form in [path.as_str(), path.wire()] {
        let again = RequestPath::read(form).unwrap();
        assert_eq!(again.as_str(), path.as_str());
    }
    assert_eq!(RequestPath::read(path.wire()).unwrap().wire(), path.wire());
    if let Found::Route(route) = TABLE.find(&http::Method::GET, &path) {
        let is_free = matches!(route.access, Access::Free);
        let read = read_loosely(path.wire().as_bytes());
        assert!(!is_free || !read.starts_with("/paid/"), "{read} is free");
    }
}

#[test]
fn fuzz_request_path() {
    regtest::fuzz::check("request_path", request_path);
}
