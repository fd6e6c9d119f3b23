//! The answer of a hook: `{"price_msat", "description"?, "grant"?, "class"?}`. Any other key is
//! refused, because a misspelled `grant` would sell something that the operator did not intend.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::amount::Msat;
use crate::base::text;
use crate::protocol::l402::sold_as::Word;

use super::super::ask::said;
use super::config::HookError;

/// The longest description that is kept. The description goes into the invoice, where wallets show
/// a line or two.
const DESCRIPTION_CHARS_MAX: usize = 200;

/// The longest validity of a grant: a hundred years, as in the settings.
const VALID_SECS_MAX: u64 = 100 * 365 * 86_400;

/// The hook's price for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The price; never zero.
    pub price: Msat,
    /// The description for the invoice, as one line; `None` if the hook gave none.
    pub description: Option<Arc<str>>,
    /// The parts of the grant that differ from the route's grant.
    pub grant: QuotedGrant,
    /// The class of the request, if the hook names one. A token of another class does not open the
    /// request.
    pub class: Option<Word>,
    /// Whether this price comes from the settings because the hook is away. In that case the
    /// request's class is unknown.
    pub is_fallback: bool,
}

/// The grant that the hook chose. A value that is `None` comes from the route; other values are
/// never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QuotedGrant {
    /// The number of requests.
    pub requests: Option<u64>,
    /// The validity in seconds.
    pub valid_secs: Option<u64>,
    /// The number of response bytes.
    pub bytes: Option<u64>,
    /// The number of seconds of work.
    pub seconds: Option<u64>,
}

