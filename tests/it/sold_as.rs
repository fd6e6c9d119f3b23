//! Tokens that were sold at a hook's price: each opens what it was sold as, and a price alone does not say what that was.

use crate::gate::{assert_challenged, assert_served};
use crate::quote::{Manner, Teller};
use crate::quoted::{assert_unpriced, hooked, hooked_at, price};
use crate::support::{NOW_SECS, Shop, Sold};

use std::time::Duration;

use tokio::net::TcpSocket;

const PATH: &str = "/a/page.txt";

const BULK: &str = "{\"price_msat\": 100000, \"grant\": {\"requests\": 1000}}";
const SINGLE: &str = "{\"price_msat\": 100000, \"grant\": {\"requests\": 1}}";

async fn buy(shop: &Shop, hook: &Teller, answer: &str) -> Sold {
    hook.now_says(answer);
    shop.pay(&assert_challenged(&shop.get(PATH).await))
}

/// Whether a token opens what the hook says this of.
async fn opens(shop: &Shop, hook: &Teller, token: &Sold, answer: &str) -> bool {
    hook.now_says(answer);
    let answer = shop.get_with(PATH, token).await;
    if answer.status.is_success() {
        assert_served(&answer);
        return true;
    }
    assert_challenged(&answer);
    false
}

#[tokio::test]
async fn a_token_of_a_large_grant_opens_nothing_that_sells_a_small_one() {
    let hook = Teller::who_says(BULK).await;
    let shop = hooked(&hook, "").await;
    let bulk = buy(&shop, &hook, BULK).await;
    assert!(opens(&shop, &hook, &bulk, BULK).await);
    let small =
        |price: u64, grant: &str| format!("{{\"price_msat\": {price}, \"grant\": {grant}}}");
    for (price, grant) in [
        (100_000, "{\"requests\": 1}"),
        (99_999, "{\"requests\": 1}"),
        (1, "{\"requests\": 999}"),
        (100_000, "{\"requests\": 1, \"bytes\": 5}"),
        (100_000, "{\"requests\": 1000, \"bytes\": 5}"),
        (100_000, "{\"requests\": 1000, \"seconds\": 5}"),
        (100_000, "{\"requests\": 1000, \"valid_secs\": 60}"),
    ] {
        assert!(
            !opens(&shop, &hook, &bulk, &small(price, grant)).await,
            "{grant}"
        );
    }
    // Whatever its holder writes into it.
    for caveat in [
        "a_class=.requests:1",
        "a_class=.",
        "a_class=single",
        "a_requests=1",
        "a_price_msat=100000",
        "services=a:0",
    ] {
        let narrowed = bulk.with_caveat(caveat);
        assert!(!opens(&shop, &hook, &narrowed, SINGLE).await, "{caveat}");
    }
    assert!(
        opens(&shop, &hook, &bulk, BULK).await,
        "and it is good for what it was sold as"
    );
}

