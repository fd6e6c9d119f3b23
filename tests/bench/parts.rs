//! The parts of a challenge and of a paid request, timed one by one by criterion. `scripts/bench` reads the medians.

use std::hint::black_box;
use std::time::Duration;

use bitcoin::Network;
use criterion::Criterion;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use lightning::routing::gossip::RoutingFees;
use lightning::routing::router::{RouteHint, RouteHintHop};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tollhouse::account::ledger::record::TokenRecord;
use tollhouse::account::ledger::{self, Ledger, Overrun};
use tollhouse::account::store::Store;
use tollhouse::base::amount::Msat;
use tollhouse::base::clock::Clock;
use tollhouse::protocol::invoice::{Inbound, Minter, PaymentKeys, Reach, Terms};
use tollhouse::protocol::l402::base64::encode_base64;
use tollhouse::protocol::l402::caveat::Subject;
use tollhouse::protocol::l402::credential::{Presented, presented};
use tollhouse::protocol::l402::{
    Credential, Identifier, MasterKey, RootKeys, TokenId, Verified, macaroon, prove,
};

/// Some moment, Unix seconds.
const NOW_SECS: u64 = 1_760_000_000;
/// What is sold.
const SERVICE: &str = "chain";
/// What it costs, in msat.
const PRICE_MSAT: u64 = 10_000;

/// A request.
const SUBJECT: Subject<'static> = Subject {
    service: SERVICE,
    tier: 0,
    price_msat: PRICE_MSAT,
    path: "/chain/blocks/tip/height",
    method: "GET",
    client: None,
    now_secs: NOW_SECS,
};

/// Runs them all, without criterion's macros: these make undocumented public functions.
fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    mint_invoice(&mut criterion);
    mint_token(&mut criterion);
    verify_credential(&mut criterion);
    reserve(&mut criterion, "reserve_thousand", 1_000);
    reserve(&mut criterion, "reserve_million", 1_000_000);
    criterion.final_summary();
}

/// An invoice of a node with one private channel.
fn mint_invoice(criterion: &mut Criterion) {
    let keys = PaymentKeys::from_seed(&[7; 64], Network::Regtest).expect("this seed makes keys");
    let hint = RouteHint(vec![RouteHintHop {
        src_node_id: keys.node_id(),
        short_channel_id: 0x0001_0000_0200_0003,
        fees: RoutingFees {
            base_msat: 1_000,
            proportional_millionths: 100,
        },
        cltv_expiry_delta: 72,
        htlc_minimum_msat: Some(1),
        htlc_maximum_msat: Some(1_000_000_000),
    }]);
    let (_told, reach) = watch::channel(Reach::Ready(Inbound {
        hints: vec![hint],
        capacity_msat: 1_000_000_000,
        htlc_minimum_msat: 1,
    }));
    let minter = Minter::new(keys, Network::Regtest, Duration::from_secs(600), reach);
    let amount = Msat::new(PRICE_MSAT).expect("less than all bitcoin");
    let mut number = 0_u64;
    criterion.bench_function("mint_invoice", |bencher| {
        bencher.iter(|| {
            // Another payment hash each time, as in life.
            number += 1;
            let mut random = [3; 32];
            random[..8].copy_from_slice(&number.to_be_bytes());
            let minted = minter.mint(&Terms {
                amount,
                description: "chain: any number of requests within 1d",
                now_secs: NOW_SECS,
                random,
            });
            minted.expect("the channel takes this amount")
        });
    });
}

/// A token with three caveats.
fn mint_token(criterion: &mut Criterion) {
    let (keys, caveats) = (root_keys(), caveats());
    let mut number = 0_u64;
    criterion.bench_function("mint_token", |bencher| {
        bencher.iter(|| {
            number += 1;
            let mut payment_hash = [5; 32];
            payment_hash[..8].copy_from_slice(&number.to_be_bytes());
            let identifier = identifier(payment_hash);
            macaroon::mint(&keys, &identifier, &caveats).expect("the epoch is the current one")
        });
    });
}

/// As the gate verifies a credential that it sees for the first time.
fn verify(keys: &RootKeys, credential: &Credential) -> Verified {
    let proven = prove(keys, credential, NOW_SECS).expect("it was sold here and paid for");
    let verified = proven.verify(keys, black_box(&SUBJECT));
    verified.expect("its caveats hold")
}

