//! A server that keeps the channels' state and refuses, keeps silent, or keeps what is not this node's: each is told from the others,
//! and none costs anything.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use regtest::merchant::{Merchant, MerchantOptions};
use regtest::vss::Vss;
use regtest::wait::eventually;
use serde_json::Value;

use crate::backup::{OTHER_WORDS, done, tollhouse};
use crate::operations::{DEADLINE, tollhouse_at};
use crate::shop::{ARTICLE, HEIGHT, Shop};
use crate::vss::{AUTHORIZATION, authorize, settings};

/// A status waits for the node for a second and a half.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A lease is fresh for 18 seconds, and what waits is noticed after ten.
const NOTICED_WITHIN: Duration = Duration::from_secs(45);

/// A merchant whose node has no chain; `dir` holds its folder and its headers.
async fn merchant(dir: &Path, server: &Vss) -> Merchant {
    fs::create_dir_all(dir.join("articles")).unwrap();
    let routes =
        "[[route]]\npath = \"/a/*\"\nservice = \"a\"\nprice = \"1 sat\"\nfiles = \"articles\"\n";
    let options = MerchantOptions {
        dir: Some(dir.join("merchant")),
        routes_dir: Some(dir.to_owned()),
        settings: settings(server, dir),
        // Nobody listens there: the node is built, and waits.
        ..MerchantOptions::new(
            env!("CARGO_BIN_EXE_tollhouse"),
            "http://127.0.0.1:1",
            routes,
        )
    };
    let mut merchant = Merchant::start(options).await.unwrap();
    merchant.wait_up().await.unwrap();
    merchant
}

/// Waits until the node has been built.
async fn built(merchant: &Merchant) {
    status_says(merchant, "that the node is built", |status| {
        status["node"]["node_id"].is_string()
    })
    .await;
}

/// Waits for a status of which this is so.
async fn status_says(merchant: &Merchant, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let told = eventually(what, NOTICED_WITHIN, || async {
        let status = merchant.admin().status().await;
        let status = status.map_err(|error| format!("{error:#}"))?;
        match is_so(&status) {
            true => Ok(Some(status)),
            false => Err(status["node"].to_string()),
        }
    });
    let told = told.await;
    told.unwrap_or_else(|error| panic!("{error}; {}", merchant.log_tail()))
}

/// The findings of the doctor about this, each with its grade.
async fn findings(merchant: &Merchant, what: &str) -> Vec<(String, String)> {
    let output = tollhouse_at(merchant.settings_file(), &["doctor"]).await;
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = said["findings"].as_array().unwrap();
    let about = all.iter().filter(|finding| finding["what"] == what);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    about
        .map(|finding| (text(&finding["grade"]), text(&finding["found"])))
        .collect()
}

/// The only finding of the doctor about this.
async fn finding(merchant: &Merchant, what: &str, grade: &str, said: &str) {
    let found = findings(merchant, what).await;
    let is_it = found.len() == 1 && found[0].0 == grade && found[0].1.contains(said);
    assert!(is_it, "{what} is {grade}, `{said}`: {found:?}");
}

fn log(merchant: &Merchant) -> String {
    fs::read_to_string(merchant.log()).unwrap()
}

/// Waits until it ends by itself, and says so.
async fn ends_with(merchant: &mut Merchant, why: &str) {
    let ended = merchant.wait_ended().await.unwrap();
    assert!(!ended.success(), "{ended}");
    let log = log(merchant);
    assert!(log.contains(why), "`{why}` in: {log}");
}

fn put_words(merchant: &Merchant, words: &str) -> String {
    let path = merchant.data_dir().join("seed.words");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(&path, words).unwrap();
    before
}

#[tokio::test]
async fn with_other_words_no_node_is_begun_beside_the_one_that_is_kept() {
    let dir = regtest::folder::temporary().unwrap();
    let server = Vss::start(AUTHORIZATION).unwrap();
    let mut merchant = merchant(dir.path(), &server).await;
    built(&merchant).await;
    finding(&merchant, "node.vss", "good", "shop at").await;
    finding(&merchant, "lease", "good", "renewed").await;
    assert!(merchant.terminate().await.unwrap().success());
    finding(&merchant, "lease", "good", "given back").await;
    let kept = server.count();
    let words = put_words(&merchant, OTHER_WORDS);
    // Nor does it help that the folder has forgotten where its node's state is.
    for _ in 0..2 {
        merchant.restart().await.unwrap();
        let why = "is not the state of a node with the words in data_dir";
        ends_with(&mut merchant, why).await;
        assert_eq!(server.count(), kept);
        fs::rename(
            merchant.data_dir().join("node/vss.place"),
            dir.path().join("vss.place"),
        )
        .ok();
    }
    fs::rename(
        dir.path().join("vss.place"),
        merchant.data_dir().join("node/vss.place"),
    )
    .unwrap();
    put_words(&merchant, &words);
    merchant.restart().await.unwrap();
    built(&merchant).await;
    assert_eq!(server.count(), kept);
}

