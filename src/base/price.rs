//! Prices as the settings write them, in bitcoin or in a currency. Pure: no clock, no network.

use std::fmt;
use std::str::FromStr;

use crate::base::amount::{AmountError, Msat};

/// Millisatoshi in a bitcoin.
const MSAT_PER_BTC: u128 = 100_000_000_000;

/// Millionths in a unit of a currency.
const MICROS: u64 = 1_000_000;

/// A price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// An amount of bitcoin that needs no exchange rate; never zero.
    Fixed(Msat),
    /// An amount of a currency, which needs an exchange rate.
    Fiat(Fiat),
}

/// An amount of a currency; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fiat {
    /// The amount in millionths of the currency's unit.
    pub micros: u64,
    /// The currency.
    pub currency: Currency,
}

/// A currency's code of three capital letters (ISO 4217). It is not checked against the ISO list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

/// The lowest accepted price of a bitcoin, in millionths: one unit. A lower number is probably the
/// inverse, bitcoin per unit.
const RATE_MIN_MICROS: u64 = MICROS;

/// The highest accepted price of a bitcoin, in millionths: a trillion units, ten times the price in
/// the currencies of the lowest value.
const RATE_MAX_MICROS: u64 = 1_000_000_000_000 * MICROS;

/// The price of one bitcoin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The currency.
    pub currency: Currency,
    /// The price in millionths of the currency's unit; never zero.
    pub micros_per_btc: u64,
}

impl Fiat {
    /// The amount in millisatoshi, rounded up to a whole number. `None` if the rate is for another
    /// currency, or if the result is more than all the bitcoin that will exist.
    pub fn at(self, rate: Rate) -> Option<Msat> {
        if rate.currency != self.currency || rate.micros_per_btc == 0 {
            return None;
        }
        let msat = (u128::from(self.micros) * MSAT_PER_BTC).div_ceil(rate.micros_per_btc.into());
        Msat::new(msat.try_into().ok()?)
    }
}

/// The reasons why a number is not a possible price of a bitcoin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The text is not a decimal number: letters, a sign, an exponent or commas.
    #[error("that is no decimal number, as 97123.45 is one")]
    NotDecimal,
    /// The price is less than one unit.
    #[error(
        "less than one unit for a bitcoin cannot be right; is it given the other way round, in bitcoin for a unit?"
    )]
    TooSmall,
    /// The price is more than a trillion units.
    #[error("more than a trillion units for a bitcoin cannot be right")]
    TooLarge,
}

impl Rate {
    /// Whether a bitcoin can have this price in any currency.
    pub fn is_possible(self) -> bool {
        (RATE_MIN_MICROS..=RATE_MAX_MICROS).contains(&self.micros_per_btc)
    }

    /// Reads the price of one bitcoin from a decimal number. Digits after the sixth decimal are cut
    /// off.
    pub fn read(currency: Currency, number: &str) -> Result<Self, RateError> {
        if !number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            return Err(RateError::NotDecimal);
        }
        // Sources write as many decimals as their floating point numbers have.
        let end = number.find('.').map_or(number.len(), |point| point + 7);
        let kept = number.get(..end).unwrap_or(number);
        if number[kept.len()..].contains('.') {
            return Err(RateError::NotDecimal);
        }
        match decimal_micros(kept) {
            None => Err(RateError::NotDecimal),
            Some(Some(micros)) if micros < RATE_MIN_MICROS => Err(RateError::TooSmall),
            Some(Some(micros_per_btc)) if micros_per_btc <= RATE_MAX_MICROS => Ok(Self {
                currency,
                micros_per_btc,
            }),
            Some(_) => Err(RateError::TooLarge),
        }
    }
}

impl Price {
    /// Whether this price is known to be higher than another: both in bitcoin, or both in one
    /// currency.
    pub fn is_above(self, other: Self) -> bool {
        match (self, other) {
            (Self::Fixed(dear), Self::Fixed(cheap)) => dear > cheap,
            (Self::Fiat(dear), Self::Fiat(cheap)) => {
                dear.currency == cheap.currency && dear.micros > cheap.micros
            }
            (Self::Fixed(_), Self::Fiat(_)) | (Self::Fiat(_), Self::Fixed(_)) => false,
        }
    }

    /// The amount in bitcoin; `None` for a price in a currency.
    pub fn fixed(self) -> Option<Msat> {
        match self {
            Self::Fixed(amount) => Some(amount),
            Self::Fiat(_) => None,
        }
    }
}

