//! Tokens sold at a hook's price open only what they were sold as; the price alone does not tell that.

use crate::quoted::{assert_unpriced, hooked, hooked_at};
use crate::support::answers::price;
use crate::support::answers::{assert_challenged, assert_served};
use crate::support::teller::{Manner, Teller};
use crate::support::{NOW_SECS, Shop, Sold};

use std::time::Duration;

use tokio::net::TcpSocket;

const PATH: &str = "/a/page.txt";

const BULK: &str = "{\"price_msat\": 100000, \"grant\": {\"requests\": 1000}}";
const SINGLE: &str = "{\"price_msat\": 100000, \"grant\": {\"requests\": 1}}";

async fn buy(shop: &Shop, hook: &Teller, answer: &str) -> Sold {
    hook.now_says(answer);
    shop.buy(PATH).await
}

/// Whether a token opens a request for which the hook gives this answer.
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
    // A caveat added by the holder does not change this.
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
        "it still opens what it was sold as"
    );
}

#[tokio::test]
async fn grants_of_time_and_bytes_are_distinguished_like_grants_of_requests() {
    let hook = Teller::who_says(BULK).await;
    let shop = hooked(&hook, "").await;
    let of = |grant: &str| format!("{{\"price_msat\": 1000, \"grant\": {grant}}}");
    for (large, small) in [
        ("{\"valid_secs\": 864000}", "{\"valid_secs\": 60}"),
        ("{\"bytes\": 1000000}", "{\"bytes\": 1000}"),
        ("{\"seconds\": 3600}", "{\"seconds\": 1}"),
        // The route decides what the hook leaves out: any number of requests for a day.
        ("{\"valid_secs\": 864000}", "{}"),
        ("{}", "{\"requests\": 1}"),
    ] {
        let token = buy(&shop, &hook, &of(large)).await;
        assert!(opens(&shop, &hook, &token, &of(large)).await, "{large}");
        assert!(!opens(&shop, &hook, &token, &of(small)).await, "{small}");
        // A token for less than the request would buy may open it.
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
    // The hook may change the grant of a class; tokens sold before stay valid.
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
    // A token without a class does not open a request with one.
    let grant = buy(&shop, &hook, BULK).await;
    assert!(!opens(&shop, &hook, &grant, &of(1, "bulk", 1_000)).await);
    let said = grant.with_caveat("a_class=bulk");
    assert!(!opens(&shop, &hook, &said, &of(1, "bulk", 1_000)).await);
}

#[tokio::test]
async fn a_class_that_cannot_be_written_into_a_token_is_refused() {
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
async fn tokens_without_sold_as_stay_valid() {
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
    assert!(!opens(&shop, &hook, &cheap, BULK).await, "too cheap");
}

#[tokio::test]
async fn while_the_hook_is_away_tokens_of_every_class_open() {
    // The system never assigns port 1.
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
    let bought = shop.buy(PATH).await;
    assert_served(&shop.get_with(PATH, &bought).await);
}

#[tokio::test]
async fn a_hook_that_answers_late_makes_no_class_cheaper() {
    let hook = Teller::who_says("{\"price_msat\": 50000, \"class\": \"bulk\"}").await;
    let shop = hooked(&hook, "on_failure = \"7 sat\"").await;
    let bulk = shop.buy(PATH).await;
    hook.now(Manner::Lingers);
    assert_unpriced(&shop.get_with("/a/page.txt?slow", &bulk).await);
}

/// A hook that refused connections while these tokens were sold for 7 sat each, and accepts them now.
async fn sold_while_away<const COUNT: usize>() -> (Shop, Teller, [Sold; COUNT]) {
    // Bound and not listening: the port stays ours, and connections are refused.
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
    // The hook's absence is remembered for a second.
    shop.clock.advance(Duration::from_secs(1));
    let Ok(sold) = sold.try_into() else {
        unreachable!("COUNT tokens were sold");
    };
    (shop, hook, sold)
}

#[tokio::test]
async fn tokens_sold_while_the_hook_was_away_are_valid_once_it_is_back() {
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
    // A caveat added by the holder does not change this.
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
async fn tokens_sold_while_the_hook_was_away_give_no_more_than_the_hook_would() {
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
    // More than a minute after the invoice expired, and before the route's day is over.
    shop.clock.advance(Duration::from_secs(7_200));
    assert!(!opens(&shop, &hook, &late, &of("{\"valid_secs\": 60}")).await);
    assert!(opens(&shop, &hook, &late, &of("{\"valid_secs\": 80000}")).await);
    assert!(opens(&shop, &hook, &late, &of("{}")).await);
}
