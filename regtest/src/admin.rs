//! A client of the merchant's operator listener.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::{Method, StatusCode};
use serde_json::Value;

/// The slowest call is `POST /sync`: dozens of requests to the chain source on a busy machine.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Sales on a page; more are not given at once.
const SALES_PAGE: usize = 500;

/// The operator's listener of one merchant.
#[derive(Clone, Debug)]
pub struct Admin {
    http: reqwest::Client,
    base: String,
    token_file: PathBuf,
}

/// Whether a challenge can be paid now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
}

impl Admin {
    /// The listener at that address, whose token the program writes into that file.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn open(address: SocketAddr, token_file: &Path) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(CALL_TIMEOUT)
            .build()
            .context("failed to build the operator's client")?;
        Ok(Self {
            http,
            base: format!("http://{address}"),
            token_file: token_file.to_owned(),
        })
    }

    /// The base URL, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// The file with the operator's token.
    #[must_use]
    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// The operator's token.
    ///
    /// # Errors
    /// When the program has not made it yet.
    pub fn token(&self) -> Result<String> {
        let token = std::fs::read_to_string(&self.token_file)
            .with_context(|| format!("failed to read {}", self.token_file.display()))?;
        Ok(token.trim().to_owned())
    }

    /// Any call: its status and its body.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call(&self, method: Method, path: &str) -> Result<(StatusCode, String)> {
        let failed = || format!("failed to call {method} {path} of the operator's listener");
        let request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base))
            .bearer_auth(self.token()?);
        let response = request.send().await.with_context(failed)?;
        let status = response.status();
        Ok((status, response.text().await.with_context(failed)?))
    }

    /// Whether the process answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn health(&self) -> Result<Value> {
        self.get("/health").await
    }

    /// Whether a challenge can be paid now.
    ///
    /// # Errors
    /// When there is no answer, or one that contradicts itself.
    pub async fn ready(&self) -> Result<Readiness> {
        let (status, body) = self.call(Method::GET, "/ready").await?;
        let answer: Value = serde_json::from_str(&body)
            .with_context(|| format!("/ready answered {status}: {body}"))?;
        let ready = answer["ready"]
            .as_bool()
            .with_context(|| format!("/ready without `ready`: {body}"))?;
        if ready != (status == StatusCode::OK) {
            bail!("/ready answered {status} with {body}");
        }
        Ok(Readiness {
            ready,
            reason: answer["reason"].as_str().map(str::to_owned),
        })
    }

    /// The node, its channels and balances, and the totals of the sales.
    ///
    /// # Errors
    /// When there is no good answer.
    pub async fn status(&self) -> Result<Value> {
        self.get("/status").await
    }

    /// The newest sales.
    ///
    /// # Errors
    /// When there is no good answer.
    pub async fn sales(&self, limit: usize) -> Result<Vec<Value>> {
        let answer = self.get(&format!("/sales?limit={limit}")).await?;
        answer["sales"]
            .as_array()
            .cloned()
            .with_context(|| format!("/sales without a list: {answer}"))
    }

    /// All sales, page by page, the newest first.
    ///
    /// # Errors
    /// When there is no good answer.
    pub async fn all_sales(&self) -> Result<Vec<Value>> {
        let mut sales = Vec::new();
        let mut page = self.get(&format!("/sales?limit={SALES_PAGE}")).await?;
        loop {
            let of_page = page["sales"].as_array();
            sales.extend_from_slice(
                of_page.with_context(|| format!("/sales without a list: {page}"))?,
            );
            let Some(next) = page["next"].as_str() else {
                return Ok(sales);
            };
            let path = format!("/sales?limit={SALES_PAGE}&before={next}");
            page = self.get(&path).await?;
        }
    }

    /// Has the node learn of what is new on the chain, and waits until it did.
    ///
    /// # Errors
    /// When it failed.
    pub async fn sync(&self) -> Result<()> {
        let (status, body) = self.call(Method::POST, "/sync").await?;
        if !status.is_success() {
            bail!("POST /sync answered {status}: {body}");
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.call(Method::GET, path).await?;
        if !status.is_success() {
            bail!("{path} answered {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("{path} answered no JSON: {body}"))
    }
}
