//! A credential in every spelling that deployed clients use, over the real socket, and the spellings that open nothing.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::Method;
use regtest::client::Answer;

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::{Shop, Sold};

type Headers = Vec<(&'static str, String)>;

async fn ask(shop: &Shop, headers: &Headers) -> Answer {
    let mut request = shop.request(Method::GET, "/articles/page.txt");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    shop.send(request).await
}

/// A token whose two base64 alphabets and two paddings are all different.
fn telling(shop: &Shop) -> Sold {
    loop {
        let sold = shop.sell("articles", None);
        let text = sold.base64();
        if text.contains('+') && text.contains('/') && text.ends_with('=') {
            return sold;
        }
    }
}

fn authorization(value: String) -> Headers {
    vec![("authorization", value)]
}

fn accepted(sold: &Sold) -> Vec<Headers> {
    let (token, preimage) = (sold.base64(), hex::encode(sold.preimage));
    let narrower = sold.with_caveat("articles_requests=100").base64();
    let inside = sold.with_caveat(&format!("preimage={preimage}"));
    let (inside_text, inside_hex) = (inside.base64(), hex::encode(&inside.macaroon));
    let upper = preimage.to_uppercase();
    let mut all: Vec<Headers> = ["L402", "l402", "LSAT", "lsat", "LsAt"]
        .map(|scheme| authorization(format!("{scheme} {token}:{preimage}")))
        .into();
    all.extend(
        [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
            .map(|alphabet| alphabet.encode(&sold.macaroon))
            .map(|token| authorization(format!("L402 {token}:{preimage}"))),
    );
    all.extend(
        [
            format!("L402 {token}:{upper}"),
            format!("L402   {token}:{preimage}"),
            format!("L402 {token} : {preimage}"),
            format!("L402 {token},{narrower}:{preimage}"),
            format!("L402 {token}, {narrower}:{preimage}"),
            format!("L402 {inside_text}"),
            format!("L402 {inside_text}:{preimage}"),
            format!("L402 {inside_text}:{upper}"),
        ]
        .map(authorization),
    );
    all.extend(
        ["Macaroon", "Grpc-Metadata-Macaroon", "token"]
            .map(|name| vec![(name, inside_hex.clone())]),
    );
    all.push(vec![("macaroon", inside_hex.to_uppercase())]);
    let good = format!("L402 {token}:{preimage}");
    for other in [
        "Basic dXNlcjpwYXNz",
        "Bearer something",
        "L402 garbage",
        "L402 AgEE:00",
    ] {
        let (other, good) = (
            ("authorization", other.to_owned()),
            ("authorization", good.clone()),
        );
        all.push(vec![other.clone(), good.clone()]);
        all.push(vec![good, other]);
    }
    all.extend(lists(&good, sold));
    let folded = format!("00, {inside_hex},");
    all.extend(["macaroon", "token"].map(|name| vec![(name, folded.clone())]));
    // `token` is also other people's header.
    all.push(vec![
        ("token", "csrf-1234".to_owned()),
        ("authorization", good),
    ]);
    all
}

/// Header lines that a library or proxy has joined.
fn lists(good: &str, sold: &Sold) -> Vec<Headers> {
    let older = good.replacen("L402", "LSAT", 1);
    let (token, preimage) = (sold.base64(), hex::encode(sold.preimage));
    let narrower = sold.with_caveat("articles_requests=100").base64();
    [
        format!("{good}, Bearer up"),
        format!("Bearer up, {good}"),
        format!("Basic dXNlcjpwYXNz,{good}"),
        format!("{good}, {good}"),
        format!("{good}, {older}"),
        format!("L402 AgEE:00, {good}"),
        format!("{good},"),
        format!(", ,{good}, ,"),
        format!("L402 {token}, {narrower}:{preimage}, Bearer up"),
        format!("Digest username=\"a, L402 b\", uri=\"/\", {older}"),
        format!("{older}, Digest username=\"a, L402 b\", uri=\"/\""),
    ]
    .map(authorization)
    .into()
}

#[tokio::test]
async fn every_spelling_that_clients_use_is_accepted() {
    let shop = Shop::open().await;
    for headers in accepted(&telling(&shop)) {
        let answer = ask(&shop, &headers).await;
        assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
        assert_served(&answer);
    }
}

fn refused(shop: &Shop) -> Vec<Headers> {
    let sold = telling(shop);
    let (token, preimage) = (sold.base64(), hex::encode(sold.preimage));
    let (other, short) = ("00".repeat(32), &preimage[..62]);
    let inside = sold.with_caveat(&format!("preimage={preimage}")).base64();
    let wrong_inside = sold.with_caveat(&format!("preimage={other}")).base64();
    let second = shop.sell("articles", None).base64();
    let edited = sold.edited(|token| drop(token.caveats.pop())).base64();
    let five = [token.as_str(); 5].join(",");
    let mut all: Vec<Headers> = [
        format!("Bearer {token}:{preimage}"),
        format!("Basic {token}:{preimage}"),
        format!("L4021 {token}:{preimage}"),
        format!("L402X{token}:{preimage}"),
        format!("{token}:{preimage}"),
        format!("L402 {preimage}:{token}"),
        format!("L402 {token}"),
        format!("L402 {token}:"),
        format!("L402 :{preimage}"),
        format!("L402 {token}:{short}"),
        format!("L402 {token}:{preimage}00"),
        format!("L402 {token}:{preimage}:{preimage}"),
        format!("L402 {token}:0x{short}"),
        format!("L402 {token}::{preimage}"),
        format!("L402 {token},:{preimage}"),
        format!("L402 ,{token}:{preimage}"),
        format!("L402 {five}:{preimage}"),
        // Each of several has to verify, and all belong to one payment.
        format!("L402 {token},{second}:{preimage}"),
        format!("L402 {token},{edited}:{preimage}"),
        format!("L402 {edited},{token}:{preimage}"),
        // A preimage inside and one behind the colon are both meant.
        format!("L402 {inside}:{other}"),
        format!("L402 {wrong_inside}:{preimage}"),
        format!("L402 {wrong_inside}"),
        format!("L402 {}:{preimage}", hex::encode(&sold.macaroon)),
        format!("L402 {token}===:{preimage}"),
        format!("L402 {} {}:{preimage}", &token[..8], &token[8..]),
    ]
    .map(authorization)
    .into();
    let no_preimage = hex::encode(&sold.macaroon);
    all.push(vec![("macaroon", no_preimage)]);
    all.push(vec![("macaroon", inside)]);
    all.push(vec![("x-authorization", sold.header())]);
    all.push(vec![("cookie", sold.header())]);
    all
}

#[tokio::test]
async fn other_spellings_open_nothing() {
    let shop = Shop::open().await;
    for headers in refused(&shop) {
        let answer = ask(&shop, &headers).await;
        assert_eq!(answer.status, 402, "{headers:?}: {}", answer.text());
        assert_challenged(&answer);
    }
}

#[tokio::test]
async fn of_many_credentials_a_few_are_looked_at() {
    let shop = Shop::open().await;
    let good = ("authorization", shop.sell("articles", None).header());
    let wrong = ("authorization", shop.sell("counted", None).header());
    let mut headers = vec![wrong; tollhouse::protocol::l402::credential::CREDENTIALS_MAX - 1];
    headers.push(good.clone());
    assert_served(&ask(&shop, &headers).await);
    headers.insert(0, headers[0].clone());
    assert_challenged(&ask(&shop, &headers).await);
}

#[tokio::test]
async fn only_the_credential_that_opened_the_door_is_used() {
    let shop = Shop::open().await;
    let (first, second) = (
        shop.sell("articles", Some(1)),
        shop.sell("articles", Some(1)),
    );
    let both = vec![
        ("authorization", first.header()),
        ("authorization", second.header()),
    ];
    assert_served(&ask(&shop, &both).await);
    shop.is_counted(&first, 1).await;
    shop.is_counted(&second, 0).await;
    // The first one is used up now; the second still stands.
    assert_served(&ask(&shop, &both).await);
    assert_challenged(&ask(&shop, &both).await);
}