#[tokio::test]
async fn time_and_bytes_are_told_apart_as_requests_are() {
    let hook = Teller::who_says(BULK).await;
    let shop = hooked(&hook, "").await;
    let of = |grant: &str| format!("{{\"price_msat\": 1000, \"grant\": {grant}}}");
    for (large, small) in [
        ("{\"valid_secs\": 864000}", "{\"valid_secs\": 60}"),
        ("{\"bytes\": 1000000}", "{\"bytes\": 1000}"),
        ("{\"seconds\": 3600}", "{\"seconds\": 1}"),
        // What is left to the route, whose grant is any number of requests for a day.
        ("{\"valid_secs\": 864000}", "{}"),
        ("{}", "{\"requests\": 1}"),
    ] {
        let token = buy(&shop, &hook, &of(large)).await;
        assert!(opens(&shop, &hook, &token, &of(large)).await, "{large}");
        assert!(!opens(&shop, &hook, &token, &of(small)).await, "{small}");
        // Who has bought less than the request would buy does no harm by it.
        let token = buy(&shop, &hook, &of(small)).await;
        if small != "{}" {
            assert!(
                opens(&shop, &hook, &token, &of(large)).await || large == "{}",
                "{small}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_of_one_class_opens_only_requests_of_that_class() {
    let hook = Teller::who_says(BULK).await;
    let shop = hooked(&hook, "").await;
    let of = |price: u64, class: &str, requests: u64| {
        format!(
            "{{\"price_msat\": {price}, \"class\": \"{class}\", \"grant\": {{\"requests\": {requests}}}}}"
        )
    };
    let bulk = buy(&shop, &hook, &of(99_000, "bulk", 1_000)).await;
    assert!(opens(&shop, &hook, &bulk, &of(99_000, "bulk", 1_000)).await);
    // The hook may change what a class grants; what was sold stays good.
    assert!(opens(&shop, &hook, &bulk, &of(90_000, "bulk", 5)).await);
    for other in [
        of(99_000, "single", 1),
        of(99_000, "single", 1_000),
        of(1, "single", 1_000),
        of(99_000, "bulk2", 1_000),
        of(99_001, "bulk", 1_000),
        BULK.to_owned(),
        SINGLE.to_owned(),
        "{\"price_msat\": 1}".to_owned(),
    ] {
        assert!(!opens(&shop, &hook, &bulk, &other).await, "{other}");
    }
    for caveat in ["a_class=single", "a_class=.requests:1", "a_class="] {
        let said = bulk.with_caveat(caveat);
        for answer in [
            of(99_000, "single", 1),
            of(99_000, "bulk", 1_000),
            SINGLE.to_owned(),
        ] {
            assert!(
                !opens(&shop, &hook, &said, &answer).await,
                "{caveat} {answer}"
            );
        }
    }
    // A token without a class does not open one.
    let grant = buy(&shop, &hook, BULK).await;
    assert!(!opens(&shop, &hook, &grant, &of(1, "bulk", 1_000)).await);
    let said = grant.with_caveat("a_class=bulk");
    assert!(!opens(&shop, &hook, &said, &of(1, "bulk", 1_000)).await);
}

#[tokio::test]
async fn a_class_that_cannot_stand_in_a_token_is_no_answer() {
    let hook = Teller::who_says(BULK).await;
    let shop = hooked(&hook, "on_failure = \"7 sat\"").await;
    for class in [
        "\"\"",
        "\"Bulk\"",
        "\"a,b\"",
        "\"a=b\"",
        "\".\"",
        "5",
        "\"a\\u0000\"",
        "[\"a\"]",
    ] {
        hook.now_says(&format!("{{\"price_msat\": 1000, \"class\": {class}}}"));
        assert_unpriced(&shop.get(PATH).await);
    }
}

#[tokio::test]
async fn what_was_sold_before_tokens_said_what_they_were_sold_as_stays_good() {
    let hook = Teller::who_says(BULK).await;
    let shop = hooked(&hook, "").await;
    let until = format!("a_valid_until={}", NOW_SECS + 3_600);
    let old = shop.minted(&[
        "services=a:0",
        "a_price_msat=100000",
        &until,
        "a_requests=1000",
    ]);
    for answer in [BULK, SINGLE, "{\"price_msat\": 5000, \"class\": \"bulk\"}"] {
        assert!(opens(&shop, &hook, &old, answer).await, "{answer}");
    }
    let cheap = shop.minted(&["services=a:0", "a_price_msat=99999", &until]);
    assert!(
        !opens(&shop, &hook, &cheap, BULK).await,
        "a price is a price"
    );
}

#[tokio::test]
async fn while_the_hook_is_away_every_class_opens() {
    // Port 1 is never given out by the system.
    let settings = "[[hook]]\nname = \"pricer\"\nurl = \"http://127.0.0.1:1/\"\nprice_max = \"100 sat\"\non_failure = \"7 sat\"\n\
                    [[route]]\npath = \"/a/*\"\nservice = \"a\"\nfiles = \"shop\"\nprice = { by = \"hook:pricer\" }\n";
    let shop = Shop::selling(settings).await;
    let until = format!("a_valid_until={}", NOW_SECS + 3_600);
    for class in ["a_class=bulk", "a_class=.requests:1000", "a_class=."] {
        let held = shop.minted(&["services=a:0", "a_price_msat=100000", class, &until]);
        assert_served(&shop.get_with(PATH, &held).await);
    }
    let cheap = shop.minted(&["services=a:0", "a_price_msat=6999", "a_class=bulk", &until]);
    assert_eq!(
        price(&assert_challenged(&shop.get_with(PATH, &cheap).await)),
        7_000
    );
    let bought = shop.pay(&assert_challenged(&shop.get(PATH).await));
    assert_served(&shop.get_with(PATH, &bought).await);
}

#[tokio::test]
async fn a_hook_that_lingers_makes_no_class_cheaper() {
    let hook = Teller::who_says("{\"price_msat\": 50000, \"class\": \"bulk\"}").await;
    let shop = hooked(&hook, "on_failure = \"7 sat\"").await;
    let bulk = shop.pay(&assert_challenged(&shop.get(PATH).await));
    hook.now(Manner::Lingers);
    assert_unpriced(&shop.get_with("/a/page.txt?slow", &bulk).await);
}

/// A hook that refused connections while these tokens were sold, for 7 sat each, and is back now.
async fn sold_while_away<const COUNT: usize>() -> (Shop, Teller, [Sold; COUNT]) {
    // Bound and not listening: nobody else gets the port, and connections are refused.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let shop = hooked_at(socket.local_addr().unwrap(), "on_failure = \"7 sat\"").await;
    let mut sold = Vec::new();
    for _ in 0..COUNT {
        let challenge = assert_challenged(&shop.get(PATH).await);
        assert_eq!(price(&challenge), 7_000);
        sold.push(shop.pay(&challenge));
    }
    let hook = Teller::on(socket.listen(16).unwrap(), Manner::Lingers);
    // That it could not be reached is remembered for a second.
    shop.clock.advance(Duration::from_secs(1));
    let Ok(sold) = sold.try_into() else {
        unreachable!("as many as were asked for");
    };
    (shop, hook, sold)
}

#[tokio::test]
async fn what_was_sold_while_the_hook_was_away_is_good_once_it_is_back() {
    let (shop, hook, sold) = sold_while_away::<6>().await;
    for (token, more) in sold.iter().zip([
        "",
        ", \"class\": \"bulk\"",
        ", \"grant\": {\"requests\": 1000}",
        ", \"grant\": {\"valid_secs\": 864000}",
        ", \"grant\": {\"bytes\": 100000, \"seconds\": 60}",
        ", \"class\": \"bulk\", \"grant\": {\"requests\": 1}",
    ]) {
        let at = |price: u64| format!("{{\"price_msat\": {price}{more}}}");
        assert!(!opens(&shop, &hook, token, &at(7_001)).await, "{more}");
        assert!(opens(&shop, &hook, token, &at(7_000)).await, "{more}");
    }
    // Whatever its holder writes into it.
    let [_, token, ..] = &sold;
    let bulk = "{\"price_msat\": 7000, \"class\": \"bulk\"}";
    for caveat in [
        "a_class=bulk",
        "a_class=.",
        "a_class=.fallback:1",
        "a_class=",
    ] {
        let said = token.with_caveat(caveat);
        assert!(!opens(&shop, &hook, &said, bulk).await, "{caveat}");
    }
    let raised = token.with_caveat("a_price_msat=100000");
    let dear = "{\"price_msat\": 7001, \"class\": \"bulk\"}";
    assert!(!opens(&shop, &hook, &raised, dear).await);
}

#[tokio::test]
async fn what_was_sold_while_the_hook_was_away_buys_no_more_than_the_hook_would_give() {
    let (shop, hook, [token, late]) = sold_while_away::<2>().await;
    let of = |grant: &str| format!("{{\"price_msat\": 7000, \"grant\": {grant}}}");
    let single = of("{\"requests\": 1}");
    assert!(opens(&shop, &hook, &token, &single).await);
    assert!(!opens(&shop, &hook, &token, &single).await);
    let class = "{\"price_msat\": 7000, \"class\": \"single\", \"grant\": {\"requests\": 1}}";
    assert!(!opens(&shop, &hook, &token, class).await);
    assert!(opens(&shop, &hook, &token, &of("{\"requests\": 2}")).await);
    assert!(!opens(&shop, &hook, &token, &of("{\"requests\": 2}")).await);
    assert!(!opens(&shop, &hook, &token, &of("{\"bytes\": 1}")).await);
    assert!(opens(&shop, &hook, &token, &of("{}")).await);
    // Long after the invoice's end and a minute, and before the end of the route's day.
    shop.clock.advance(Duration::from_secs(7_200));
    assert!(!opens(&shop, &hook, &late, &of("{\"valid_secs\": 60}")).await);
    assert!(opens(&shop, &hook, &late, &of("{\"valid_secs\": 80000}")).await);
    assert!(opens(&shop, &hook, &late, &of("{}")).await);
}