/// The reasons why a price is invalid. Each message says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The unit is missing, or is not `sat`, `msat` or a currency.
    #[error("`{0}` is in no known unit: write \"10 sat\", \"2500 msat\" or \"0.01 USD\"")]
    UnknownUnit(String),
    /// The price is in bitcoin, but its amount is invalid.
    #[error(transparent)]
    Amount(AmountError),
    /// The price is in a currency, but not a decimal number with at most six decimals.
    #[error(
        "`{0}` is no amount of a currency: write \"0.01 USD\", with at most six decimal places"
    )]
    NotDecimal(String),
    /// The price is zero.
    #[error("a price of zero sells nothing: write access = \"free\" for an unguarded route")]
    Zero,
    /// The amount is more than all the bitcoin that will ever exist, or than the type can hold.
    #[error("`{0}` is more than all the bitcoin that will exist")]
    TooLarge(String),
}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let text = text.trim();
        // Zero is reported as zero with any unit or none.
        if !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0' | b'.')) {
            return Err(PriceError::Zero);
        }
        let amount = match text.parse::<Msat>() {
            Ok(amount) => amount,
            Err(AmountError::UnknownUnit(_)) => return fiat(text),
            Err(error) => return Err(PriceError::Amount(error)),
        };
        if amount == Msat::ZERO {
            return Err(PriceError::Zero);
        }
        Ok(Self::Fixed(amount))
    }
}

fn fiat(text: &str) -> Result<Price, PriceError> {
    let unknown = || PriceError::UnknownUnit(text.to_owned());
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic() || c.is_whitespace());
    let (number, unit) = text.split_at(unit_at.ok_or_else(unknown)?);
    let currency = unit.trim_start().parse();
    let currency = currency.map_err(|NoCurrency| unknown())?;
    let micros = match decimal_micros(number) {
        Some(Some(micros)) => micros,
        Some(None) => return Err(PriceError::TooLarge(text.to_owned())),
        None => return Err(PriceError::NotDecimal(text.to_owned())),
    };
    if micros == 0 {
        return Err(PriceError::Zero);
    }
    Ok(Price::Fiat(Fiat { micros, currency }))
}

/// A decimal number in millionths: `None` if it is invalid, `Some(None)` if it is too large.
fn decimal_micros(number: &str) -> Option<Option<u64>> {
    let (whole, places) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(places) || places.len() > 6 {
        return None;
    }
    let micros: u64 = format!("{places:0<6}").parse().ok()?;
    let whole = whole
        .parse::<u64>()
        .ok()
        .and_then(|whole| whole.checked_mul(MICROS));
    Some(whole.and_then(|whole| whole.checked_add(micros)))
}

/// The text is not three capital letters, or it is `BTC`, `XBT` or `SAT`: prices in bitcoin are
/// written in satoshi.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a currency is three capital letters, as in \"USD\"")]
pub struct NoCurrency;

impl FromStr for Currency {
    type Err = NoCurrency;

    fn from_str(text: &str) -> Result<Self, NoCurrency> {
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| NoCurrency)?;
        // A price in bitcoin has only one spelling.
        if !code.iter().all(u8::is_ascii_uppercase) || matches!(&code, b"BTC" | b"XBT" | b"SAT") {
            return Err(NoCurrency);
        }
        Ok(Self(code))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes `0.01 USD`.
impl fmt::Display for Fiat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = format!("{:06}", self.micros % MICROS);
        let places = places.trim_end_matches('0');
        // At least two decimals, as money is written.
        write!(f, "{}.{places:0<2} {}", self.micros / MICROS, self.currency)
    }
}

