//! Amounts of bitcoin: one type that holds millisatoshi, with arithmetic that cannot wrap.

use std::fmt;
use std::str::FromStr;

/// All the bitcoin that will ever exist, in msat: 21 million coins of 10^8 sat of 10^3 msat.
pub const MSAT_MAX: u64 = 21_000_000 * 100_000_000 * 1_000;

/// An amount in millisatoshi, the unit of a Lightning payment (BOLT 11 and BOLT 2 count in it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Msat(u64);

impl Msat {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// An amount in millisatoshi, or `None` if it is more than all the bitcoin that can exist.
    pub const fn new(msat: u64) -> Option<Self> {
        if msat <= MSAT_MAX {
            Some(Self(msat))
        } else {
            None
        }
    }

    /// An amount in satoshi, or `None` if it is more than all the bitcoin that can exist.
    pub const fn from_sat(sat: u64) -> Option<Self> {
        match sat.checked_mul(1_000) {
            Some(msat) => Self::new(msat),
            None => None,
        }
    }

    /// The number of millisatoshi.
    pub const fn msat(self) -> u64 {
        self.0
    }

    /// The number of satoshi; `None` if the amount is not a whole number of satoshi.
    pub const fn whole_sat(self) -> Option<u64> {
        if self.0.is_multiple_of(1_000) {
            Some(self.0 / 1_000)
        } else {
            None
        }
    }

    /// The sum, or all the bitcoin that can exist if the sum is larger.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0).min(MSAT_MAX))
    }
}

/// The reasons why text is not an amount. Each message says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The unit is neither `sat` nor `msat`.
    #[error("`{0}` is in no known unit: write \"10 sat\" or \"2500 msat\"")]
    UnknownUnit(String),
    /// The number has a fraction, a sign or other characters.
    #[error(
        "`{0}` is not a whole number of satoshi or millisatoshi: write \"10 sat\" or \"2500 msat\""
    )]
    NotWhole(String),
    /// The number has commas or underscores that do not separate groups of three digits.
    #[error(
        "`{0}` can be read in two ways: write \"21000 sat\", or groups of three digits as in \"21,000 sat\" or \"21_000 sat\""
    )]
    Grouped(String),
    /// The amount is more than all the bitcoin that will ever exist, or than the type can hold.
    #[error("`{0}` is more than all the bitcoin that will exist")]
    TooLarge(String),
}

/// The reasons why text is not a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotANumber {
    /// The text has no digits, or other characters than digits and separators.
    NoDigits,
    /// The separators do not form groups of three digits.
    Grouped,
    /// The number is larger than the type can hold.
    TooLarge,
}

/// Reads a whole number. Commas or underscores may separate groups of three digits. `1,5` and
/// `0,001` are refused, because some people write fractions this way.
pub fn whole_number(text: &str) -> Result<u64, NotANumber> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_of_a_number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b',' | b'_');
    if !text.bytes().any(|byte| byte.is_ascii_digit()) || !text.bytes().all(is_of_a_number) {
        return Err(NotANumber::NoDigits);
    }
    let number = |digits: &str| digits.parse().map_err(|_| NotANumber::TooLarge);
    if is_digits(text) {
        return number(text);
    }
    for separator in [',', '_'] {
        let mut groups = text.split(separator);
        let first = groups.next().unwrap_or_default();
        let is_first = is_digits(first) && first.len() <= 3 && !first.starts_with('0');
        if is_first && groups.all(|group| is_digits(group) && group.len() == 3) {
            return number(&text.replace(separator, ""));
        }
    }
    Err(NotANumber::Grouped)
}

/// The only parser for amounts: `10 sat`, `21,000 sat`, `2500 msat`.
impl FromStr for Msat {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let trimmed = text.trim();
        let said = || trimmed.to_owned();
        let unit_at = trimmed
            .find(|c: char| c.is_ascii_alphabetic() || c.is_whitespace())
            .ok_or_else(|| AmountError::UnknownUnit(said()))?;
        let (number, unit) = trimmed.split_at(unit_at);
        let msat_per_unit = match unit.trim_start() {
            "sat" => 1_000,
            "msat" => 1,
            _ => return Err(AmountError::UnknownUnit(said())),
        };
        let number = whole_number(number).map_err(|error| match error {
            NotANumber::NoDigits => AmountError::NotWhole(said()),
            NotANumber::Grouped => AmountError::Grouped(said()),
            NotANumber::TooLarge => AmountError::TooLarge(said()),
        })?;
        let msat = number.checked_mul(msat_per_unit).and_then(Self::new);
        msat.ok_or_else(|| AmountError::TooLarge(said()))
    }
}

