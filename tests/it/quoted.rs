//! Prices that somebody else has a say in, over the real router: a currency's rate, the operator's hook.

use std::time::Duration;

use http::{Method, StatusCode, header::AUTHORIZATION};
use regtest::client::Answer;
use regtest::wait::eventually;
use tollhouse::protocol::invoice::{Reach, Unready};

use crate::support::answers::price;
use crate::support::answers::{assert_challenged, assert_served};
use crate::support::teller::{Manner, Teller};
use crate::support::{DEADLINE, Shop, Sold};

fn route(name: &str, price: &str) -> String {
    format!(
        "[[route]]\npath = \"/{name}/*\"\nservice = \"{name}\"\nfiles = \"shop\"\nprice = {price}\n"
    )
}

/// No challenge, nothing to pay, and a word for when to ask again.
pub(crate) fn assert_unpriced(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("www-authenticate"), None);
    assert!(answer.header("retry-after").is_some());
    assert!(answer.text().contains("priced"), "{}", answer.text());
}

#[tokio::test]
async fn a_price_in_a_currency_goes_by_its_rate_and_the_rate_is_in_the_books() {
    let rate = "[[rate]]\ncurrency = \"USD\"\nfixed = \"100000\"\n";
    let shop = Shop::selling(&format!("{rate}{}", route("a", "\"0.01 USD\""))).await;
    let challenge = assert_challenged(&shop.get("/a/page.txt").await);
    // A bitcoin at 100,000 USD: a cent is 10 sat.
    assert_eq!(price(&challenge), 10_000);
    assert_served(&shop.get_with("/a/page.txt", &shop.pay(&challenge)).await);
    let paid = tollhouse::account::ledger::Payment {
        payment_hash: hex::decode(challenge.problem["payment_hash"].as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap(),
        amount_msat: 10_000,
    };
    let tollhouse::account::ledger::Settlement::New(sale) = shop.ledger.settle(paid).unwrap()
    else {
        panic!("no new sale");
    };
    let rate = sale.rate.unwrap();
    assert_eq!(
        (rate.currency.as_str(), rate.micros_per_btc),
        ("USD", 100_000_000_000)
    );
}

#[tokio::test]
async fn without_a_rate_there_is_no_challenge_and_what_was_bought_is_served_all_the_same() {
    let source = Teller::who(Manner::Refuses(500, "out of order".to_owned())).await;
    let rate = format!(
        "[[rate]]\ncurrency = \"USD\"\nrefresh = \"10s\"\nmax_age = \"60s\"\nsources = [{{ url = \"http://{}/\", pointer = \"/rate\" }}]\n",
        source.address
    );
    let shop = Shop::selling(&format!("{rate}{}", route("a", "\"0.01 USD\""))).await;
    source.is_asked(1).await;
    assert_unpriced(&shop.get("/a/page.txt").await);
    assert_served(&shop.get_with("/a/page.txt", &shop.sell("a", None)).await);
    for garbage in [
        "{\"rate\": -1}",
        "{\"rate\": 0}",
        "{\"rate\": 1e300}",
        "{}",
        "no",
    ] {
        source.now_says(garbage);
        assert_unpriced(&shop.get("/a/page.txt").await);
    }
    source.now_says("{\"rate\": \"50000\"}");
    let priced = eventually("a price", DEADLINE, || async {
        let answer = shop.get("/a/page.txt").await;
        Ok::<_, String>(answer.challenge().ok().map(|challenge| price(&challenge)))
    });
    assert_eq!(priced.await.unwrap(), 20_000);
    // The rate ages, and its source says nothing new.
    source.now(Manner::Refuses(500, String::new()));
    shop.clock.advance(Duration::from_secs(61));
    assert_unpriced(&shop.get("/a/page.txt").await);
}

pub(crate) async fn hooked(hook: &Teller, more: &str) -> Shop {
    hooked_at(hook.address, more).await
}

pub(crate) async fn hooked_at(address: std::net::SocketAddr, more: &str) -> Shop {
    let settings = format!(
        "[[hook]]\nname = \"pricer\"\nurl = \"http://{address}/\"\ntimeout = \"2s\"\nprice_max = \"100 sat\"\ncache = \"0s\"\n{more}\n"
    );
    Shop::selling(&format!(
        "{settings}{}",
        route("a", "{ by = \"hook:pricer\" }")
    ))
    .await
}

#[tokio::test]
async fn a_hook_sets_the_price_of_each_request_and_a_cheap_token_opens_no_dear_one() {
    let hook = Teller::who_says(
        "{\"price_msat\": 2000, \"description\": \"two lines\", \"grant\": {\"requests\": 2}}",
    )
    .await;
    let shop = hooked(&hook, "").await;
    let cheap = assert_challenged(&shop.get("/a/page.txt?q=1").await);
    assert_eq!(price(&cheap), 2_000);
    assert_eq!(cheap.problem["grant"]["requests"], 2);
    let invoice = cheap.invoice().unwrap();
    assert!(invoice.to_string().starts_with("lnbcrt20n"), "{invoice}");
    let asked = &hook.asked()[0];
    assert_eq!(
        (&asked["method"], &asked["path"]),
        (&"GET".into(), &"/a/page.txt".into())
    );
    assert_eq!(
        (&asked["query"], &asked["service"]),
        (&"q=1".into(), &"a".into())
    );
    let cheap = shop.pay(&cheap);
    assert_served(&shop.get_with("/a/page.txt?q=1", &cheap).await);
    hook.now_says("{\"price_msat\": 2001}");
    let dear = assert_challenged(&shop.get_with("/a/page.txt?q=1", &cheap).await);
    let dear = shop.pay(&dear);
    assert_served(&shop.get_with("/a/page.txt?q=1", &dear).await);
    hook.now_says("{\"price_msat\": 1}");
    assert_served(&shop.get_with("/a/page.txt?q=1", &cheap).await);
    // It bought two requests, by the hook's word.
    assert_challenged(&shop.get_with("/a/page.txt?q=1", &cheap).await);
    assert_served(&shop.get_with("/a/page.txt?q=1", &dear).await);
    // A token that does not say what it was worth opens nothing here, whatever its holder has it say.
    let flat = shop.sell("a", None);
    assert_challenged(&shop.get_with("/a/page.txt", &flat).await);
    let said = flat.with_caveat(&format!("a_price_msat={}", u64::MAX));
    assert_challenged(&shop.get_with("/a/page.txt", &said).await);
    let raised = cheap.with_caveat("a_price_msat=5000");
    hook.now_says("{\"price_msat\": 5000}");
    assert_challenged(&shop.get_with("/a/page.txt", &raised).await);
}

#[tokio::test]
async fn a_stranger_asks_the_hook_no_more_often_than_for_challenges_and_a_holder_is_not_in_the_way()
{
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let limits = "[limits]\nchallenges = { requests = 3, per = \"10m\" }";
    let shop = hooked(&hook, limits).await;
    let sold = shop.buy("/a/page.txt?n=0").await;
    let dear = assert_challenged(&shop.get("/a/page.txt?n=1").await);
    for number in 2..10 {
        let answer = shop.get(&format!("/a/page.txt?n={number}")).await;
        let expected = if number < 3 { 402 } else { 429 };
        assert_eq!(answer.status.as_u16(), expected, "{number}");
    }
    assert_eq!(hook.count(), 3);
    for number in 10..15 {
        let path = format!("/a/page.txt?n={number}");
        assert_served(&shop.get_with(&path, &sold).await);
    }
    assert_eq!(hook.count(), 8);
    // What is made up is a stranger's.
    let forged = sold.edited(|token| drop(token.caveats.pop()));
    let other = shop.sell("other", None);
    let revoked = shop.pay(&dear);
    let token_id = revoked.identifier().token_id.0;
    shop.ledger
        .revoke(
            tollhouse::account::ledger::record::Revoked::Token(token_id),
            "",
        )
        .unwrap();
    for stranger in [forged, other, revoked] {
        let answer = shop.get_with("/a/page.txt?n=99", &stranger).await;
        assert_eq!((answer.status.as_u16(), hook.count()), (429, 8));
    }
}

#[tokio::test]
async fn a_hook_that_gives_no_good_price_makes_no_challenge() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let shop = hooked(&hook, "").await;
    for (number, garbage) in [
        "{\"price_msat\": 0}",
        "{\"price_msat\": -5}",
        "{\"price_msat\": 100001}",
        "{\"price_msat\": 1.5}",
        "{\"price_msat\": \"1000\"}",
        "{\"price\": 1000}",
        "<html>",
        "",
    ]
    .iter()
    .enumerate()
    {
        hook.now_says(garbage);
        assert_unpriced(&shop.get(&format!("/a/page.txt?n={number}")).await);
    }
    hook.now(Manner::Lingers);
    assert_unpriced(&shop.get("/a/page.txt?n=late").await);
    hook.now_says("{\"price_msat\": 1000}");
    assert_challenged(&shop.get("/a/page.txt?n=good").await);
}

