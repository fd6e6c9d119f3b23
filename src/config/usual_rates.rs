//! Bounds for the price of a bitcoin in the major currencies, used without `at_least` and
//! `at_most`: from a twentieth to twenty times 100,000 USD, at the exchange rates of late 2025.
//! They catch a price in cents instead of dollars, or of another coin, and hold for years.

use crate::base::price::{Currency, Rate};

/// The currencies, each with the lowest and the highest price of a bitcoin.
const USUAL: &[(&str, &str, &str)] = &[
    ("AED", "18000", "7400000"),
    ("ARS", "7000000", "3000000000"),
    ("AUD", "7600", "3100000"),
    ("BGN", "8400", "3400000"),
    ("BRL", "27000", "11000000"),
    ("CAD", "7000", "2800000"),
    ("CHF", "4000", "1600000"),
    ("CLP", "4600000", "1900000000"),
    ("CNY", "35000", "14000000"),
    ("COP", "19000000", "7600000000"),
    ("CZK", "100000", "42000000"),
    ("DKK", "32000", "13000000"),
    ("EUR", "4300", "1800000"),
    ("GBP", "3800", "1600000"),
    ("HKD", "39000", "16000000"),
    ("HUF", "1600000", "680000000"),
    ("IDR", "83000000", "34000000000"),
    ("ILS", "16000", "7000000"),
    ("INR", "440000", "180000000"),
    ("JPY", "770000", "320000000"),
    ("KES", "640000", "260000000"),
    ("KRW", "7200000", "3000000000"),
    ("MXN", "92000", "37000000"),
    ("MYR", "20000", "8400000"),
    ("NGN", "7200000", "3000000000"),
    ("NOK", "50000", "21000000"),
    ("NZD", "8700", "3600000"),
    ("PHP", "290000", "120000000"),
    ("PLN", "18000", "7500000"),
    ("RON", "22000", "9000000"),
    ("SAR", "18000", "7500000"),
    ("SEK", "47000", "20000000"),
    ("SGD", "6500", "2700000"),
    ("THB", "160000", "66000000"),
    ("TRY", "210000", "90000000"),
    ("TWD", "150000", "64000000"),
    ("UAH", "210000", "86000000"),
    ("USD", "5000", "2000000"),
    ("VND", "130000000", "54000000000"),
    ("ZAR", "85000", "36000000"),
];

/// The bounds for the price of a bitcoin in this currency; `None` for a currency that is not
/// listed.
pub(super) fn bounds(currency: Currency) -> Option<(Rate, Rate)> {
    let code = currency.to_string();
    let (_, least, most) = USUAL.iter().find(|(known, _, _)| *known == code)?;
    let rate = |text| Rate::read(currency, text).ok();
    rate(least).zip(rate(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_currency_has_wide_bounds() {
        for (code, _, _) in USUAL {
            let (least, most) = bounds(code.parse().unwrap()).unwrap();
            let times = most.micros_per_btc / least.micros_per_btc;
            assert!((350..=450).contains(&times), "{code}: {times}");
        }
        assert!(USUAL.is_sorted());
        assert_eq!(bounds("XYZ".parse().unwrap()), None);
    }
}
