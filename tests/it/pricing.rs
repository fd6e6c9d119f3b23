//! Ways of selling a request: price classes, grants to choose from, what comes free. Each is read from settings, as a merchant
//! writes them, and asked for over the real router.

use http::{Method, StatusCode, header::AUTHORIZATION};
use regtest::client::Answer;

use tollhouse::protocol::invoice::{Reach, Unready};

use crate::support::answers::price;
use crate::support::answers::{assert_challenged, assert_served};
use crate::support::raw;
use crate::support::upstream::Upstream;
use crate::support::{NOW_SECS, PAGE, Shop, Sold, new_folder};

/// A shop of one folder, sold as these keys of its route say.
async fn selling(keys: &str) -> Shop {
    Shop::selling(&route("a", keys)).await
}

fn route(name: &str, keys: &str) -> String {
    format!("[[route]]\npath = \"/{name}/*\"\nservice = \"{name}\"\nfiles = \"shop\"\n{keys}\n")
}

fn number(answer: &Answer, header: &str) -> Option<u64> {
    answer.header(header).map(|value| value.parse().unwrap())
}

const SIZES: &str = r#"price = { by = "query:size", values = { small = "1 sat", medium = "5 sat", large = "10 sat" }, missing = "5 sat" }"#;

#[tokio::test]
async fn a_cheap_token_never_opens_a_dear_request() {
    let shop = selling(SIZES).await;
    let path = |size: &str| format!("/a/page.txt?size={size}");
    let sizes = [("small", 1_000), ("medium", 5_000), ("large", 10_000)];
    for (bought_size, price_msat) in sizes {
        let challenge = shop.challenge(&path(bought_size)).await;
        assert_eq!(price(&challenge), price_msat);
        let sold = shop.pay(&challenge);
        for (size, dear_msat) in sizes {
            let answer = shop.get_with(&path(size), &sold).await;
            if dear_msat <= price_msat {
                assert_served(&answer);
            } else {
                assert_eq!(price(&assert_challenged(&answer)), dear_msat);
            }
        }
    }
    // What is left out costs what the table says, and a cheap token does not open that either.
    assert_eq!(price(&shop.challenge("/a/page.txt").await), 5_000);
    let cheap = shop.buy(&path("small")).await;
    assert_challenged(&shop.get_with("/a/page.txt", &cheap).await);
    for odd in ["huge", "LARGE", "small&size=large", "small&Size=large", ""] {
        for answer in [
            shop.get(&path(odd)).await,
            shop.get_with(&path(odd), &cheap).await,
        ] {
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{odd}");
        }
    }
}

#[tokio::test]
async fn a_price_by_method_and_one_by_header_are_told_apart_as_well() {
    let by_method = r#"price = { by = "method", values = { HEAD = "1 sat", GET = "3 sat" } }"#;
    let shop = selling(by_method).await;
    let head = shop.send(shop.request(Method::HEAD, "/a/page.txt")).await;
    let cheap = shop.pay(&head.challenge().unwrap());
    assert_challenged(&shop.get_with("/a/page.txt", &cheap).await);
    let by_header =
        r#"price = { by = "header:x-model", values = { tiny = "1 sat", huge = "9 sat" } }"#;
    let shop = selling(by_header).await;
    let ask = |model: &str, sold: Option<&Sold>| {
        let mut request = shop
            .request(Method::GET, "/a/page.txt")
            .header("x-model", model);
        if let Some(sold) = sold {
            request = request.header(AUTHORIZATION, sold.header());
        }
        shop.send(request)
    };
    let cheap = shop.pay(&assert_challenged(&ask("tiny", None).await));
    assert_served(&ask("tiny", Some(&cheap)).await);
    assert_challenged(&ask("huge", Some(&cheap)).await);
    let nothing = shop.get("/a/page.txt").await;
    assert_eq!(nothing.status, StatusCode::BAD_REQUEST);
    assert!(nothing.text().contains("x-model"), "{}", nothing.text());
}