#[tokio::test]
async fn while_a_hook_is_away_the_price_of_the_settings_applies() {
    // The system never assigns port 1.
    let settings = "[[hook]]\nname = \"pricer\"\nurl = \"http://127.0.0.1:1/\"\nprice_max = \"100 sat\"\non_failure = \"7 sat\"\n";
    let shop = Shop::selling(&format!(
        "{settings}{}",
        route("a", "{ by = \"hook:pricer\" }")
    ))
    .await;
    let challenge = assert_challenged(&shop.get("/a/page.txt").await);
    assert_eq!(price(&challenge), 7_000);
    let sold: Sold = shop.pay(&challenge);
    let request = shop
        .request(Method::GET, "/a/page.txt")
        .header(AUTHORIZATION, sold.header());
    assert_served(&shop.send(request).await);
}

#[tokio::test]
async fn a_hook_with_a_bad_answer_gives_no_price_whatever_the_settings_say() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let shop = hooked(&hook, "on_failure = \"7 sat\"").await;
    for (number, manner) in [
        Manner::Says("{\"price_msat\": 100001}".into()),
        Manner::Says("{\"price_msat\": 0}".into()),
        Manner::Says("{\"price_msat\": -1}".into()),
        Manner::Refuses(500, String::new()),
        Manner::BreaksOff,
        Manner::Lingers,
    ]
    .into_iter()
    .enumerate()
    {
        hook.now(manner);
        assert_unpriced(&shop.get(&format!("/a/page.txt?n={number}")).await);
    }
}

