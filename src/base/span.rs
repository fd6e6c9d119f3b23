//! The only parser for spans of time: `30s`, `10m`, `1h`, `7d`.

use std::time::Duration;

/// A hundred years. Longer spans are surely mistakes, and dates that far ahead would overflow.
const SECS_MAX: u64 = 100 * 365 * 86_400;

/// Reads one whole number and one unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a span of time: write `30s`, `90s`, `10m`, `1h` or `7d`");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let unit_secs = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let secs = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit_secs))
        .ok_or_else(wrong)?;
    match secs {
        0 => Err(format!(
            "`{text}` is zero: write `30s`, `90s`, `10m`, `1h` or `7d`"
        )),
        secs if secs > SECS_MAX => Err(format!("`{text}` is more than a hundred years")),
        secs => Ok(Duration::from_secs(secs)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::parse;

    proptest! {
        #[test]
        fn a_span_is_as_long_as_it_says(number in 1..36_500_u64) {
            for (unit, secs) in [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)] {
                let span = Duration::from_secs(number * secs);
                prop_assert_eq!(parse(&format!("{number}{unit}")), Ok(span));
            }
        }
    }

    #[test]
    fn spans_are_one_number_and_one_unit() {
        for (text, secs) in [("30s", 30), ("10m", 600), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(secs)));
        }
        for text in [
            "",
            "s",
            "1",
            "1.5h",
            "-1s",
            "1 h",
            "1h30m",
            " 1h",
            "1h ",
            "+1h",
            "1,000s",
            "1_0s",
            "0s",
            "00m",
            "1H",
            "١h",
            "1w",
            "999999999999d",
            "1ä",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
