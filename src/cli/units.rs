//! Amounts and times in the form that people write and read.

use crate::base::amount::{Msat, whole_number};
use crate::base::clock::Clock;
use crate::base::span;

/// Reads `1000 sat`, `1,000 sat` or `2500 msat` as the settings do, and a bare `1000` as satoshi.
pub(super) fn amount(text: &str) -> Result<Msat, String> {
    let text = text.trim();
    let has_unit = text.contains(|c: char| c.is_alphabetic() || c.is_whitespace());
    let amount = if has_unit || text.is_empty() {
        text.parse::<Msat>()
    } else {
        format!("{text} sat").parse()
    };
    amount.map_err(|error| error.to_string())
}

/// Reads an on-chain amount, which must be whole satoshi.
pub(super) fn whole_sat(text: &str) -> Result<u64, String> {
    let amount = amount(text)?;
    amount
        .whole_sat()
        .ok_or_else(|| format!("`{text}`: on-chain amounts are whole satoshi"))
}

/// Reads `90s`, `10m`, `2h`, `30d` as seconds, as the settings do.
pub(super) fn span_secs(text: &str) -> Result<u64, String> {
    span::parse(text).map(|span| span.as_secs())
}

/// Reads a fee rate, in whole sat per virtual byte.
pub(super) fn fee_rate(text: &str) -> Result<u64, String> {
    let wrong =
        |_| format!("`{text}` is not a fee rate: write whole sat per virtual byte, as in `3`");
    whole_number(text.trim()).map_err(wrong)
}

/// A number with commas between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// An amount in sat if it is whole satoshi, else in msat.
pub(super) fn msat(msat: u64) -> String {
    if msat.is_multiple_of(1_000) {
        format!("{} sat", grouped(msat / 1_000))
    } else {
        format!("{} msat", grouped(msat))
    }
}

/// The time since a moment, or until it if it is in the future.
pub(super) fn ago(unix_secs: u64) -> String {
    let now_secs = Clock::system().unix_secs();
    if unix_secs > now_secs {
        return format!("in {}", span(unix_secs - now_secs));
    }
    format!("{} ago", span(now_secs - unix_secs))
}

/// A duration in the largest unit of which it has at least two.
pub(super) fn span(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::price::Price;

    proptest! {
        #[test]
        fn the_command_line_and_the_settings_read_amounts_alike(
            text in prop_oneof![any::<String>(), "[ 0-9.,_+-]{0,9} ?(m?sat|sats|USD|)"],
        ) {
            let settings = text.parse::<Price>().ok().and_then(Price::fixed);
            let command_line = amount(&text).ok();
            // Only the command line reads a number without a unit, as satoshi. Only the command
            // line accepts zero.
            let has_unit = text.contains(char::is_alphabetic);
            match (settings, command_line) {
                (Some(settings), command_line) => prop_assert_eq!(Some(settings), command_line),
                (None, Some(amount)) => prop_assert!(!has_unit || amount == Msat::ZERO),
                (None, None) => {}
            }
        }

        #[test]
        fn shown_amounts_are_read_back(number in 0..=crate::base::amount::MSAT_MAX) {
            prop_assert_eq!(amount(&msat(number)).map(Msat::msat), Ok(number));
        }
    }

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, msat) in [
            ("1000", 1_000_000),
            ("1000 sat", 1_000_000),
            ("1_000sat", 1_000_000),
            ("2500 msat", 2_500),
            (" 21,000,000 sat ", 21_000_000_000),
        ] {
            assert_eq!(amount(text).unwrap().msat(), msat, "{text}");
        }
        for text in [
            "",
            "sat",
            "-1 sat",
            "1.5 sat",
            "1 btc",
            "99999999999999999 sat",
            "2000,50 sat",
            "1,5 sat",
            "1,5",
            "20,00",
            ",5",
            "5,",
            "1__000",
            "+5",
            "5 sats",
            "1 000",
        ] {
            assert!(amount(text).is_err(), "{text}");
        }
        let error = amount("2000,50").unwrap_err();
        assert!(error.contains("groups of three digits"), "{error}");
        assert_eq!(whole_sat("2000 msat"), Ok(2));
        assert!(whole_sat("2500 msat").is_err());
    }

    #[test]
    fn times_and_numbers_are_read_and_written() {
        assert_eq!(span_secs("30d"), Ok(2_592_000));
        for text in [
            "",
            "d",
            "1w",
            "-1s",
            "+1s",
            "0s",
            "1.5h",
            "99999999999999999999d",
        ] {
            assert!(span_secs(text).is_err(), "{text}");
        }
        assert_eq!(fee_rate("3"), Ok(3));
        assert!(fee_rate("2.5").unwrap_err().contains("whole sat"));
        assert!(fee_rate("2,5").is_err() && fee_rate("+3").is_err());
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(msat(2_500), "2,500 msat");
        assert_eq!(msat(2_000_000), "2,000 sat");
    }
}