#[tokio::test]
async fn a_hook_is_not_asked_about_a_header_that_servers_would_not_agree_on() {
    let hook = Teller::who_says("{\"price_msat\": 2000}").await;
    let chosen = "headers = [\"x-model\", \"authorization\", \"cookie\"]";
    let shop = hooked(&hook, chosen).await;
    let ask = |headers: &[(&'static str, &'static str)]| {
        let mut request = shop.request(Method::GET, "/a/page.txt");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        shop.send(request)
    };
    for disputed in [
        [("x-model", "small"), ("x_model", "large")],
        [("x-model", "small"), ("x-model", "large")],
        [("x.model", "large"), ("x-other", "")],
    ] {
        let answer = ask(&disputed).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{disputed:?}");
    }
    assert!(hook.asked().is_empty());
    // One credential of ours and one for the upstream, and a cookie in pieces.
    let fair = [
        ("authorization", "L402 AgEE:00"),
        ("authorization", "Basic dXNlcjpwYXNz"),
        ("cookie", "a=b"),
        ("cookie", "c=d"),
        ("x-model", "small"),
    ];
    assert_challenged(&ask(&fair).await);
    assert_eq!(hook.asked()[0]["headers"]["x-model"], "small");
    assert_eq!(hook.asked()[0]["headers"]["cookie"], "a=b; c=d");
}

#[tokio::test]
async fn limits_apply_before_the_hook_is_asked_also_to_holders_of_used_up_tokens() {
    let hook = Teller::who_says("{\"price_msat\": 1000, \"grant\": {\"requests\": 1}}").await;
    let limits = "[limits]\nchallenges = { requests = 2, per = \"10m\" }";
    let shop = hooked(&hook, limits).await;
    let sold = shop.buy("/a/page.txt").await;
    assert_served(&shop.get_with("/a/page.txt", &sold).await);
    let used_up = assert_challenged(&shop.get_with("/a/page.txt", &sold).await);
    let detail = used_up.problem["detail"].as_str().unwrap();
    assert!(detail.contains("used up"), "{detail}");
    assert_eq!(hook.count(), 3);
    for _ in 0..5 {
        let answer = shop.get_with("/a/page.txt", &sold).await;
        assert_eq!((answer.status.as_u16(), hook.count()), (429, 3));
    }
}