/// Writes the price of one bitcoin, such as `97123.45 USD`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fiat = Fiat {
            micros: self.micros_per_btc,
            currency: self.currency,
        };
        fiat.fmt(f)
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(amount) => amount.fmt(f),
            Self::Fiat(fiat) => fiat.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::amount::MSAT_MAX;

    fn usd() -> Currency {
        "USD".parse().unwrap()
    }

    #[test]
    fn satoshi_and_millisatoshi_are_understood() {
        for (text, msat) in [("10 sat", 10_000), ("2500 msat", 2_500), ("10sat", 10_000)] {
            let price = text.parse::<Price>().unwrap();
            assert_eq!(price.fixed().unwrap().msat(), msat, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(micros in 1..u64::MAX, msat in 1..=MSAT_MAX) {
            let fiat = Price::Fiat(Fiat { micros, currency: usd() });
            prop_assert_eq!(fiat.to_string().parse::<Price>(), Ok(fiat));
            let fixed = Price::Fixed(Msat::new(msat).unwrap());
            prop_assert_eq!(fixed.to_string().parse::<Price>(), Ok(fixed));
        }
    }

    #[test]
    fn a_comma_in_an_amount_of_a_currency_is_refused_because_some_write_fractions_with_it() {
        for text in [
            "1,234 USD",
            "1,50 USD",
            "1,234.50 USD",
            "1_000 USD",
            "1.234,50 USD",
        ] {
            let refused = PriceError::NotDecimal(text.to_owned());
            assert_eq!(text.parse::<Price>(), Err(refused));
        }
        for text in ["1,5 sat", "20,00 sat", "1__000 sat"] {
            let refused = PriceError::Amount(AmountError::Grouped(text.to_owned()));
            assert_eq!(text.parse::<Price>(), Err(refused));
        }
        let grouped: Price = "2,000 sat".parse().unwrap();
        assert_eq!(grouped.fixed().unwrap().msat(), 2_000_000);
    }

    #[test]
    fn a_currency_is_read_to_its_millionth_and_written_as_money() {
        for (text, micros, shown) in [
            ("0.01 USD", 10_000, "0.01 USD"),
            ("1 USD", 1_000_000, "1.00 USD"),
            ("12.5USD", 12_500_000, "12.50 USD"),
            ("0.000001 USD", 1, "0.000001 USD"),
        ] {
            let price = text.parse::<Price>().unwrap();
            let currency = usd();
            assert_eq!(price, Price::Fiat(Fiat { micros, currency }), "{text}");
            assert_eq!(price.to_string(), shown);
        }
    }

    #[test]
    fn a_rate_turns_a_currency_into_msat_and_rounds_up() {
        let rate = |micros_per_btc| Rate {
            currency: usd(),
            micros_per_btc,
        };
        let cent = Fiat {
            micros: 10_000,
            currency: usd(),
        };
        // At 100,000 USD for a bitcoin, a cent is 10 sat.
        assert_eq!(cent.at(rate(100_000_000_000)), Msat::new(10_000));
        // At 99,999 USD for a bitcoin, a cent is 10,000.1 msat.
        assert_eq!(cent.at(rate(99_999_000_000)), Msat::new(10_001));
        assert_eq!(cent.at(rate(u64::MAX)), Msat::new(1));
        assert_eq!(cent.at(rate(0)), None);
        assert_eq!(
            cent.at(rate(1)).map(Msat::msat),
            Some(1_000_000_000_000_000)
        );
        let all = Fiat {
            micros: u64::MAX,
            currency: usd(),
        };
        assert_eq!(all.at(rate(1)), None, "more than there will be");
        let euro = Rate {
            currency: "EUR".parse().unwrap(),
            micros_per_btc: 1,
        };
        assert_eq!(cent.at(euro), None);
    }

    #[test]
    fn what_a_bitcoin_costs_is_read_to_the_millionth_and_only_if_it_can_be() {
        for (number, micros) in [
            ("97123.45", 97_123_450_000),
            ("97123", 97_123_000_000),
            ("97123.123456789", 97_123_123_456),
            ("1", 1_000_000),
            ("1000000000000", 1_000_000_000_000_000_000),
        ] {
            let rate = Rate::read(usd(), number).unwrap();
            assert_eq!(rate.micros_per_btc, micros, "{number}");
        }
        let shown = Rate::read(usd(), "97123.450").unwrap().to_string();
        assert_eq!(shown, "97123.45 USD");
        for (number, error) in [
            ("", RateError::NotDecimal),
            (".", RateError::NotDecimal),
            ("5.", RateError::NotDecimal),
            (".5", RateError::NotDecimal),
            ("-97123", RateError::NotDecimal),
            ("+97123", RateError::NotDecimal),
            ("97,123.45", RateError::NotDecimal),
            ("1e5", RateError::NotDecimal),
            ("1.2.3", RateError::NotDecimal),
            ("1.23456789.1", RateError::NotDecimal),
            ("NaN", RateError::NotDecimal),
            ("٣", RateError::NotDecimal),
            ("0", RateError::TooSmall),
            ("0.0000103", RateError::TooSmall),
            ("0.999999999", RateError::TooSmall),
            ("1000000000000.000001", RateError::TooLarge),
            ("99999999999999999999", RateError::TooLarge),
        ] {
            assert_eq!(Rate::read(usd(), number), Err(error), "{number}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused_with_what_would_be_right() {
        for (text, error) in [
            ("0 sat", PriceError::Zero),
            ("0 msat", PriceError::Zero),
            ("0", PriceError::Zero),
            ("0.00 USD", PriceError::Zero),
            ("10", PriceError::UnknownUnit("10".into())),
            ("", PriceError::UnknownUnit(String::new())),
            ("10 btc", PriceError::UnknownUnit("10 btc".into())),
            ("10 BTC", PriceError::UnknownUnit("10 BTC".into())),
            ("10 SAT", PriceError::UnknownUnit("10 SAT".into())),
            ("10 usd", PriceError::UnknownUnit("10 usd".into())),
            (
                "1.5 sat",
                PriceError::Amount(AmountError::NotWhole("1.5 sat".into())),
            ),
            (
                "-1 sat",
                PriceError::Amount(AmountError::NotWhole("-1 sat".into())),
            ),
            (
                "sat",
                PriceError::Amount(AmountError::NotWhole("sat".into())),
            ),
            ("-1 USD", PriceError::NotDecimal("-1 USD".into())),
            (
                "0.0000001 USD",
                PriceError::NotDecimal("0.0000001 USD".into()),
            ),
            (".5 USD", PriceError::NotDecimal(".5 USD".into())),
            (
                "99999999999999999999 sat",
                PriceError::Amount(AmountError::TooLarge("99999999999999999999 sat".into())),
            ),
            (
                "99999999999999999999 USD",
                PriceError::TooLarge("99999999999999999999 USD".into()),
            ),
        ] {
            assert_eq!(text.parse::<Price>(), Err(error), "{text}");
        }
    }
}