#[tokio::test]
async fn what_a_server_keeps_and_nobody_can_read_ends_the_start_and_is_not_touched() {
    let dir = regtest::folder::temporary().unwrap();
    let server = Vss::start(AUTHORIZATION).unwrap();
    let mut merchant = merchant(dir.path(), &server).await;
    built(&merchant).await;
    assert!(merchant.terminate().await.unwrap().success());
    server.damage();
    merchant.restart().await.unwrap();
    ends_with(&mut merchant, "cannot be read (Failed to setup VSS store").await;
    let log = log(&merchant);
    assert!(log.contains("Invalid Tag"), "{log}");
    finding(&merchant, "lease", "look", "has not given it back").await;
    // As it was: nothing was lost by the try.
    server.damage();
    merchant.restart().await.unwrap();
    built(&merchant).await;
}

#[tokio::test]
async fn a_server_that_refuses_at_the_start_is_told_from_one_that_is_away_and_new_headers_are_read()
{
    let dir = regtest::folder::temporary().unwrap();
    let mut server = Vss::start("Bearer another-token").unwrap();
    let mut merchant = merchant(dir.path(), &server).await;
    let refuses = |status: &Value| {
        let complaint = status["node"]["store"]["complaint"].as_str();
        complaint.is_some_and(|why| why.contains("refuses the headers of"))
    };
    let status = status_says(&merchant, "that the server refuses", refuses).await;
    let file = dir.path().join("vss.headers");
    let phase = status["node"]["phase"].as_str().unwrap();
    assert!(phase.contains(file.to_str().unwrap()), "{phase}");
    let unready = status["node"]["unready"].as_str().unwrap();
    assert!(unready.contains("refuses who asks"), "{unready}");
    let said = "refuses the headers of";
    finding(&merchant, "node.vss", "bad", said).await;
    finding(&merchant, "lease", "bad", said).await;
    assert_eq!(server.count(), 0);

    authorize(dir.path(), "Bearer another-token");
    built(&merchant).await;
    let status = merchant.admin().status().await.unwrap();
    assert_eq!(status["node"]["store"]["complaint"], Value::Null);

    // Away is another thing.
    server.stop();
    finding(&merchant, "node.vss", "bad", "gives no good answer").await;
    server.start_again().unwrap();
    server.keeps_silent(true);
    finding(&merchant, "node.vss", "bad", "did not answer within 5 s").await;
    server.keeps_silent(false);
    assert!(merchant.terminate().await.unwrap().success());
    for secret in ["who-we-are", "another-token"] {
        assert!(!log(&merchant).contains(secret), "{}", log(&merchant));
    }
    server.lose();
    finding(&merchant, "lease", "bad", "knows nothing of this node").await;
}

#[tokio::test]
async fn headers_of_another_account_end_the_program_even_where_that_has_a_copy_of_the_lease() {
    let dir = regtest::folder::temporary().unwrap();
    let server = Vss::start(AUTHORIZATION).unwrap();
    let mut merchant = merchant(dir.path(), &server).await;
    built(&merchant).await;
    // By its version alone the server would take that one for ours.
    server.copies_to_another();
    server.takes_another("Bearer another-account");
    let before = server.lease_of_another();
    authorize(dir.path(), "Bearer another-account");
    ends_with(&mut merchant, "another program uses the channels").await;
    assert_eq!(server.lease_of_another(), before);
}

