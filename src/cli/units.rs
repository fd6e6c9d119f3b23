//! Amounts and times as people write and read them.

use crate::amount::Msat;
use crate::clock::Clock;

/// Reads `1000`, `1000 sat`, `1000sat` or `2500 msat`.
pub(super) fn amount(text: &str) -> Result<Msat, String> {
    let text = text.trim();
    let (digits, is_msat) = match (text.strip_suffix("msat"), text.strip_suffix("sat")) {
        (Some(digits), _) => (digits, true),
        (None, Some(digits)) => (digits, false),
        (None, None) => (text, false),
    };
    let digits = digits.trim().replace(['_', ','], "");
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is no amount: write `1000 sat` or `2500 msat`"))?;
    let amount = if is_msat {
        Msat::new(number)
    } else {
        Msat::from_sat(number)
    };
    amount.ok_or_else(|| format!("`{text}` is more than all the bitcoin that can exist"))
}

/// The same where the chain counts: whole satoshi.
pub(super) fn whole_sat(text: &str) -> Result<u64, String> {
    let msat = amount(text)?.msat();
    if !msat.is_multiple_of(1_000) {
        return Err(format!(
            "`{text}`: on the chain there are whole satoshi only"
        ));
    }
    Ok(msat / 1_000)
}

/// Reads `90s`, `10m`, `2h`, `30d` as seconds.
pub(super) fn span_secs(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no time: write `90s`, `10m`, `2h` or `30d`");
    let (at, unit) = text.char_indices().next_back().ok_or_else(wrong)?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    number.checked_mul(secs).ok_or_else(wrong)
}

/// The same for what has to last.
pub(super) fn some_secs(text: &str) -> Result<u64, String> {
    match span_secs(text)? {
        0 => Err(format!(
            "`{text}` is over at once: write how long it is to last"
        )),
        secs => Ok(secs),
    }
}

/// Reads a fee rate, in whole sat per virtual byte.
pub(super) fn fee_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no fee rate: write whole sat per virtual byte, as in `3`");
    text.trim().parse().map_err(|_| wrong())
}

/// A number with its thousands told apart.
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

/// Whole satoshi as such, everything else in msat.
pub(super) fn msat(msat: u64) -> String {
    if msat.is_multiple_of(1_000) {
        format!("{} sat", grouped(msat / 1_000))
    } else {
        format!("{} msat", grouped(msat))
    }
}

/// How long ago a moment was, or how far off it is.
pub(super) fn ago(unix_secs: u64) -> String {
    let now_secs = Clock::system().unix_secs();
    if unix_secs > now_secs {
        return format!("in {}", span(unix_secs - now_secs));
    }
    format!("{} ago", span(now_secs - unix_secs))
}

/// How long that is, in the largest unit of which there are two or more.
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
    use super::*;

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
        ] {
            assert!(amount(text).is_err(), "{text}");
        }
        assert_eq!(whole_sat("2000 msat"), Ok(2));
        assert!(whole_sat("2500 msat").is_err());
    }

    #[test]
    fn times_and_numbers_are_read_and_written() {
        assert_eq!(span_secs("30d"), Ok(2_592_000));
        for text in ["", "d", "1w", "-1s", "1.5h", "99999999999999999999d"] {
            assert!(span_secs(text).is_err(), "{text}");
        }
        assert_eq!(some_secs("1s"), Ok(1));
        assert!(some_secs("0s").is_err() && some_secs("1w").is_err());
        assert_eq!(fee_rate("3"), Ok(3));
        assert!(fee_rate("2.5").unwrap_err().contains("whole sat"));
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(msat(2_500), "2,500 msat");
        assert_eq!(msat(2_000_000), "2,000 sat");
    }
}