#[tokio::test]
async fn routes_of_one_service_are_told_apart_by_their_prices() {
    let route = |path: &str, price: &str| {
        format!(
            "[[route]]\npath = \"{path}\"\nservice = \"s\"\nprice = \"{price}\"\nfiles = \"shop\"\n"
        )
    };
    let shop = Shop::selling(&(route("/dear/*", "9 sat") + &route("/cheap/*", "1 sat"))).await;
    let cheap = shop.buy("/cheap/page.txt").await;
    assert_served(&shop.get_with("/cheap/page.txt", &cheap).await);
    assert_challenged(&shop.get_with("/dear/page.txt", &cheap).await);
    let dear = shop.buy("/dear/page.txt").await;
    assert_served(&shop.get_with("/dear/page.txt", &dear).await);
    assert_served(&shop.get_with("/cheap/page.txt", &dear).await);
    // A token that says of itself that it is of a higher class has another signature.
    let forged = cheap.with_caveat("services=s:1");
    assert_challenged(&shop.get_with("/dear/page.txt", &forged).await);
}

#[tokio::test]
async fn the_answer_tells_what_is_left() {
    let grant = r#"price = "10 sat"
        grant = { requests = 3, bytes = 1000, seconds = 60, valid = "1h" }"#;
    let shop = selling(grant).await;
    let challenge = shop.challenge("/a/page.txt").await;
    assert_eq!(
        challenge.problem["grant"],
        serde_json::json!({ "requests": 3, "bytes": 1000, "seconds": 60, "valid_secs": 3600 })
    );
    let sold = shop.pay(&challenge);
    let page = PAGE.len() as u64;
    for (served, left) in [(0, 2), (1, 1), (2, 0)] {
        let answer = shop.get_with("/a/page.txt", &sold).await;
        assert_served(&answer);
        assert_eq!(number(&answer, "l402-remaining-requests"), Some(left));
        let bytes = number(&answer, "l402-remaining-bytes");
        assert_eq!(bytes, Some(1_000 - page * served));
        assert_eq!(number(&answer, "l402-remaining-seconds"), Some(60));
        let until = NOW_SECS + 600 + 3_600;
        assert_eq!(number(&answer, "l402-expires"), Some(until));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("L402-Remaining-Requests"), "{exposed}");
    }
    let refused = shop.get_with("/a/page.txt", &sold).await;
    assert!(
        assert_challenged(&refused).problem["detail"]
            .as_str()
            .unwrap()
            .contains("used up")
    );
}

#[tokio::test]
async fn bytes_run_out_and_the_answer_that_runs_over_is_served_or_cut() {
    let page = PAGE.len();
    for (overrun, is_whole) in [("serve", true), ("cut", false)] {
        let keys = format!(
            "price = \"10 sat\"\ngrant = {{ bytes = {} }}\noverrun = \"{overrun}\"",
            page + 5
        );
        let shop = selling(&keys).await;
        let sold = shop.buy("/a/page.txt").await;
        assert_served(&shop.get_with("/a/page.txt", &sold).await);
        let url = shop.url("/a/page.txt");
        let over = reqwest::Client::new()
            .get(url)
            .header(AUTHORIZATION, sold.header())
            .send()
            .await
            .unwrap();
        assert_eq!(over.headers()["l402-remaining-bytes"], "5");
        assert_eq!(over.text().await.is_ok(), is_whole, "{overrun}");
        // Refused before anything is served.
        assert_challenged(&shop.get_with("/a/page.txt", &sold).await);
    }
}

const BUNDLES: &str = r#"
    price = "10 sat"
    grant = { requests = 1 }
    grants = [
        { name = "ten", price = "80 sat", requests = 10 },
        { name = "day", price = "500 sat", valid = "1d" },
    ]"#;