#[tokio::test]
async fn the_pace_of_a_token_applies_before_the_hook_is_asked_and_counts_once() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let limits = "[limits]\ntokens = { requests = 2, per = \"10m\" }";
    let shop = hooked(&hook, limits).await;
    let sold = shop.buy("/a/page.txt").await;
    for _ in 0..2 {
        assert_served(&shop.get_with("/a/page.txt", &sold).await);
    }
    for _ in 0..5 {
        let answer = shop.get_with("/a/page.txt", &sold).await;
        assert_eq!((answer.status.as_u16(), hook.count()), (429, 3));
    }
}

#[tokio::test]
async fn a_dry_run_asks_no_hook_beyond_the_limits_and_lets_everybody_through() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let limits = "[limits]\nchallenges = { requests = 2, per = \"10m\" }";
    let settings = format!(
        "[[hook]]\nname = \"pricer\"\nurl = \"http://{}/\"\ntimeout = \"2s\"\nprice_max = \"100 sat\"\ncache = \"0s\"\n{limits}\n{}dry_run = true\n",
        hook.address,
        route("a", "{ by = \"hook:pricer\" }")
    );
    let shop = Shop::selling(&settings).await;
    for _ in 0..5 {
        assert_served(&shop.get("/a/page.txt").await);
    }
    assert_eq!(hook.count(), 2);
}

/// A shop that allows this many challenges, and a token that it sold.
async fn limited(hook: &Teller, challenges: usize) -> (Shop, Sold) {
    let limits = format!("[limits]\nchallenges = {{ requests = {challenges}, per = \"10000s\" }}");
    let shop = hooked(hook, &limits).await;
    let sold = shop.buy("/a/page.txt").await;
    (shop, sold)
}

/// Sends a few requests, and returns how many requests the hook got for them.
async fn asks_for(shop: &Shop, hook: &Teller, sold: &Sold) -> usize {
    let before = hook.count();
    for _ in 0..6 {
        let status = shop.get_with("/a/page.txt", sold).await.status.as_u16();
        assert!(matches!(status, 402 | 429 | 503), "{status}");
    }
    hook.count() - before
}

#[tokio::test]
async fn the_holder_of_a_token_that_opens_nothing_asks_the_hook_as_a_stranger() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    // Tokens that open nothing at any price.
    for caveat in ["a_price_msat=0", "a_class=x"] {
        let (shop, sold) = limited(&hook, 3).await;
        let sold = sold.with_caveat(caveat);
        assert_eq!(asks_for(&shop, &hook, &sold).await, 2, "{caveat}");
    }
    // A token that might open the request allows one hook call.
    let (shop, sold) = limited(&hook, 1).await;
    let cheap = sold.with_caveat("a_price_msat=1");
    assert_eq!(asks_for(&shop, &hook, &cheap).await, 1);
    shop.clock.advance(Duration::from_secs(61));
    assert_eq!(asks_for(&shop, &hook, &cheap).await, 1);
    let (shop, sold) = limited(&hook, 1).await;
    hook.now_says("{\"price_msat\": 1000, \"class\": \"other\"}");
    assert_eq!(asks_for(&shop, &hook, &sold).await, 1);
    // An invalid answer keeps the hook busy, too.
    let (shop, sold) = limited(&hook, 1).await;
    hook.now(Manner::Refuses(500, String::new()));
    assert_eq!(asks_for(&shop, &hook, &sold).await, 1);
}

