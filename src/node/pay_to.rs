//! Extracts the invoice or offer from the text that people paste, or says what else the text is.

use std::borrow::Cow;
use std::str::FromStr as _;

use bitcoin::address::{Address, NetworkUnchecked};
use percent_encoding::percent_decode_str;

use super::operation::OperationError;

/// The prefix of a Lightning link.
const LIGHTNING: &str = "lightning:";

/// The prefix of a BIP 21 link.
const BITCOIN: &str = "bitcoin:";

/// The BIP 21 parameters for an invoice and for an offer, in order of preference.
const PARAMETERS: [&str; 2] = ["lightning", "lno"];

/// The prefix of an LNURL.
const LNURL: &str = "lnurl1";

/// The invoice or offer in this text, not parsed yet, or an error that says what the text is instead. QR codes may use capitals
/// throughout.
pub(super) fn invoice_or_offer(text: &str) -> Result<Cow<'_, str>, OperationError> {
    let text = text.trim();
    if let Some(rest) = without(text, LIGHTNING) {
        return named(rest.trim_start_matches("//"));
    }
    let Some(rest) = without(text, BITCOIN) else {
        return named(text);
    };
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let parameters = || query.split('&').filter_map(|pair| pair.split_once('='));
    let value_of = |wanted: &&str| {
        let mut pairs = parameters().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        pairs.next().map(|(_, value)| value)
    };
    match PARAMETERS.iter().find_map(value_of) {
        Some(value) => {
            let value = percent_decode_str(value).decode_utf8();
            value.map_err(|_| OperationError::NotPayable)
        }
        None => named(address),
    }
}

/// Returns the text, unless it is something that is paid in another way.
fn named(text: &str) -> Result<Cow<'_, str>, OperationError> {
    if Address::<NetworkUnchecked>::from_str(text).is_ok() {
        return Err(OperationError::OnlyOnchain(text.to_owned()));
    }
    if without(text, LNURL).is_some() {
        return Err(OperationError::Lnurl);
    }
    let name = text.strip_prefix('\u{20bf}').unwrap_or(text);
    if let Some((user, domain)) = name.split_once('@')
        && !user.is_empty()
        && domain.contains('.')
        && !domain.contains([':', '/'])
    {
        return Err(OperationError::PayeeName(name.to_owned()));
    }
    Ok(text.into())
}

/// The text after this prefix, in any case.
fn without<'a>(text: &'a str, beginning: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(beginning.len())?;
    start.eq_ignore_ascii_case(beginning).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq";

    #[test]
    fn an_invoice_or_an_offer_is_found_in_every_link() {
        for (text, found) in [
            ("lnbc1", "lnbc1"),
            (" LNBC1 ", "LNBC1"),
            ("lightning:lnbc1", "lnbc1"),
            ("LIGHTNING:LNBC1", "LNBC1"),
            ("lightning://lnbc1", "lnbc1"),
            ("bitcoin:?lno=lno1a", "lno1a"),
            ("bitcoin:BC1Q?amount=0.0002&lightning=lnbc1", "lnbc1"),
            ("BITCOIN:BC1Q?LNO=LNO1A&LIGHTNING=LNBC1", "LNBC1"),
            ("bitcoin:bc1q?label=a%20b&lightning=ln%62c1", "lnbc1"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(invoice_or_offer(text).unwrap(), found, "{text}");
        }
    }

    #[test]
    fn other_payment_texts_are_refused_by_name() {
        let upper = ADDRESS.to_uppercase();
        for (text, word) in [
            (ADDRESS.to_owned(), "tollhouse send"),
            (format!("bitcoin:{ADDRESS}?amount=0.0002"), "tollhouse send"),
            (format!("BITCOIN:{upper}"), "tollhouse send"),
            ("me@example.org".to_owned(), "Lightning address"),
            ("\u{20bf}me@example.org".to_owned(), "Lightning address"),
            ("lightning:me@example.org".to_owned(), "Lightning address"),
            ("LNURL1DP68GURN8GHJ7".to_owned(), "LNURL"),
            ("lightning:lnurl1dp68gurn8ghj7".to_owned(), "LNURL"),
        ] {
            let error = invoice_or_offer(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