#[tokio::test]
async fn a_client_picks_one_of_several_grants() {
    let shop = selling(BUNDLES).await;
    let default = shop.challenge("/a/page.txt").await;
    assert_eq!(price(&default), 10_000);
    let listed: Vec<_> = default.problem["grants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|grant| {
            (
                grant["name"].as_str().unwrap(),
                grant["price_msat"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        listed,
        [("default", 10_000), ("ten", 80_000), ("day", 500_000)]
    );
    let by_query = shop.challenge("/a/page.txt?l402-grant=ten").await;
    let by_header = shop
        .request(Method::GET, "/a/page.txt")
        .header("Accept-Grant", "day");
    let by_header = assert_challenged(&shop.send(by_header).await);
    assert_eq!((price(&by_query), price(&by_header)), (80_000, 500_000));
    let ten = shop.pay(&by_query);
    for left in (0..10).rev() {
        let answer = shop.get_with("/a/page.txt", &ten).await;
        assert_served(&answer);
        assert_eq!(number(&answer, "l402-remaining-requests"), Some(left));
    }
    assert_challenged(&shop.get_with("/a/page.txt", &ten).await);
    let day = shop.get_with("/a/page.txt", &shop.pay(&by_header)).await;
    assert_eq!(number(&day, "l402-remaining-requests"), None);
    let unknown = shop.get("/a/page.txt?l402-grant=hundred").await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert!(
        unknown.text().contains("default, ten, day"),
        "{}",
        unknown.text()
    );
}

#[tokio::test]
async fn one_token_opens_several_services_and_is_counted_once() {
    let settings = route(
        "a",
        "price = \"10 sat\"\ngrants = [{ name = \"both\", price = \"15 sat\", requests = 3, services = [\"b\"] }]",
    ) + &route("b", "price = \"10 sat\"")
        + &route("c", "price = \"10 sat\"");
    let shop = Shop::selling(&settings).await;
    let both = shop.buy("/a/page.txt?l402-grant=both").await;
    assert_served(&shop.get_with("/b/page.txt", &both).await);
    assert_challenged(&shop.get_with("/c/page.txt", &both).await);
    assert_served(&shop.get_with("/a/page.txt", &both).await);
    assert_served(&shop.get_with("/b/page.txt", &both).await);
    assert_challenged(&shop.get_with("/b/page.txt", &both).await);
    assert_challenged(&shop.get_with("/a/page.txt", &both).await);
    let single = shop.buy("/a/page.txt").await;
    assert_challenged(&shop.get_with("/b/page.txt", &single).await);
}

#[tokio::test]
async fn a_free_quota_is_served_first_and_survives_a_restart() {
    let keys = r#"price = "10 sat"
        free_quota = { requests = 2, per = "1d" }"#;
    let dir = new_folder();
    let copy = new_folder();
    let shop = Shop::selling_in(dir, &route("a", keys)).await;
    let first = shop.get("/a/page.txt").await;
    assert_served(&first);
    assert_eq!(number(&first, "l402-remaining-requests"), Some(1));
    assert_eq!(first.header("cache-control"), Some("private"));
    // A file that is not there is not taken from it.
    assert_eq!(shop.get("/a/nothing").await.status, StatusCode::NOT_FOUND);
    // Nor is what was paid for.
    let sold = shop.sell("a", None);
    assert_served(&shop.get_with("/a/page.txt", &sold).await);
    assert_served(&shop.get("/a/page.txt").await);
    assert_challenged(&shop.get("/a/page.txt").await);
    shop.ledger.write_behind().unwrap();
    shop.ledger.close().unwrap();
    crate::support::books::copy_folder(&shop.ledger_folder(), &copy.path().join("ledger"));
    let again = Shop::selling_in(copy, &route("a", keys)).await;
    assert_challenged(&again.get("/a/page.txt").await);
    again.clock.advance(std::time::Duration::from_secs(86_400));
    assert_served(&again.get("/a/page.txt").await);
}

#[tokio::test]
async fn a_dry_run_lets_all_through_and_sells_nothing() {
    let shop = selling("price = \"10 sat\"\ndry_run = true").await;
    for _ in 0..3 {
        assert_served(&shop.get("/a/page.txt").await);
    }
    assert_eq!(shop.ledger.challenge_count(), 0);
    let counted = shop.gate.dry_run();
    assert_eq!((counted.requests, counted.amount_msat), (3, 30_000));
}

#[tokio::test]
async fn who_asks_too_often_waits_and_a_holder_is_not_in_the_way() {
    let limits = "[limits]\nchallenges = { requests = 2, per = \"10s\" }\ntokens = { requests = 3, per = \"30s\" }\n";
    let shop = Shop::selling(&format!("{limits}{}", route("a", "price = \"10 sat\""))).await;
    let sold = shop.buy("/a/page.txt").await;
    assert_challenged(&shop.get("/a/page.txt").await);
    let refused = shop.get("/a/page.txt").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    for (header, value) in [
        ("retry-after", "5"),
        ("ratelimit-limit", "2"),
        ("ratelimit-remaining", "0"),
        ("ratelimit-reset", "5"),
    ] {
        assert_eq!(refused.header(header), Some(value), "{header}");
    }
    assert_eq!(refused.header("www-authenticate"), None);
    for _ in 0..3 {
        assert_served(&shop.get_with("/a/page.txt", &sold).await);
    }
    let refused = shop.get_with("/a/page.txt", &sold).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.header("retry-after"), Some("10"));
    shop.is_counted(&sold, 3).await;
    shop.clock.advance(std::time::Duration::from_secs(10));
    assert_served(&shop.get_with("/a/page.txt", &sold).await);
    assert_challenged(&shop.get("/a/page.txt").await);
}

#[tokio::test]
async fn a_price_by_a_header_is_for_what_the_upstream_reads() {
    let upstream = Upstream::start().await;
    let shop = Shop::selling(&format!(
        "[[route]]\npath = \"/a/*\"\nservice = \"a\"\nupstream = \"http://{}\"\n\
         price = {{ by = \"header:x-model\", values = {{ small = \"1 sat\", large = \"10 sat\" }}, missing = \"10 sat\" }}\n",
        upstream.address
    ))
    .await;
    let ask = |headers: &[(&'static str, &'static str)], sold: Option<&Sold>| {
        let mut request = shop.request(Method::GET, "/a/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let credential = sold.map(|sold| (AUTHORIZATION, sold.header()));
        credential
            .into_iter()
            .fold(request, |request, (name, value)| {
                request.header(name, value)
            })
    };
    let small = shop.send(ask(&[("x-model", "small")], None)).await;
    let small = shop.pay(&assert_challenged(&small));
    // What is for the connection only never gets there, and so it costs what its absence does.
    let unread = [("x-model", "small"), ("connection", "x-model")];
    let answer = shop.send(ask(&unread, Some(&small))).await;
    assert_eq!(price(&assert_challenged(&answer)), 10_000);
    for alike in ["x_model", "x.model"] {
        let two = [("x-model", "small"), (alike, "large")];
        let answer = shop.send(ask(&two, Some(&small))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{alike}");
    }
    assert_eq!(upstream.count(), 0);
    // Nor is it said behind the body.
    let request = format!(
        "POST /a/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nX-Model: small\r\nAuthorization: {}\r\n\
         Trailer: x-model\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Model: large\r\n\r\n",
        small.header()
    );
    let reply = raw::exchange(shop.address, request.as_bytes())
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
    let seen = upstream.take_one();
    assert_eq!(
        (seen.header("x-model"), seen.body.as_slice()),
        (Some("small"), &b"hello"[..])
    );
    assert!(seen.trailers.is_empty(), "{:?}", seen.trailers);
}

#[tokio::test]
async fn no_form_body_bypasses_a_price_by_query_or_by_method() {
    let upstream = Upstream::start().await;
    let route = |name: &str, price: &str| {
        format!(
            "[[route]]\npath = \"/{name}/*\"\nservice = \"{name}\"\nupstream = \"http://{}\"\nprice = {price}\n",
            upstream.address
        )
    };
    let by_query = r#"{ by = "query:size", values = { small = "1 sat", large = "10 sat" } }"#;
    let by_method =
        r#"{ by = "method", values = { GET = "1 sat", POST = "1 sat", DELETE = "9 sat" } }"#;
    let settings = route("q", by_query) + &route("m", by_method);
    let shop = Shop::selling(&settings).await;
    let post = |path: &str, sold: &Sold| {
        let request = shop
            .request(Method::POST, path)
            .body("size=large&_method=DELETE");
        request.header(AUTHORIZATION, sold.header())
    };
    let small = "/q/x?size=small";
    let sold = shop.buy(small).await;
    let form = "application/x-www-form-urlencoded";
    for kinds in [
        vec![form],
        vec!["text/plain", form],
        vec!["a/b, multipart/form-data"],
    ] {
        let asked = kinds.iter().fold(post(small, &sold), |request, kind| {
            request.header("content-type", *kind)
        });
        assert_eq!(
            shop.send(asked).await.status,
            StatusCode::BAD_REQUEST,
            "{kinds:?}"
        );
    }
    assert_eq!(upstream.count(), 0);
    // A body without a content type is not a form either.
    assert_eq!(shop.send(post(small, &sold)).await.status, StatusCode::OK);
    let seen = upstream.take_one();
    assert_eq!(
        seen.header("content-type"),
        Some("application/octet-stream")
    );
    let sold = shop.buy("/m/x").await;
    let named = shop.send(post("/m/x?_method=DELETE", &sold)).await;
    assert_eq!(named.status, StatusCode::BAD_REQUEST);
    let asked = post("/m/x", &sold).header("content-type", form);
    assert_eq!(shop.send(asked).await.status, StatusCode::BAD_REQUEST);
    let asked = post("/m/x", &sold).header("x-http-method-override", "DELETE");
    assert_eq!(shop.send(asked).await.status, StatusCode::OK);
    assert_eq!(upstream.take_one().header("x-http-method-override"), None);
}

#[tokio::test]
async fn a_clock_that_is_set_back_refuses_nobody_and_a_503_is_not_counted() {
    let limits = "[limits]\nchallenges = { requests = 3, per = \"1h\" }\ntokens = { requests = 2, per = \"1h\" }\n";
    let free = "price = \"1 sat\"\nfree_quota = { requests = 1, per = \"60s\" }";
    let shop = Shop::selling(&format!("{limits}{}", route("a", free))).await;
    assert_served(&shop.get("/a/page.txt").await);
    let ready = shop.reach.borrow().clone();
    shop.reach.send_replace(Reach::Unready(Unready::Starting));
    for _ in 0..9 {
        let answer = shop.get("/a/page.txt").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    shop.reach.send_replace(ready);
    let sold = shop.sell("a", None);
    assert_served(&shop.get_with("/a/page.txt", &sold).await);
    shop.clock.set(NOW_SECS - 365 * 86_400);
    assert_served(&shop.get_with("/a/page.txt", &sold).await);
    assert_eq!(
        shop.get_with("/a/page.txt", &sold).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    for _ in 0..3 {
        assert_challenged(&shop.get("/a/page.txt").await);
    }
    let refused = shop.get("/a/page.txt").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    // After a period the limits are fresh, whatever the wall clock says.
    shop.clock.advance(std::time::Duration::from_secs(3_600));
    assert_served(&shop.get("/a/page.txt").await);
    assert_challenged(&shop.get("/a/page.txt").await);
    assert_served(&shop.get_with("/a/page.txt", &sold).await);
}