#[tokio::test]
async fn a_token_that_did_not_open_a_dear_request_opens_others_without_using_a_challenge() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let (shop, sold) = limited(&hook, 3).await;
    hook.now_says("{\"price_msat\": 1001}");
    assert_challenged(&shop.get_with("/a/page.txt", &sold).await);
    hook.now_says("{\"price_msat\": 1000}");
    for _ in 0..5 {
        assert_served(&shop.get_with("/a/page.txt", &sold).await);
    }
    assert_challenged(&shop.get("/a/page.txt").await);
    assert_eq!(shop.get("/a/page.txt").await.status.as_u16(), 429);
    assert_eq!(
        shop.get_with("/a/page.txt", &sold).await.status.as_u16(),
        429
    );
    shop.clock.advance(Duration::from_secs(61));
    for _ in 0..5 {
        assert_served(&shop.get_with("/a/page.txt", &sold).await);
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_the_hook_is_asked_is_then_a_stranger() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let (shop, sold) = limited(&hook, 1).await;
    hook.now(Manner::SaysWhenTold("{\"price_msat\": 1000}".to_owned()));
    let mut gone = waiting(&shop, 1, Some(&sold));
    hook.is_asked(2).await;
    gone.abort_all();
    while gone.join_next().await.is_some() {}
    hook.now_says("{\"price_msat\": 1000}");
    let refused = eventually("a refusal", DEADLINE, || async {
        let answer = shop.get_with("/a/page.txt", &sold).await;
        Ok::<_, String>((answer.status.as_u16() == 429).then_some(()))
    });
    refused.await.unwrap();
    shop.clock.advance(Duration::from_secs(61));
    assert_served(&shop.get_with("/a/page.txt", &sold).await);
}

#[tokio::test]
async fn a_stranger_asks_the_hook_no_more_often_while_the_node_cannot_be_paid() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let (shop, _) = limited(&hook, 3).await;
    shop.reach.send_replace(Reach::Unready(Unready::NoChannel));
    for expected in [503, 503, 429, 429] {
        let answer = shop.get("/a/page.txt").await;
        assert_eq!(answer.status.as_u16(), expected);
    }
    assert_eq!(hook.count(), 3);
}

/// Sends this many requests, which wait for the hook.
fn waiting(shop: &Shop, count: usize, sold: Option<&Sold>) -> tokio::task::JoinSet<u16> {
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..count {
        let mut request = shop.request(Method::GET, &format!("/a/page.txt?n={number}"));
        if let Some(sold) = sold {
            request = request.header(AUTHORIZATION, sold.header());
        }
        asking.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    asking
}

#[tokio::test]
async fn strangers_of_one_network_leave_places_at_the_hook_for_others_and_for_holders() {
    let hook = Teller::who_says("{\"price_msat\": 1000}").await;
    let shop = hooked(&hook, "").await;
    let sold = shop.buy("/a/page.txt").await;
    hook.now(Manner::SaysWhenTold("{\"price_msat\": 1000}".to_owned()));
    let strangers = waiting(&shop, 60, None);
    hook.is_asked(13).await;
    let holders = waiting(&shop, 20, Some(&sold));
    hook.is_asked(33).await;
    hook.tell(100);
    let answers = strangers.join_all().await;
    let with = |status| answers.iter().filter(|it| **it == status).count();
    assert_eq!((with(402), with(503)), (12, 48));
    assert_eq!(holders.join_all().await, [200; 20]);
    assert_eq!(hook.count(), 33);
}

#[tokio::test]
async fn a_use_that_waits_for_its_price_is_neither_lost_with_the_client_nor_given_twice() {
    let hook = Teller::who_says("{\"price_msat\": 1000, \"grant\": {\"requests\": 1}}").await;
    let shop = hooked(&hook, "").await;
    let sold = shop.buy("/a/page.txt").await;
    hook.now(Manner::SaysWhenTold("{\"price_msat\": 1000}".to_owned()));
    let mut gone = waiting(&shop, 1, Some(&sold));
    hook.is_asked(2).await;
    gone.abort_all();
    while gone.join_next().await.is_some() {}
    hook.now_says("{\"price_msat\": 1001}");
    let dear = eventually("its price", DEADLINE, || async {
        let answer = shop.get_with("/a/page.txt", &sold).await;
        let why = answer.text();
        Ok::<_, String>((!why.contains("used up")).then_some(answer))
    });
    assert_challenged(&dear.await.unwrap());
    // The token was too cheap for that request, and opens the next.
    hook.now_says("{\"price_msat\": 1000}");
    let answers = waiting(&shop, 30, Some(&sold)).join_all().await;
    assert_eq!(answers.iter().filter(|it| **it == 200).count(), 1);
}
