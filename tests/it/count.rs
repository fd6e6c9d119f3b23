//! What counts against a grant, and what does not.

use std::time::Duration;

use http::{Method, StatusCode, header::AUTHORIZATION};
use tokio::task::JoinSet;
use tollhouse::protocol::l402::RootKeys;

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::{PAGE, Shop, Sold, master_key};

#[tokio::test]
async fn the_last_request_of_a_grant_is_served_and_the_next_is_refused() {
    let shop = Shop::open().await;
    let sold = shop.sell("counted", Some(3));
    for _ in 0..3 {
        assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    }
    for _ in 0..3 {
        let challenge = assert_challenged(&shop.get_with("/counted/page.txt", &sold).await);
        let detail = challenge.problem["detail"].as_str().unwrap();
        assert!(detail.contains("used up"), "{detail}");
    }
    shop.is_counted(&sold, 3).await;
    // Another token of the same service has its own count.
    assert_served(
        &shop
            .get_with("/counted/page.txt", &shop.sell("counted", Some(1)))
            .await,
    );
}

#[tokio::test]
async fn copies_share_the_count_of_their_token_whatever_they_say_of_it() {
    let shop = Shop::open().await;
    let sold = shop.sell("counted", Some(3));
    let narrower = sold.with_caveat("counted_requests=2");
    assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    assert_served(&shop.get_with("/counted/page.txt", &narrower).await);
    assert_challenged(&shop.get_with("/counted/page.txt", &narrower).await);
    assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    assert_challenged(&shop.get_with("/counted/page.txt", &sold).await);
    assert_challenged(
        &shop
            .get_with("/counted/page.txt", &sold.with_caveat("a=b"))
            .await,
    );
}

#[tokio::test]
async fn a_count_is_shared_by_all_services_of_a_token() {
    let shop = Shop::open().await;
    let both = Sold::mint(
        &RootKeys::new(&master_key(), &[]),
        &[
            "services=counted:0,articles:0".to_owned(),
            "counted_requests=2".to_owned(),
            "articles_requests=2".to_owned(),
        ],
    );
    assert_served(&shop.get_with("/counted/page.txt", &both).await);
    assert_served(&shop.get_with("/articles/page.txt", &both).await);
    assert_challenged(&shop.get_with("/counted/page.txt", &both).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_at_once_on_ten_left_are_ten_served() {
    let shop = Shop::open().await;
    let sold = shop.sell("counted", Some(12));
    for _ in 0..2 {
        assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    }
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let request = shop
            .request(Method::GET, "/counted/page.txt")
            .header(AUTHORIZATION, sold.header());
        asking.spawn(async move {
            let response = request.send().await.unwrap();
            (response.status(), response.text().await.unwrap())
        });
    }
    let answers = asking.join_all().await;
    let served = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::OK);
    assert_eq!(served.count(), 10);
    let had_the_page = answers.iter().filter(|(_, text)| text == PAGE);
    assert_eq!(had_the_page.count(), 10);
    let refused = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::PAYMENT_REQUIRED);
    assert_eq!(refused.count(), 40);
    shop.is_counted(&sold, 12).await;
}

#[tokio::test]
async fn a_range_of_a_file_counts_but_head_and_304_do_not() {
    let shop = Shop::open().await;
    let sold = shop.sell("counted", Some(2));
    let ask = |method, name: &'static str, value: String| {
        shop.send(
            shop.request(method, "/counted/page.txt")
                .header(AUTHORIZATION, sold.header())
                .header(name, value),
        )
    };
    let head = ask(Method::HEAD, "accept", "*/*".into()).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(
        head.header("content-length"),
        Some(PAGE.len().to_string().as_str())
    );
    let changed = head.header("last-modified").unwrap().to_owned();
    let range = ask(Method::GET, "range", "bytes=0-3".into()).await;
    assert_eq!(
        (range.status, range.text().as_str()),
        (StatusCode::PARTIAL_CONTENT, "what")
    );
    let same = ask(Method::GET, "if-modified-since", changed).await;
    assert_eq!(
        (same.status, same.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    assert_served(&ask(Method::GET, "accept", "*/*".into()).await);
    assert_eq!(
        ask(Method::HEAD, "accept", "*/*".into()).await.status,
        StatusCode::PAYMENT_REQUIRED
    );
    shop.is_counted(&sold, 2).await;
}

#[tokio::test]
async fn what_delivered_nothing_is_given_back() {
    let shop = Shop::open().await;
    let sold = shop.sell("counted", Some(1));
    let ask = |method, path, name: &'static str, value| {
        shop.send(
            shop.request(method, path)
                .header(AUTHORIZATION, sold.header())
                .header(name, value),
        )
    };
    let missing = ask(Method::GET, "/counted/none.txt", "accept", "*/*").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let posted = ask(Method::POST, "/counted/page.txt", "accept", "*/*").await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    let beyond = ask(Method::GET, "/counted/page.txt", "range", "bytes=900-").await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    for answer in [&missing, &posted, &beyond] {
        assert_eq!(answer.header("l402-remaining-requests"), Some("1"));
    }
    assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    assert_challenged(&shop.get_with("/counted/page.txt", &sold).await);
}

#[tokio::test]
async fn a_preflight_is_answered_without_payment_and_never_counts() {
    let shop = Shop::open().await;
    let sold = shop.sell("counted", Some(1));
    for _ in 0..3 {
        let request = shop
            .request(Method::OPTIONS, "/counted/page.txt")
            .header("origin", "https://elsewhere.example")
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization")
            .header(AUTHORIZATION, sold.header());
        let answer = shop.send(request).await;
        assert_eq!(
            (answer.status, answer.body.len()),
            (StatusCode::NO_CONTENT, 0)
        );
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some(
                "Authorization, Content-Type, Accept-Payment, Accept-Grant, X-Grpc-Web, X-User-Agent, Grpc-Timeout"
            )
        );
        let methods = answer.header("access-control-allow-methods").unwrap();
        assert!(
            methods.split(", ").any(|method| method == "GET"),
            "{methods}"
        );
    }
    assert_eq!(shop.ledger.challenge_count(), 0);
    assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    assert_challenged(&shop.get_with("/counted/page.txt", &sold).await);
}

#[tokio::test]
async fn a_count_outlives_the_memory_of_it() {
    let shop = Shop::open().await;
    let sold = shop.sell("counted", Some(2));
    assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    shop.is_counted(&sold, 1).await;
    // A minute of nobody asking: the count is read from the store again.
    shop.clock.advance(Duration::from_secs(61));
    shop.ledger.write_behind().unwrap();
    assert_served(&shop.get_with("/counted/page.txt", &sold).await);
    assert_challenged(&shop.get_with("/counted/page.txt", &sold).await);
}
