//! Credentials that do not hold: each gets a fresh challenge that says why, and never the resource.

use http::{Method, header::AUTHORIZATION};
use macaroon::{Macaroon, MacaroonKey};
use regtest::token::Token;
use tollhouse::protocol::l402::{MasterKey, RootKeys};

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::{Shop, Sold, master_key};

/// A signed third-party caveat: only somebody else could discharge it.
fn with_third_party(sold: &Sold) -> Sold {
    let mut macaroon = Macaroon::deserialize_binary(&sold.macaroon).unwrap();
    let key = MacaroonKey::generate(b"somebody else's");
    macaroon.add_third_party_caveat("https://elsewhere.example", &key, b"who".to_vec().into());
    Sold::from_crate(&macaroon, sold.preimage)
}

/// What, the header that is sent, and what its refusal says.
type Row = (String, String, &'static str);

/// What, and how the bytes are changed.
type Edit = (&'static str, fn(&mut Token));

/// What a holder adds, signed as holders do, and what the refusal says.
#[rustfmt::skip]
const ADDED: &[(&str, &str)] = &[
    ("counted_requests=4", "asks for more"),
    ("counted_valid_until=9000000000", "asks for more"),
    ("services=counted:0,articles:0", "asks for more"),
    ("services=counted:1", "asks for more"),
    ("counted_path=/counted/other*", "narrowed"),
    ("counted_method=POST", "narrowed"),
    ("counted_ip=192.0.2.1", "narrowed"),
    ("counted_price_msat=9999", "narrowed"),
    ("counted_requests=+1", "not understood"),
    ("counted_bytes=x", "not understood"),
    ("counted_requests=0", "used up"),
    ("counted_valid_until=1800000000", "time is over"),
];

/// What somebody without the key makes of the bytes.
#[rustfmt::skip]
const EDITED: &[Edit] = &[
    ("last caveat removed", |token| drop(token.caveats.pop())),
    ("first caveat removed", |token| drop(token.caveats.remove(0))),
    ("all caveats removed", |token| token.caveats.clear()),
    ("caveats swapped", |token| token.caveats.swap(1, 2)),
    ("count edited", |token| token.caveats[2] = "counted_requests=9".into()),
    ("caveat added unsigned", |token| token.caveats.push("a=b".into())),
    ("payment hash edited", |token| token.identifier[2] ^= 1),
    ("token id edited", |token| token.identifier[65] ^= 1),
];

fn tampered(good: &Sold) -> Vec<Row> {
    let edited = EDITED
        .iter()
        .map(|(what, edit)| ((*what).to_owned(), good.edited(edit).header(), "signature"));
    let added = ADDED.iter().map(|(caveat, says)| {
        (
            (*caveat).to_owned(),
            good.with_caveat(caveat).header(),
            *says,
        )
    });
    edited.chain(added).collect()
}

/// Minted with these keys and these caveats.
fn minted(key: &MasterKey, caveats: &[&str]) -> String {
    let caveats: Vec<_> = caveats.iter().map(|text| (*text).to_owned()).collect();
    Sold::mint(&RootKeys::new(key, &[]), &caveats).header()
}

#[rustfmt::skip]
fn refused(shop: &Shop) -> Vec<Row> {
    let good = shop.sell("counted", Some(3));
    let mut wrong_preimage = good.clone();
    wrong_preimage.preimage[31] ^= 1;
    let ours = master_key();
    let foreign = MasterKey { secret: [0x5f; 32], ..ours };
    let epoch = MasterKey { epoch: 1, ..ours };
    let no_preimage = format!("L402 {}", good.base64());
    let mut rows: Vec<Row> = [
        ("wrong preimage", wrong_preimage.header(), "preimage"),
        ("no preimage", no_preimage.clone(), "no preimage"),
        ("empty preimage", format!("{no_preimage}:"), "cannot be read"),
        ("no text", "L402".to_owned(), "cannot be read"),
        ("no base64", "L402 ?:00".to_owned(), "cannot be read"),
        ("other service", shop.sell("articles", None).header(), "another service"),
        ("no service", minted(&ours, &[]), "another service"),
        ("no class", minted(&ours, &["services=counted"]), "another service"),
        ("other server", minted(&foreign, &["services=counted:0"]), "signature"),
        ("unknown epoch", minted(&epoch, &["services=counted:0"]), "not in force"),
        ("third party", with_third_party(&good).header(), "third-party"),
    ]
    .map(|(what, header, says)| (what.to_owned(), header, says))
    .into();
    rows.extend(tampered(&good));
    rows
}

#[tokio::test]
async fn a_credential_that_does_not_hold_gets_a_fresh_challenge_and_never_the_resource() {
    let shop = Shop::open().await;
    for (what, header, says) in refused(&shop) {
        let request = shop.request(Method::GET, "/counted/page.txt");
        let answer = shop.send(request.header(AUTHORIZATION, &header)).await;
        let challenge = assert_challenged(&answer);
        assert!(!header.contains(&challenge.macaroon), "{what}");
        let detail = challenge.problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{what}: {detail}");
    }
    // The same token without any of that is good.
    assert_served(
        &shop
            .get_with("/counted/page.txt", &shop.sell("counted", Some(3)))
            .await,
    );
}
