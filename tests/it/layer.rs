//! The gate in somebody else's program: an axum application on a socket of its own, whose handlers are guarded.

use axum::Router;
use axum::routing::get;
use http::{Method, StatusCode, header::AUTHORIZATION};

use crate::support::DEADLINE;
use crate::support::answers::assert_challenged;
use crate::support::answers::assert_told;
use crate::support::program::JOKE;
use crate::support::program::Program;
use crate::support::program::offer;
use crate::support::raw;

#[tokio::test]
async fn a_challenge_of_a_guard_is_that_of_the_public_listener() {
    let route = "[[route]]\npath = \"/jokes/*\"\nservice = \"jokes\"\nprice = \"10 sat\"\n\
                 grant = { requests = 3 }\nfiles = \"shop\"\n";
    let mut program = Program::with(route).await;
    let at = program.jokes(Some(3)).await;
    let shape = |reply: raw::Reply| {
        let fixed: Vec<_> = reply
            .headers
            .iter()
            .filter(|(name, _)| !["www-authenticate", "date", "content-length"].contains(&&**name))
            .cloned()
            .collect();
        let mut problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        for drawn in ["invoice", "payment_hash", "macaroon"] {
            assert!(problem[drawn].take().is_string());
        }
        let lines = reply.values("www-authenticate").into_iter();
        let schemes: Vec<_> = lines.map(|line| line[..14].to_owned()).collect();
        (reply.status, fixed, schemes, problem)
    };
    let ours = shape(raw::get(program.shop.address, "/jokes/page.txt").await);
    let theirs = shape(raw::get(at, "/jokes/page.txt").await);
    let sorted = |mut lines: Vec<(String, String)>| {
        lines.retain(|(name, _)| name != "connection");
        lines.sort();
        lines
    };
    assert_eq!((ours.0, ours.2, ours.3), (theirs.0, theirs.2, theirs.3));
    assert_eq!(sorted(ours.1), sorted(theirs.1));
    assert_eq!(program.calls(), 0);
}

#[tokio::test]
async fn a_payment_buys_its_requests_from_a_handler_and_not_one_more() {
    let mut program = Program::new().await;
    let at = program.jokes(Some(2)).await;
    let challenge = assert_challenged(&program.get(at, "/jokes/one", None).await);
    let sold = program.shop.pay(&challenge);
    for left in ["1", "0"] {
        let answer = program.get(at, "/jokes/one", Some(&sold)).await;
        assert_told(&answer);
        assert_eq!(answer.header("l402-remaining-requests"), Some(left));
        assert_eq!(answer.header("cache-control"), Some("private"));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    assert_challenged(&program.get(at, "/jokes/one", Some(&sold)).await);
    assert_eq!(program.calls(), 2);
    program.shop.is_counted(&sold, 2).await;
}

#[tokio::test]
async fn a_handler_that_fails_panics_or_has_nothing_gives_the_use_back() {
    let mut program = Program::new().await;
    let at = program.jokes(Some(1)).await;
    let sold = program.shop.sell("jokes", Some(1));
    for _ in 0..2 {
        let answer = program.get(at, "/jokes/fails", Some(&sold)).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.text(), JOKE);
        let mut stream = program.ask(at, "/jokes/panics", &sold).await;
        assert!(raw::reply(&mut stream).await.is_none());
    }
    program.shop.is_counted(&sold, 0).await;
    let answer = program.get(at, "/jokes/missing", Some(&sold)).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header("l402-remaining-requests"), Some("1"));
    assert_told(&program.get(at, "/jokes/one", Some(&sold)).await);
    assert_challenged(&program.get(at, "/jokes/one", Some(&sold)).await);
}

#[tokio::test]
async fn an_answer_holds_its_permit_to_the_last_byte_and_who_hangs_up_has_had_it() {
    let mut program = Program::new().await;
    let at = program.jokes(Some(1)).await;
    let sold = program.shop.sell("jokes", Some(1));
    let mut stream = program.ask(at, "/jokes/streams", &sold).await;
    for _ in 0..3 {
        program.go.notify_one();
        raw::expect(&mut stream, "chunk").await;
    }
    assert_challenged(&program.get(at, "/jokes/one", Some(&sold)).await);
    program.shop.is_counted(&sold, 0).await;
    let in_flight = program.guards.in_flight.clone();
    in_flight.close();
    assert!(!in_flight.is_empty());
    drop(stream);
    program.go.notify_one();
    let ended = tokio::time::timeout(DEADLINE, in_flight.wait());
    ended.await.expect("nothing is in flight any more");
    program.shop.is_counted(&sold, 1).await;
}

