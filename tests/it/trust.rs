//! TLS to an upstream: verified, always.

use std::net::SocketAddr;

use http::{Method, StatusCode, header::AUTHORIZATION};
use tokio::net::TcpListener;
use tollhouse::sell::resource::certificates;
use tollhouse::sell::route::Upstream;

use crate::support::answers::assert_problem;
use crate::support::calls::{Calls, MESSAGE, self_signed};
use crate::support::log::Log;
use crate::support::upstream::SOON;
use crate::support::{Setup, Shop};

async fn shop_trusting(url: String, authorities: Vec<Vec<u8>>) -> Shop {
    let upstream = Upstream {
        authorities,
        ..Upstream::of(vec![url.parse().unwrap()])
    };
    Shop::with(Setup::of(upstream)).await
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_and_the_log_says_so() {
    let (log, _listening) = Log::listen();
    let (speech, _) = self_signed("127.0.0.1", &[]);
    let calls = Calls::start(speech).await;
    let shop = shop_trusting(format!("https://{}", calls.address), Vec::new()).await;
    let sold = shop.sell("up", Some(1));
    assert_problem(
        &shop.get_with("/up/x", &sold).await,
        StatusCode::BAD_GATEWAY,
    );
    assert_eq!(calls.count(), 0);
    shop.is_counted(&sold, 0).await;
    let said = log.text();
    let line = said
        .lines()
        .find(|line| line.contains("The upstream of /up/* does not answer"));
    assert!(
        line.unwrap()
            .contains("invalid peer certificate: UnknownIssuer"),
        "{line:?}"
    );
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_the_settings_name_it() {
    let (speech, pem) = self_signed("127.0.0.1", &[]);
    let calls = Calls::start(speech).await;
    let authorities = certificates(pem.as_bytes()).unwrap();
    let shop = shop_trusting(format!("https://{}", calls.address), authorities).await;
    let answer = shop.get_with("/up/x", &shop.sell("up", None)).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::OK, MESSAGE)
    );
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time_and_another_is_asked() {
    let (log, _listening) = Log::listen();
    // It takes connections, and never greets.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (speech, pem) = self_signed("127.0.0.1", &[]);
    let calls = Calls::start(speech).await;
    let url = |address: SocketAddr| format!("https://{address}").parse().unwrap();
    let upstream = Upstream {
        authorities: certificates(pem.as_bytes()).unwrap(),
        connect_timeout: SOON,
        ..Upstream::of(vec![url(silent.local_addr().unwrap()), url(calls.address)])
    };
    let shop = Shop::with(Setup::of(upstream)).await;
    let sold = shop.sell("up", Some(3));
    for _ in 0..3 {
        // With a body: it is still there when the second one is asked.
        let request = shop
            .request(Method::POST, "/up/echo")
            .header(AUTHORIZATION, sold.header())
            .body("a body");
        let answer = shop.send(request).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (StatusCode::OK, "a body")
        );
    }
    assert_eq!(calls.count(), 3);
    shop.is_counted(&sold, 3).await;
    let said = log.text();
    assert!(said.contains("no connection within 1s"), "{said}");
}

#[tokio::test]
async fn another_servers_certificate_and_another_authority_are_refused() {
    let (speech, pem) = self_signed("other.example", &[]);
    let (_, unrelated) = self_signed("127.0.0.1", &[]);
    let calls = Calls::start(speech).await;
    for pem in [pem, unrelated] {
        let authorities = certificates(pem.as_bytes()).unwrap();
        let shop = shop_trusting(format!("https://{}", calls.address), authorities).await;
        let answer = shop.get_with("/up/x", &shop.sell("up", None)).await;
        assert_problem(&answer, StatusCode::BAD_GATEWAY);
    }
    assert_eq!(calls.count(), 0);
}
