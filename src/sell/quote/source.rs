//! A source of a rate: a URL, and the place of the number in its answer.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use crate::base::price::{Currency, Rate, RateError};

use super::address::Address;
use super::ask::{AskError, Asker, said};

/// A server that reports the price of a bitcoin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The URL to ask.
    pub address: Address,
    /// The place of the number in the JSON answer.
    pub pointer: Pointer,
}

/// A JSON pointer (RFC 6901), as in `/data/rate`; an empty pointer selects the whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(String);

/// The text is not a JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a JSON pointer begins with a slash, as in \"/data/rate\", and writes `~` as `~0` and `/` as `~1`"
)]
pub struct NoPointer;

impl FromStr for Pointer {
    type Err = NoPointer;

    fn from_str(text: &str) -> Result<Self, NoPointer> {
        let is_escape = |rest: &str| rest.starts_with(['0', '1']);
        let has_good_escapes = text.split('~').skip(1).all(is_escape);
        if !(text.is_empty() || text.starts_with('/')) || !has_good_escapes {
            return Err(NoPointer);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reason why a source gave no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The source gave no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer is not JSON.
    #[error("it did not answer in JSON, but said: {said}")]
    NotJson {
        /// The beginning of the answer.
        said: String,
    },
    /// The JSON answer has no value at the pointer.
    #[error("there is nothing at `{pointer}` in its answer: {said}")]
    NothingThere {
        /// The pointer from the settings.
        pointer: Pointer,
        /// The beginning of the answer.
        said: String,
    },
    /// The value at the pointer is not a valid rate.
    #[error("it gave {said} for a bitcoin: {why}")]
    NoRate {
        /// The beginning of the value.
        said: String,
        /// The reason why the value is not a rate.
        #[source]
        why: RateError,
    },
}

impl Source {
    /// Asks the source once.
    pub(super) async fn ask(
        &self,
        asker: &Asker,
        currency: Currency,
        within: Duration,
    ) -> Result<Rate, SourceError> {
        let answer = asker.get(&self.address, within).await?;
        self.read(&answer, currency)
    }

    fn read(&self, answer: &[u8], currency: Currency) -> Result<Rate, SourceError> {
        let Ok(json) = serde_json::from_slice::<Value>(answer) else {
            return Err(SourceError::NotJson { said: said(answer) });
        };
        let Some(value) = json.pointer(&self.pointer.0) else {
            return Err(SourceError::NothingThere {
                pointer: self.pointer.clone(),
                said: said(answer),
            });
        };
        // A string is read digit by digit. A JSON number has passed through floating point, which
        // holds 15 digits, and is formatted here with the fewest digits that identify it. So
        // 97123.45 stays 97123.45.
        let number = match value {
            Value::String(text) => text.clone(),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => value.to_string(),
        };
        Rate::read(currency, &number).map_err(|why| SourceError::NoRate {
            said: said(value.to_string().as_bytes()),
            why,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pointer: &str, answer: &str) -> Result<u64, SourceError> {
        let source = Source {
            address: "http://127.0.0.1:1".parse().unwrap(),
            pointer: pointer.parse().unwrap(),
        };
        let rate = source.read(answer.as_bytes(), "USD".parse().unwrap());
        rate.map(|rate| rate.micros_per_btc)
    }

    #[test]
    fn the_number_is_found_and_read_exactly() {
        for (pointer, answer, micros) in [
            (
                "/data/rate",
                r#"{"data":{"rate":"97123.45"}}"#,
                97_123_450_000,
            ),
            (
                "/data/rate",
                r#"{"data":{"rate":97123.45}}"#,
                97_123_450_000,
            ),
            ("/0/1", "[[0,97123.1]]", 97_123_100_000),
            ("", "100000", 100_000_000_000),
            ("/a~1b/m~0n", r#"{"a/b":{"m~n":1}}"#, 1_000_000),
            ("/r", r#"{"r":97123.12345678}"#, 97_123_123_456),
            ("/r", r#"{"r":1.0e5}"#, 100_000_000_000),
            ("/r", r#"{"r":"0097123"}"#, 97_123_000_000),
        ] {
            assert_eq!(read(pointer, answer), Ok(micros), "{answer}");
        }
    }

    #[test]
    fn what_cannot_be_the_rate_is_refused_with_what_was_said() {
        for (answer, words) in [
            ("", "nothing"),
            ("<html>down</html>", "<html>down</html>"),
            ("{\"r\":97123", "97123"),
            ("{\"q\":97123}", "`/r`"),
            ("{\"r\":null}", "null"),
            ("{\"r\":true}", "true"),
            ("{\"r\":[97123]}", "[97123]"),
            ("{\"r\":{\"usd\":1}}", "usd"),
            ("{\"r\":-97123}", "-97123"),
            ("{\"r\":\"-97123\"}", "-97123"),
            ("{\"r\":0}", "less than one"),
            ("{\"r\":0.0}", "less than one"),
            ("{\"r\":-0.0}", "-0.0"),
            ("{\"r\":\"0\"}", "less than one"),
            ("{\"r\":0.0000103}", "less than one"),
            ("{\"r\":1e300}", "e+300"),
            ("{\"r\":1e999}", "1e999"),
            ("{\"r\":NaN}", "NaN"),
            ("{\"r\":\"NaN\"}", "NaN"),
            ("{\"r\":\"Infinity\"}", "Infinity"),
            ("{\"r\":\"97,123.45\"}", "97,123.45"),
            ("{\"r\":\" 97123\"}", "decimal"),
            ("{\"r\":\"\"}", "decimal"),
            ("{\"r\":9999999999999}", "trillion"),
            (&*"[".repeat(60_000), "[[[["),
        ] {
            let refused = read("/r", answer).unwrap_err();
            assert!(
                crate::base::error_chain::chain(&refused).contains(words),
                "{answer}: {refused}"
            );
        }
    }

    #[test]
    fn a_pointer_is_one_by_rfc_6901() {
        for good in ["", "/", "/a/b", "/a~0b~1c", "/0"] {
            assert!(good.parse::<Pointer>().is_ok(), "{good}");
        }
        for bad in ["a", "data.rate", "/a~", "/a~2", "/~~0", "$.a"] {
            assert_eq!(bad.parse::<Pointer>(), Err(NoPointer), "{bad}");
        }
    }
}
