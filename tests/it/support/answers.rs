//! What an answer must be.

use http::StatusCode;
use regtest::client::{Answer, Challenge};

use super::PAGE;
use super::program::JOKE;
use super::upstream::HELLO;

/// The page, and nothing but the page.
pub(crate) fn assert_served(answer: &Answer) {
    assert_said(answer, PAGE);
}

/// What the upstream says.
pub(crate) fn assert_hello(answer: &Answer) {
    assert_said(answer, HELLO);
}

/// What a guarded handler says.
pub(crate) fn assert_told(answer: &Answer) {
    assert_said(answer, JOKE);
}

fn assert_said(answer: &Answer, text: &str) {
    let said = (answer.status, answer.text());
    assert_eq!(said, (StatusCode::OK, text.to_owned()));
}

/// A challenge, and nothing of the resource.
pub(crate) fn assert_challenged(answer: &Answer) -> Challenge {
    assert!(!answer.text().contains(PAGE), "{}", answer.text());
    answer.challenge().unwrap()
}

/// What a challenge asks, in msat.
pub(crate) fn price(challenge: &Challenge) -> u64 {
    challenge.problem["price_msat"].as_u64().unwrap()
}

/// A problem in the words of RFC 9457 that says the request was not counted.
pub(crate) fn assert_problem(answer: &Answer, status: StatusCode) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], status.as_u16());
    // What RFC 9457, section 4.2.1 wants of a problem without a type of its own.
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["title"], status.canonical_reason().unwrap());
    assert!(problem["detail"].as_str().unwrap().contains("not counted"));
}