/// Writes whole satoshi as `10 sat` and other amounts as `2500 msat`. A settings file accepts both.
impl fmt::Display for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) {
            write!(f, "{} sat", self.0 / 1_000)
        } else {
            write!(f, "{} msat", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, msat) in [
            ("10 sat", 10_000),
            ("10sat", 10_000),
            (" 10  sat ", 10_000),
            ("2500 msat", 2_500),
            ("2,500 msat", 2_500),
            ("21,000,000 sat", 21_000_000_000),
            ("21_000_000 sat", 21_000_000_000),
            ("100,000sat", 100_000_000),
            ("0 sat", 0),
            ("007 sat", 7_000),
        ] {
            assert_eq!(text.parse::<Msat>().unwrap().msat(), msat, "{text}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for text in [
            "1,5",
            "2000,50",
            "20,00",
            ",5",
            "5,",
            "1__000",
            "1,,000",
            "1,000_000",
            "1_000,000",
            "2,50",
            "0,001",
            "0,000",
            "00,100",
            "012,345",
            "1,0000",
            "1000,000",
            ",",
            "_",
            "1,000,00",
            "_1",
            "1_",
            "1,000,",
        ] {
            for unit in ["sat", "msat"] {
                let text = format!("{text} {unit}");
                let error = text.parse::<Msat>().unwrap_err();
                let is_grouping =
                    matches!(error, AmountError::Grouped(_) | AmountError::NotWhole(_));
                assert!(is_grouping, "{text}: {error}");
            }
        }
        let error = "2000,50 sat".parse::<Msat>().unwrap_err().to_string();
        assert!(error.contains("write \"21000 sat\""), "{error}");
    }

    #[test]
    fn what_is_no_amount_is_refused_by_what_is_wrong_with_it() {
        let whole = |text: &str| AmountError::NotWhole(text.to_owned());
        let unit = |text: &str| AmountError::UnknownUnit(text.to_owned());
        let large = |text: &str| AmountError::TooLarge(text.to_owned());
        for (text, error) in [
            ("1.5 sat", whole("1.5 sat")),
            ("1.000 sat", whole("1.000 sat")),
            ("-1 sat", whole("-1 sat")),
            ("+1 sat", whole("+1 sat")),
            ("sat", whole("sat")),
            ("1'000 sat", whole("1'000 sat")),
            ("١ sat", whole("١ sat")),
            ("1\u{200b}0 sat", whole("1\u{200b}0 sat")),
            ("", unit("")),
            ("10", unit("10")),
            ("10 sats", unit("10 sats")),
            ("10 SAT", unit("10 SAT")),
            ("1 000 sat", unit("1 000 sat")),
            ("1\u{a0}000 sat", unit("1\u{a0}000 sat")),
            ("10 sat sat", unit("10 sat sat")),
            ("1e3 sat", unit("1e3 sat")),
            ("0x10 sat", unit("0x10 sat")),
            ("10 msat sat", unit("10 msat sat")),
            (
                "99999999999999999999 sat",
                large("99999999999999999999 sat"),
            ),
            ("21000000000000001 sat", large("21000000000000001 sat")),
        ] {
            assert_eq!(text.parse::<Msat>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(msat in 0..=MSAT_MAX) {
            let amount = Msat::new(msat).unwrap();
            prop_assert_eq!(amount.to_string().parse::<Msat>(), Ok(amount));
        }

        #[test]
        fn what_is_read_has_the_digits_that_were_written(text in "[0-9,_]{1,12} ?m?sat") {
            if let Ok(amount) = text.parse::<Msat>() {
                let digits: String = text.chars().filter(char::is_ascii_digit).collect();
                let per_unit = if text.ends_with("msat") { 1 } else { 1_000 };
                prop_assert_eq!(amount.msat(), digits.parse::<u64>().unwrap() * per_unit);
                let last = text.split([',', '_']).next_back().unwrap();
                let is_whole = !text.contains([',', '_']) || last.chars().filter(char::is_ascii_digit).count() == 3;
                prop_assert!(is_whole);
            }
        }
    }

    #[test]
    fn no_more_than_all_bitcoin() {
        assert_eq!(Msat::new(MSAT_MAX).unwrap().msat(), MSAT_MAX);
        assert_eq!(Msat::new(MSAT_MAX + 1), None);
        assert_eq!(Msat::from_sat(u64::MAX), None);
        let all = Msat::new(MSAT_MAX).unwrap();
        assert_eq!(all.saturating_add(all), all);
    }

    #[test]
    fn whole_satoshi_are_shown_as_such() {
        assert_eq!(Msat::from_sat(10).unwrap().to_string(), "10 sat");
        assert_eq!(Msat::new(2_500).unwrap().to_string(), "2500 msat");
    }
}