/// From a request's headers to the verified credential: base64, macaroon, HMAC chain, preimage, caveats.
fn verify_credential(criterion: &mut Criterion) {
    let (keys, preimage) = (root_keys(), [9; 32]);
    let identifier = identifier(Sha256::digest(preimage).into());
    let token = macaroon::mint(&keys, &identifier, &caveats()).expect("the epoch is current");
    let value = format!("L402 {}:{}", encode_base64(&token), hex::encode(preimage));
    let mut headers = HeaderMap::new();
    let value = HeaderValue::try_from(value).expect("base64 and hex fit a header");
    headers.insert(AUTHORIZATION, value);
    criterion.bench_function("verify", |bencher| {
        bencher.iter(|| {
            let Presented::Credentials(credentials) = presented(black_box(&headers)) else {
                panic!("the credential is not read");
            };
            verify(&keys, &credentials[0])
        });
    });
}

/// Verifying a credential and reserving one request on it, of a ledger that has so many tokens; a thousand of them are in
/// use.
fn reserve(criterion: &mut Criterion, name: &str, tokens: u32) {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let config = ledger::Config {
        folder: folder.path().join("ledger"),
        challenges_max: 1_000,
        quotas_max: 1_000,
    };
    let clock = Clock::fixed(NOW_SECS);
    fill(&config, &clock, tokens);
    let ledger = Ledger::open(&config, clock).expect("the ledger opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime of one thread");
    // Spread over all of them.
    let in_use: Vec<_> = (0..1_000)
        .map(|number| sold(number * (tokens / 1_000)))
        .collect();
    let keys = root_keys();
    let mut turn = 0;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            turn = (turn + 1) % in_use.len();
            let (credential, _) = &in_use[turn];
            let verified = verify(&keys, credential);
            let reserving = ledger.reserve(&verified, SERVICE, Overrun::Serve, None);
            let reserved = runtime.block_on(reserving).expect("the ledger is well");
            reserved.expect("there is some left").give_back();
        });
    });
}

/// Writes this many tokens into the store.
fn fill(config: &ledger::Config, clock: &Clock, tokens: u32) {
    drop(Ledger::open(config, clock.clone()).expect("the ledger opens"));
    let path = config.folder.join("store");
    let store = loop {
        // sled lets go of its files a moment after the handle is dropped.
        if let Ok(store) = Store::open(&path) {
            break store;
        }
        std::thread::yield_now();
    };
    let tree = store
        .tree::<TokenRecord>("tokens")
        .expect("the tree is there");
    let numbers: Vec<u32> = (0..tokens).collect();
    for numbers in numbers.chunks(10_000) {
        let entries: Vec<_> = numbers.iter().map(|number| token_record(*number)).collect();
        tree.put_all(&entries).expect("there is room on the disk");
    }
    store.flush_blocking().expect("the disk takes it");
    drop((tree, store));
    while Store::open(&path).is_err() {
        std::thread::yield_now();
    }
}

fn token_record(number: u32) -> (Vec<u8>, TokenRecord) {
    let identifier = numbered(number);
    let token = TokenRecord {
        payment_hash: identifier.payment_hash,
        token_id: identifier.token_id.0,
        service: SERVICE.to_owned(),
        issued_ms: None,
        first_used_ms: NOW_SECS * 1_000,
        last_used_ms: NOW_SECS * 1_000,
        requests: 1,
        valid_until_secs: Some(NOW_SECS + 86_400),
        bytes: 1_000,
        metered_ms: 10,
    };
    (
        TokenRecord::key(&token.payment_hash, &token.token_id),
        token,
    )
}

/// The preimage of a token.
fn preimage_of(number: u32) -> [u8; 32] {
    Sha256::digest(number.to_be_bytes()).into()
}

fn numbered(number: u32) -> Identifier {
    Identifier {
        payment_hash: Sha256::digest(preimage_of(number)).into(),
        token_id: TokenId::new(0, NOW_SECS, preimage_of(!number)),
    }
}

/// A credential that was bought.
fn sold(number: u32) -> (Credential, Identifier) {
    let identifier = numbered(number);
    let token =
        macaroon::mint(&root_keys(), &identifier, &caveats()).expect("the epoch is current");
    let credential = Credential {
        macaroons: vec![token],
        preimage: Some(preimage_of(number)),
    };
    (credential, identifier)
}

/// What a token of a counted grant says.
fn caveats() -> Vec<String> {
    vec![
        format!("services={SERVICE}:0"),
        format!("{SERVICE}_valid_until={}", NOW_SECS + 86_400),
        format!("{SERVICE}_requests=100"),
    ]
}

/// The keys of some server.
fn root_keys() -> RootKeys {
    let master = MasterKey {
        epoch: 0,
        secret: [1; 32],
        until_secs: None,
    };
    RootKeys::new(&master, &[])
}

/// The identifier of the one token of this payment.
fn identifier(payment_hash: [u8; 32]) -> Identifier {
    Identifier {
        payment_hash,
        token_id: TokenId::new(0, 0, [4; 32]),
    }
}
