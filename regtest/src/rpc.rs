//! Calls to bitcoind's JSON-RPC, asynchronous and over kept-alive connections.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Mining a hundred blocks on a busy machine stays far below this.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// bitcoind closes an idle connection after 30 seconds; we let go of it before.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A client of one bitcoind's RPC.
///
/// Each runtime should have its own (`clone` shares the connections): a connection is driven by the runtime that made it.
#[derive(Clone)]
pub struct Rpc {
    http: reqwest::Client,
    url: String,
    user: String,
    password: String,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Why a call gave no result.
#[derive(Debug)]
pub enum RpcError {
    /// bitcoind answered with an error.
    Refused {
        /// Bitcoin Core's error code, such as -5 for something unknown or -26 for a transaction that breaks a rule.
        code: i64,
        /// Its words.
        message: String,
    },
    /// No answer, or none that is understood.
    Unreachable(String),
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message } => write!(f, "bitcoind refused with {code}: {message}"),
            Self::Unreachable(why) => write!(f, "bitcoind gave no answer: {why}"),
        }
    }
}

impl std::error::Error for RpcError {}

/// The envelope of an answer.
#[derive(Deserialize)]
struct Answer {
    result: Value,
    error: Option<Refusal>,
}

/// The error inside the envelope.
#[derive(Deserialize)]
struct Refusal {
    code: i64,
    message: String,
}

impl Rpc {
    /// A client for the RPC at `url`, with the user and the password of the cookie file.
    ///
    /// # Errors
    /// When the cookie cannot be read.
    pub fn open(url: impl Into<String>, cookie: &Path) -> Result<Self> {
        let line = std::fs::read_to_string(cookie)
            .with_context(|| format!("failed to read bitcoind's cookie {}", cookie.display()))?;
        let (user, password) = line
            .trim()
            .split_once(':')
            .context("bitcoind's cookie has no colon")?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(CALL_TIMEOUT)
            .pool_idle_timeout(IDLE_MAX)
            .build()
            .context("failed to build the RPC client")?;
        Ok(Self {
            http,
            url: url.into(),
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// Calls `method` with positional parameters (a JSON array).
    ///
    /// # Errors
    /// When bitcoind refuses, or does not answer with what the caller expects.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
    ) -> Result<T, RpcError> {
        let unreachable =
            |error: &dyn fmt::Display| RpcError::Unreachable(format!("{method}: {error}"));
        let response = self
            .http
            .post(&self.url)
            .basic_auth(&self.user, Some(&self.password))
            .json(&json!({ "jsonrpc": "1.0", "id": 0, "method": method, "params": params }))
            .send()
            .await
            .map_err(|error| unreachable(&error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| unreachable(&error))?;
        let answer: Answer = serde_json::from_str(&text)
            .map_err(|error| unreachable(&format!("status {status}, {error}")))?;
        match answer.error {
            Some(Refusal { code, message }) => Err(RpcError::Refused { code, message }),
            None => serde_json::from_value(answer.result).map_err(|error| unreachable(&error)),
        }
    }
}
