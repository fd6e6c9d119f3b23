//! Extracts the invoice or offer from the text that people paste, or says what else the text is.

use std::borrow::Cow;
use std::str::FromStr as _;

use bitcoin::address::{Address, NetworkUnchecked};
use bitcoin::{Amount, Denomination};
use percent_encoding::percent_decode_str;

use super::payment_error::PaymentError;

/// The prefix of a Lightning link.
const LIGHTNING: &str = "lightning:";

/// The prefix of a BIP 21 link.
const BITCOIN: &str = "bitcoin:";

/// The BIP 21 parameters for an invoice and for an offer, in order of preference.
const PARAMETERS: [&str; 2] = ["lightning", "lno"];

/// The prefix of an LNURL.
const LNURL: &str = "lnurl1";

/// An invoice or offer that was found in a text and is not parsed yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    /// The invoice or offer.
    pub(super) text: Cow<'a, str>,
    /// The amount that the link around it names.
    pub(super) amount_msat: Option<u64>,
}

/// The invoice or offer in this text; an error says what the text is instead. All of it may be in
/// capitals, as in a QR code.
pub(super) fn invoice_or_offer(text: &str) -> Result<Found<'_>, PaymentError> {
    let alone = |text| {
        Ok(Found {
            text: named(text)?,
            amount_msat: None,
        })
    };
    let text = text.trim();
    if let Some(rest) = without(text, LIGHTNING) {
        return alone(rest.trim_start_matches("//"));
    }
    let Some(rest) = without(text, BITCOIN) else {
        return alone(text);
    };
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (mut amount, mut ways) = (None, [None; 2]);
    for (name, value) in pairs {
        let way = PARAMETERS
            .iter()
            .position(|it| name.eq_ignore_ascii_case(it));
        let place = match way {
            Some(way) => &mut ways[way],
            None if name.eq_ignore_ascii_case("amount") => &mut amount,
            None if without(name, "req-").is_some() => {
                return Err(PaymentError::BadLink(
                    "it requires an unknown parameter (`req-…`)",
                ));
            }
            None => continue,
        };
        if place.replace(value).is_some() {
            return Err(PaymentError::BadLink("it repeats a parameter"));
        }
    }
    let Some(value) = ways.into_iter().flatten().next() else {
        return alone(address);
    };
    let text = percent_decode_str(value).decode_utf8();
    let text = text.map_err(|_| PaymentError::NotPayable)?;
    let amount = amount.map(|amount| Amount::from_str_in(amount, Denomination::Bitcoin));
    let amount = amount
        .transpose()
        .map_err(|_| PaymentError::BadLink("its amount is not a number of bitcoins"))?;
    let amount_msat = amount.map(|amount| amount.to_sat().saturating_mul(1_000));
    Ok(Found { text, amount_msat })
}

/// Returns the text, unless it is something that is paid in another way.
fn named(text: &str) -> Result<Cow<'_, str>, PaymentError> {
    if Address::<NetworkUnchecked>::from_str(text).is_ok() {
        return Err(PaymentError::OnlyOnchain(text.to_owned()));
    }
    if without(text, LNURL).is_some() {
        return Err(PaymentError::Lnurl);
    }
    let name = text.strip_prefix('\u{20bf}').unwrap_or(text);
    if let Some((user, domain)) = name.split_once('@')
        && !user.is_empty()
        && domain.contains('.')
        && !domain.contains([':', '/'])
    {
        return Err(PaymentError::PayeeName(name.to_owned()));
    }
    Ok(text.into())
}

/// The text after this prefix; the case of the prefix does not matter.
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
            assert_eq!(invoice_or_offer(text).unwrap().text, found, "{text}");
        }
    }

    #[test]
    fn the_amount_of_a_link_is_read_and_a_link_that_contradicts_itself_is_refused() {
        for (link, amount_msat) in [
            ("lnbc1", None),
            ("bitcoin:?lightning=lnbc1", None),
            ("bitcoin:?amount=0.00001&lightning=lnbc1", Some(1_000_000)),
            ("bitcoin:?lno=lno1a&AMOUNT=1", Some(100_000_000_000)),
        ] {
            let found = invoice_or_offer(link).unwrap();
            assert_eq!(found.amount_msat, amount_msat, "{link}");
        }
        for link in [
            "bitcoin:?amount=0.00001&amount=1&lightning=lnbc1",
            "bitcoin:?lightning=lnbc1&LIGHTNING=lnbc2",
            "bitcoin:?lno=lno1a&lno=lno1b",
            "bitcoin:?lightning=lnbc1&req-until=1",
            "bitcoin:?lightning=lnbc1&REQ-x",
            "bitcoin:?amount=1,5&lightning=lnbc1",
            "bitcoin:?amount=-1&lightning=lnbc1",
            "bitcoin:?amount=0.000000001&lightning=lnbc1",
            "bitcoin:?amount=&lightning=lnbc1",
        ] {
            let refused = invoice_or_offer(link);
            assert!(matches!(refused, Err(PaymentError::BadLink(_))), "{link}");
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
