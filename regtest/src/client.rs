//! A small L402 client: ask, read the challenge, pay, ask again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::{HeaderMap, Method, StatusCode};
use ldk_node::lightning_invoice::Bolt11Invoice;
use serde_json::Value;

use crate::payer::{Paid, Payer};
use crate::token::Token;

/// Longer than any answer of a test may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A client; it remembers nothing but its connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// From sending the request to the last byte.
    pub took: Duration,
}

/// A 402, taken apart.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// Every `WWW-Authenticate` line, in their order.
    pub lines: Vec<String>,
    /// The token of the first L402 line, in base64.
    pub macaroon: String,
    /// The invoice of that line.
    pub bolt11: String,
    /// The problem document in the body; null if the body is none.
    pub problem: Value,
}

/// Token and preimage, as presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The token, in base64.
    pub macaroon_base64: String,
    /// The proof of payment, 64 hex digits.
    pub preimage_hex: String,
}

/// One purchase, step by step.
#[derive(Clone, Debug)]
pub struct Purchase {
    /// The 402.
    pub refusal: Answer,
    /// The same, taken apart.
    pub challenge: Challenge,
    /// The payment.
    pub paid: Paid,
    /// What it bought.
    pub credential: Credential,
    /// The answer to the second request.
    pub answer: Answer,
}

impl Client {
    /// A client that follows no redirect and uses no proxy.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new() -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_TIMEOUT)
            .build()
            .context("failed to build the HTTP client")?;
        Ok(Self { http })
    }

    /// Asks with GET, with a credential or without.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn get(&self, url: &str, credential: Option<&Credential>) -> Result<Answer> {
        let request = self.http.request(Method::GET, url);
        self.send(match credential {
            Some(credential) => request.header(http::header::AUTHORIZATION, credential.header()),
            None => request,
        })
        .await
    }

    /// A request to fill in and to give to [`Client::send`].
    pub fn request(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let begun = Instant::now();
        let response = request.send().await.context("failed to send the request")?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response
            .bytes()
            .await
            .context("failed to read the answer")?
            .to_vec();
        Ok(Answer {
            status,
            headers,
            body,
            took: begun.elapsed(),
        })
    }

    /// Asks without a credential and takes the challenge.
    ///
    /// # Errors
    /// When the answer is no challenge.
    pub async fn challenge(&self, url: &str) -> Result<Challenge> {
        self.get(url, None).await?.challenge()
    }

    /// Asks, pays and asks again. The second answer may still be a refusal.
    ///
    /// # Errors
    /// When there is no challenge, or it cannot be paid.
    pub async fn buy(&self, payer: &Payer, url: &str) -> Result<Purchase> {
        let refusal = self.get(url, None).await?;
        let challenge = refusal.challenge()?;
        let paid = payer.pay(&challenge.bolt11).await?;
        let credential = challenge.credential(&paid);
        let answer = self.get(url, Some(&credential)).await?;
        Ok(Purchase {
            refusal,
            challenge,
            paid,
            credential,
            answer,
        })
    }
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, if it is there once and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The challenge that it is.
    ///
    /// # Errors
    /// When it is none.
    pub fn challenge(&self) -> Result<Challenge> {
        if self.status != StatusCode::PAYMENT_REQUIRED {
            bail!("expected a 402, got {}: {}", self.status, self.text());
        }
        let lines: Vec<String> = self
            .headers
            .get_all(http::header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|line| line.to_str().ok().map(str::to_owned))
            .collect();
        let offer = lines
            .iter()
            .find(|line| line.starts_with("L402 "))
            .context("no L402 line in the 402")?;
        Ok(Challenge {
            macaroon: parameter(offer, "macaroon")
                .context("no macaroon in the L402 line")?
                .to_owned(),
            bolt11: parameter(offer, "invoice")
                .context("no invoice in the L402 line")?
                .to_owned(),
            problem: serde_json::from_slice(&self.body).unwrap_or_default(),
            lines,
        })
    }
}

impl Challenge {
    /// The token, taken apart.
    ///
    /// # Errors
    /// When it is no macaroon.
    pub fn token(&self) -> Result<Token> {
        Token::from_base64(&self.macaroon)
    }

    /// The invoice, taken apart.
    ///
    /// # Errors
    /// When it is no BOLT 11 invoice.
    pub fn invoice(&self) -> Result<Bolt11Invoice> {
        read_invoice(&self.bolt11)
    }

    /// The credential that the payment makes of the token.
    #[must_use]
    pub fn credential(&self, paid: &Paid) -> Credential {
        Credential {
            macaroon_base64: self.macaroon.clone(),
            preimage_hex: paid.preimage_hex(),
        }
    }
}

impl Credential {
    /// The value of the `Authorization` header.
    #[must_use]
    pub fn header(&self) -> String {
        format!("L402 {}:{}", self.macaroon_base64, self.preimage_hex)
    }
}

/// Takes a BOLT 11 invoice apart.
///
/// # Errors
/// When it is none.
pub fn read_invoice(bolt11: &str) -> Result<Bolt11Invoice> {
    bolt11
        .parse()
        .map_err(|error| anyhow::anyhow!("{bolt11} is no BOLT 11 invoice: {error}"))
}

/// The value of `name="…"` in a line of challenges.
fn parameter<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = line.find(&format!("{name}=\""))? + name.len() + 2;
    let rest = &line[start..];
    Some(&rest[..rest.find('"')?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: StatusCode, lines: &[&'static str]) -> Answer {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                http::header::WWW_AUTHENTICATE,
                http::HeaderValue::from_static(line),
            );
        }
        Answer {
            status,
            headers,
            body: b"{\"service\":\"chain\"}".to_vec(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn the_l402_line_is_found_among_others() {
        let challenge = answer(
            StatusCode::PAYMENT_REQUIRED,
            &[
                "LSAT macaroon=\"old\", invoice=\"lnold\"",
                "L402 macaroon=\"AgE=\", invoice=\"lnbcrt1\", version=\"0\"",
            ],
        )
        .challenge()
        .unwrap();
        assert_eq!(
            (&*challenge.macaroon, &*challenge.bolt11),
            ("AgE=", "lnbcrt1")
        );
        assert_eq!(challenge.lines.len(), 2);
        assert_eq!(challenge.problem["service"], "chain");
    }

    #[test]
    fn anything_else_is_no_challenge() {
        assert!(
            answer(StatusCode::OK, &["L402 macaroon=\"a\", invoice=\"b\""])
                .challenge()
                .is_err()
        );
        assert!(
            answer(StatusCode::PAYMENT_REQUIRED, &[])
                .challenge()
                .is_err()
        );
        assert!(
            answer(StatusCode::PAYMENT_REQUIRED, &["L402 macaroon=\"a\""])
                .challenge()
                .is_err()
        );
    }
}