#[tokio::test]
async fn who_hangs_up_before_the_answer_gets_nothing_back() {
    let mut program = Program::new().await;
    let at = program.jokes(Some(1)).await;
    let sold = program.shop.sell("jokes", Some(1));
    let stream = program.ask(at, "/jokes/hangs", &sold).await;
    regtest::wait::eventually("the handler", DEADLINE, || async {
        Ok::<_, String>((program.calls() == 1).then_some(()))
    })
    .await
    .unwrap();
    drop(stream);
    program.shop.is_counted(&sold, 1).await;
    assert_challenged(&program.get(at, "/jokes/one", Some(&sold)).await);
}

#[tokio::test]
async fn a_grant_of_bytes_is_counted_and_cut_where_the_offer_says_so() {
    let mut program = Program::new().await;
    let mut bytes = offer("jokes", "10 sat", None);
    bytes.plans[0].grant.bytes = Some(20);
    bytes.cuts_overrun = true;
    let app = program
        .app()
        .route_layer(program.guards.guard(bytes).unwrap());
    let at = program.serve(app).await;
    let challenge = assert_challenged(&program.get(at, "/jokes/one", None).await);
    let sold = program.shop.pay(&challenge);
    let answer = program.get(at, "/jokes/one", Some(&sold)).await;
    assert_told(&answer);
    assert_eq!(answer.header("l402-remaining-bytes"), Some("20"));
    let mut stream = program.ask(at, "/jokes/one", &sold).await;
    // Four bytes are left of twenty; the rest of the sixteen is cut off.
    let cut = raw::reply(&mut stream).await;
    assert!(cut.is_none(), "{cut:?}");
    assert_challenged(&program.get(at, "/jokes/one", Some(&sold)).await);
}

#[tokio::test]
async fn the_handler_sees_who_paid_and_nothing_that_was_meant_for_the_gate() {
    let mut program = Program::new().await;
    let mut choice = offer("jokes", "10 sat", Some(5));
    let mut dear = choice.plans[0].clone();
    dear.name = "dear".into();
    dear.price = Some("50 sat".parse().unwrap());
    choice.plans.push(dear);
    let app = program
        .app()
        .route_layer(program.guards.guard(choice).unwrap());
    let at = program.serve(app).await;
    let path = "/jokes/seen?a=1&l402-grant=dear&b=2";
    let challenge = assert_challenged(&program.get(at, path, None).await);
    assert_eq!(challenge.problem["price_msat"], 50_000);
    let sold = program.shop.pay(&challenge);
    let request = program
        .client
        .request(Method::GET, &format!("http://{at}{path}"))
        .header(AUTHORIZATION, sold.header())
        .header("L402-Service", "forged")
        .header("l402_token_id", "forged")
        .header("macaroon", hex::encode(&sold.macaroon))
        .header("x-own", "kept");
    let answer = program.client.send(request).await.unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(seen["uri"], "/jokes/seen?a=1&b=2");
    assert_eq!(seen["service"], "jokes");
    assert_eq!(seen["token_id"], hex::encode(sold.identifier().token_id.0));
    assert_eq!(seen["left"], 4);
    let mut names: Vec<_> = seen["headers"].as_array().unwrap().iter().collect();
    names.sort_by_key(|name| name.as_str().unwrap().to_owned());
    assert_eq!(names, ["accept", "host", "x-own"]);
}

#[tokio::test]
async fn guards_of_different_services_do_not_open_each_other() {
    let mut program = Program::new().await;
    let app = Router::new()
        .route("/jokes", get(JOKE))
        .route_layer(program.guard("jokes", None))
        .merge(
            Router::new()
                .route("/riddles", get(JOKE))
                .route_layer(program.guard("riddles", None)),
        )
        .route("/about", get("about"));
    let at = program.serve(app).await;
    let jokes = program.shop.sell("jokes", None);
    let riddles = program.shop.sell("riddles", None);
    assert_told(&program.get(at, "/jokes", Some(&jokes)).await);
    assert_told(&program.get(at, "/riddles", Some(&riddles)).await);
    assert_challenged(&program.get(at, "/jokes", Some(&riddles)).await);
    assert_challenged(&program.get(at, "/riddles", Some(&jokes)).await);
    assert_eq!(program.get(at, "/about", None).await.text(), "about");
    assert_eq!(program.get(at, "/none", None).await.status, 404);
}
