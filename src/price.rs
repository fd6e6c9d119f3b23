//! What a route costs, as it stands in the settings. Pure: no clock, no network.

use std::fmt;
use std::str::FromStr;

use crate::amount::Msat;

/// A price that is the same for every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// What one payment costs; never zero.
    amount: Msat,
}

impl Price {
    /// What this request costs.
    pub fn quote(self) -> Msat {
        self.amount
    }
}

/// Why a price was not understood; each says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Neither `sat` nor `msat`, or no unit at all.
    #[error("`{0}` is in no known unit: write \"10 sat\" or \"2500 msat\"")]
    UnknownUnit(String),
    /// The number is not a whole one.
    #[error(
        "`{0}` is no whole number of satoshi or millisatoshi: write \"10 sat\" or \"2500 msat\""
    )]
    NotWhole(String),
    /// A price of nothing.
    #[error("a price of zero sells nothing: write access = \"free\" for an unguarded route")]
    Zero,
    /// More than all the bitcoin there will be.
    #[error("`{0}` is more than all the bitcoin that will exist")]
    TooLarge(String),
}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let text = text.trim();
        let digits_end = text
            .find(|c: char| c.is_ascii_alphabetic() || c.is_whitespace())
            .ok_or_else(|| PriceError::UnknownUnit(text.to_owned()))?;
        let (number, unit) = (&text[..digits_end], text[digits_end..].trim());
        let per_unit = match unit {
            "sat" => 1_000,
            "msat" => 1,
            _ => return Err(PriceError::UnknownUnit(text.to_owned())),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PriceError::NotWhole(text.to_owned()));
        }
        let amount = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(per_unit))
            .and_then(Msat::new)
            .ok_or_else(|| PriceError::TooLarge(text.to_owned()))?;
        if amount == Msat::ZERO {
            return Err(PriceError::Zero);
        }
        Ok(Self { amount })
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.amount.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn satoshi_and_millisatoshi_are_understood() {
        assert_eq!("10 sat".parse::<Price>().unwrap().quote().msat(), 10_000);
        assert_eq!("2500 msat".parse::<Price>().unwrap().quote().msat(), 2_500);
        assert_eq!("10sat".parse::<Price>().unwrap().quote().msat(), 10_000);
    }

    #[test]
    fn what_is_no_price_is_refused_with_what_would_be_right() {
        for (text, error) in [
            ("0 sat", PriceError::Zero),
            ("0 msat", PriceError::Zero),
            ("10", PriceError::UnknownUnit("10".into())),
            ("", PriceError::UnknownUnit(String::new())),
            ("10 btc", PriceError::UnknownUnit("10 btc".into())),
            ("10 SAT", PriceError::UnknownUnit("10 SAT".into())),
            ("1.5 sat", PriceError::NotWhole("1.5 sat".into())),
            ("-1 sat", PriceError::NotWhole("-1 sat".into())),
            ("sat", PriceError::NotWhole("sat".into())),
            (
                "99999999999999999999 sat",
                PriceError::TooLarge("99999999999999999999 sat".into()),
            ),
        ] {
            assert_eq!(text.parse::<Price>(), Err(error), "{text}");
        }
    }
}