#[tokio::test]
async fn headers_that_expire_are_replaced_while_it_runs_and_the_sale_between_is_not_lost() {
    let dir = regtest::folder::temporary().unwrap();
    let server = Vss::start(AUTHORIZATION).unwrap();
    let mut shop = Shop::open_with("", &settings(&server, dir.path())).await;
    let bought = shop.buy(ARTICLE).await;

    // Replaced before it has expired: nobody notices.
    server.takes_too("Bearer second-token");
    authorize(dir.path(), "Bearer second-token");
    let path = shop.network.merchant.log().to_owned();
    let log = || fs::read_to_string(&path).unwrap();
    let read = eventually("the new headers to be read", DEADLINE, || async {
        match log().matches("takes the headers that say who asks").count() {
            2 => Ok(Some(())),
            count => Err(format!("taken {count} times")),
        }
    });
    read.await.unwrap();
    server.takes("Bearer second-token");
    shop.buy(HEIGHT).await;

    // Expired in the middle of a sale: nothing more is sold, and what was sold is served.
    let challenge = shop.get(HEIGHT, None).await.challenge().unwrap();
    server.takes("Bearer third-token");
    let payer = Arc::clone(&shop.network.payer);
    let mut paying = std::pin::pin!(payer.pay(&challenge.bolt11));
    let refused = |status: &Value| {
        let unready = status["node"]["unready"].as_str();
        unready.is_some_and(|why| why.contains("refuses who asks"))
    };
    tokio::select! {
        paid = &mut paying => panic!("paid without a state that was kept: {paid:?}"),
        _ = status_says(&shop.network.merchant, "that the server refuses", refused) => {}
    }
    assert_eq!(shop.get(ARTICLE, Some(&bought)).await.status, 200);
    assert_eq!(shop.get(HEIGHT, None).await.status, 503);
    for what in ["node.vss", "lease"] {
        let found = findings(&shop.network.merchant, what).await;
        let is_told = |(grade, said): &(String, String)| {
            grade != "good" && said.contains("refuses the headers of")
        };
        assert!(found.len() == 1 && found.iter().all(is_told), "{found:?}");
    }
    // What is half-written is no reason to forget the headers.
    fs::write(dir.path().join("vss.headers"), "Authoriz").unwrap();
    fs::remove_file(dir.path().join("vss.headers")).unwrap();
    authorize(dir.path(), "Bearer third-token");
    let paid = paying.await.unwrap();
    let credential = challenge.credential(&paid);
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    shop.network.merchant.wait_ready().await.unwrap();
    shop.redeemed_sales(3).await;
    assert!(shop.network.merchant.terminate().await.unwrap().success());
    let log = log();
    for secret in ["who-we-are", "second-token", "third-token"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn no_question_of_the_operators_waits_for_a_server_that_keeps_silent() {
    let dir = regtest::folder::temporary().unwrap();
    let server = Vss::start(AUTHORIZATION).unwrap();
    let shop = Shop::open_with("", &settings(&server, dir.path())).await;
    shop.buy(ARTICLE).await;
    let admin = shop.network.merchant.admin();
    let channels = admin.status().await.unwrap()["node"]["channels"].clone();
    assert_eq!(channels.as_array().unwrap().len(), 1);

    let challenge = shop.get(HEIGHT, None).await.challenge().unwrap();
    server.keeps_silent(true);
    let payer = Arc::clone(&shop.network.payer);
    let mut paying = std::pin::pin!(payer.pay(&challenge.bolt11));
    let is_stuck = |status: &Value| status["node"]["is_stuck"] == true;
    let stuck = status_says(&shop.network.merchant, "that it waits", is_stuck);
    let status = tokio::select! {
        paid = &mut paying => panic!("paid without a state that was kept: {paid:?}"),
        status = stuck => status,
    };
    let node = &status["node"];
    assert_eq!(node["phase"], "running, and waits for its store");
    assert!(node["described_secs"].is_u64(), "{node}");
    assert_eq!(node["channels"].as_array().unwrap().len(), 1, "{node}");
    // However often they are asked, all of them at once.
    let paths = [
        "/status",
        "/ready",
        "/health",
        "/channels",
        "/peers",
        "/payments",
        "/onchain",
        "/sales",
    ];
    let asked = Instant::now();
    let asking = paths.iter().cycle().take(40).map(|path| async move {
        let (status, body) = admin.call(Method::GET, path).await.unwrap();
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{path}: {body}");
        (path, status, body)
    });
    let answers = futures_util::future::join_all(asking).await;
    let waited = asked.elapsed();
    assert!(waited < AT_ONCE, "{waited:?}");
    for (path, status, body) in answers {
        if ["/channels", "/peers", "/payments", "/onchain"].contains(path) {
            assert!(
                body.contains("waits for its store"),
                "{path}: {status} {body}"
            );
        }
    }
    finding(&shop.network.merchant, "node", "bad", "waits for its store").await;
    server.keeps_silent(false);
    let paid = paying.await.unwrap();
    let credential = challenge.credential(&paid);
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    let is_well = |status: &Value| status["node"]["is_stuck"] == false;
    status_says(&shop.network.merchant, "that it waits no more", is_well).await;
    let said = done(tollhouse(&["doctor", "--config"]).arg(shop.network.merchant.settings_file()));
    assert!(said.contains("no backup is behind it"), "{said}");
}