impl Quoted {
    /// The price from the settings, for a hook that is away.
    pub(super) fn without_an_answer(price: Msat) -> Self {
        Self {
            price,
            description: None,
            grant: QuotedGrant::default(),
            class: None,
            is_fallback: true,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    price_msat: u64,
    description: Option<String>,
    grant: Option<QuotedGrant>,
    class: Option<String>,
}

pub(super) fn read(answer: &[u8], max: Msat) -> Result<Quoted, HookError> {
    let read: Answer =
        serde_json::from_slice(answer).map_err(|error| HookError::NotUnderstood {
            why: said(error.to_string().as_bytes()),
            said: said(answer),
        })?;
    let price_msat = read.price_msat;
    if price_msat == 0 {
        return Err(HookError::Zero);
    }
    let price = Msat::new(price_msat).filter(|price| *price <= max);
    let price = price.ok_or(HookError::TooDear { price_msat, max })?;
    let grant = read.grant.unwrap_or_default();
    for (name, number, most) in [
        ("requests", grant.requests, u64::MAX),
        ("valid_secs", grant.valid_secs, VALID_SECS_MAX),
        ("bytes", grant.bytes, u64::MAX),
        ("seconds", grant.seconds, u64::MAX),
    ] {
        if number.is_some_and(|number| number == 0 || number > most) {
            return Err(HookError::Grant(name));
        }
    }
    let description = read.description.as_deref().map(one_line).transpose()?;
    let class = read.class.as_deref().map(Word::new).transpose();
    Ok(Quoted {
        price,
        description: description.flatten(),
        grant,
        class: class.map_err(|_| HookError::Class)?,
        is_fallback: false,
    })
}

/// Returns the description as one line for the invoice. Invisible or misleading characters are an
/// error, because the description is signed and may repeat a stranger's text.
fn one_line(text: &str) -> Result<Option<Arc<str>>, HookError> {
    let line = text.replace(['\t', '\r', '\n'], " ");
    let line = text::readable(line.trim()).map_err(HookError::Description)?;
    let line: String = line.chars().take(DESCRIPTION_CHARS_MAX).collect();
    Ok((!line.is_empty()).then(|| line.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_at_most(answer: &str, max: u64) -> Result<Quoted, HookError> {
        read(answer.as_bytes(), Msat::new(max).unwrap())
    }

    #[test]
    fn a_price_is_all_that_must_be_said() {
        let quoted = read_at_most(r#"{"price_msat":2500}"#, 2_500).unwrap();
        assert_eq!(quoted.price.msat(), 2_500);
        assert_eq!(quoted.description, None);
        assert_eq!(quoted.grant, QuotedGrant::default());
        let all = r#"{"price_msat":1,"description":"a page",
            "grant":{"requests":5,"valid_secs":60,"bytes":1000,"seconds":7}}"#;
        let quoted = read_at_most(all, 1).unwrap();
        assert_eq!(quoted.description.as_deref(), Some("a page"));
        let grant = QuotedGrant {
            requests: Some(5),
            valid_secs: Some(60),
            bytes: Some(1_000),
            seconds: Some(7),
        };
        assert_eq!(quoted.grant, grant);
        let null = r#"{"price_msat":1,"description":null,"grant":null,"class":null}"#;
        assert!(read_at_most(null, 1).is_ok());
    }

    #[test]
    fn a_price_that_cannot_be_meant_is_refused() {
        for answer in [
            "",
            "null",
            "2500",
            "[2500]",
            "{}",
            "<html>",
            "{\"price_msat\":2500",
            "{\"price_msat\":2500}}",
            "{\"price_msat\":null}",
            "{\"price_msat\":-1}",
            "{\"price_msat\":2500.5}",
            "{\"price_msat\":2500.0}",
            "{\"price_msat\":1e3}",
            "{\"price_msat\":\"2500\"}",
            "{\"price_msat\":NaN}",
            "{\"price_msat\":18446744073709551616}",
            "{\"price_msat\":1,\"price_msat\":2}",
            "{\"price_sat\":2500}",
            "{\"price_msat\":2500,\"grnat\":{\"requests\":1}}",
            "{\"price_msat\":2500,\"grant\":{\"request\":1}}",
            "{\"price_msat\":2500,\"grant\":{\"requests\":-1}}",
            "{\"price_msat\":2500,\"grant\":{\"requests\":0.5}}",
            "{\"price_msat\":2500,\"grant\":5}",
            "{\"price_msat\":2500,\"description\":5}",
        ] {
            let refused = read_at_most(answer, 1_000_000).unwrap_err();
            assert!(
                matches!(refused, HookError::NotUnderstood { .. }),
                "{answer}: {refused}"
            );
        }
        assert_eq!(read_at_most("{\"price_msat\":0}", 1), Err(HookError::Zero));
        for price_msat in [1_001, u64::MAX, crate::base::amount::MSAT_MAX + 1] {
            let refused = read_at_most(&format!("{{\"price_msat\":{price_msat}}}"), 1_000);
            let max = Msat::new(1_000).unwrap();
            assert_eq!(refused, Err(HookError::TooDear { price_msat, max }));
        }
        for name in ["requests", "valid_secs", "bytes", "seconds"] {
            let none = format!("{{\"price_msat\":1,\"grant\":{{\"{name}\":0}}}}");
            assert_eq!(read_at_most(&none, 1), Err(HookError::Grant(name)));
        }
        let ages = format!(
            "{{\"price_msat\":1,\"grant\":{{\"valid_secs\":{}}}}}",
            u64::MAX
        );
        assert_eq!(read_at_most(&ages, 1), Err(HookError::Grant("valid_secs")));
    }

    #[test]
    fn a_class_is_a_short_word() {
        let class = |text: &str| {
            let answer = format!("{{\"price_msat\":1,\"class\":{text}}}");
            read_at_most(&answer, 1).map(|quoted| quoted.class.map(|word| word.to_string()))
        };
        assert_eq!(class("\"bulk-2\""), Ok(Some("bulk-2".to_owned())));
        for bad in [
            "\"\"",
            "\"Bulk\"",
            "\"a b\"",
            "\".requests:1\"",
            "\"a=b\"",
            &format!("\"{}\"", "a".repeat(33)),
        ] {
            assert_eq!(class(bad), Err(HookError::Class), "{bad}");
        }
        assert!(matches!(class("5"), Err(HookError::NotUnderstood { .. })));
    }

    #[test]
    fn a_description_becomes_one_line() {
        for (description, line) in [
            (
                "\"  a page\\r\\nof text\\n\"",
                Some("a page  of text".to_owned()),
            ),
            ("\"\"", None),
            ("\" \\n \"", None),
            (&*format!("\"{}\"", "ä".repeat(201)), Some("ä".repeat(200))),
        ] {
            let answer = format!("{{\"price_msat\":1,\"description\":{description}}}");
            let quoted = read_at_most(&answer, 1).unwrap();
            assert_eq!(quoted.description.as_deref(), line.as_deref());
        }
    }

    #[test]
    fn a_description_with_misleading_characters_is_refused() {
        for character in [
            "\\u0000",
            "\\u001b",
            "\\u009b",
            "\\u202e",
            "\\u2066",
            "\\u200b",
            "\\u2028",
            "\\udb40\\udc41",
            "\u{e0041}",
        ] {
            let answer = format!("{{\"price_msat\":1,\"description\":\"a{character}b\"}}");
            let refused = read_at_most(&answer, 1).unwrap_err();
            assert!(
                matches!(refused, HookError::Description(_)),
                "{answer}: {refused}"
            );
        }
    }
}
