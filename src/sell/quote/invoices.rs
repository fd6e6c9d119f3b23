//! The sources of invoices to pay: a Lightning address (LUD-16), or a server of the operator.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::address::{Address, AddressError};
use super::ask::{AskError, Asker, said};

/// The timeout for one request to a source. A withdrawal keeps no client waiting.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The placeholder for the amount in a server's URL.
const AMOUNT_PLACE: &str = "{amount_msat}";

/// A source of invoices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvoiceSource {
    /// A Lightning address, `name@domain`, resolved as LUD-16 describes.
    LightningAddress {
        /// The part before the `@`.
        name: String,
        /// The part after the `@`.
        domain: String,
    },
    /// A URL with a placeholder for the amount, which answers `{"invoice": "…"}` or `{"pr": "…"}`.
    Server(String),
}

/// The reason why a text is not a source of invoices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoInvoiceSource {
    /// The text is neither a Lightning address nor a URL with a placeholder.
    #[error(
        "write a Lightning address, as in name@example.org, or an https URL with {AMOUNT_PLACE} in it"
    )]
    Neither,
    /// The connection is not private, so a third party could insert an invoice of its own.
    #[error(
        "invoices come over https (or from this machine), or others could have the money sent to themselves"
    )]
    NotPrivate,
}

/// The reason why a source gave no invoice.
#[derive(Debug, thiserror::Error)]
pub enum InvoiceSourceError {
    /// A URL, from the settings or from the source, is not usable.
    #[error("the source of invoices was not understood")]
    Address(#[from] AddressError),
    /// The source gave no answer.
    #[error("the source of invoices gave no answer")]
    Ask(#[from] AskError),
    /// The answer contains no invoice.
    #[error("the source of invoices answered without an invoice and said: {said}")]
    NoInvoice {
        /// The beginning of the answer.
        said: String,
    },
    /// The amount is outside the limits of the source.
    #[error("the source of invoices takes {min_msat} to {max_msat} msat, not {amount_msat}")]
    OutOfBounds {
        /// The smallest amount that the source accepts.
        min_msat: u64,
        /// The largest amount that the source accepts.
        max_msat: u64,
        /// The amount to pay.
        amount_msat: u64,
    },
}

impl FromStr for InvoiceSource {
    type Err = NoInvoiceSource;

    fn from_str(text: &str) -> Result<Self, NoInvoiceSource> {
        if text.contains(AMOUNT_PLACE) {
            let address: Address = with_amount(text, 1)
                .parse()
                .map_err(|_| NoInvoiceSource::Neither)?;
            if !address.is_private() {
                return Err(NoInvoiceSource::NotPrivate);
            }
            return Ok(Self::Server(text.to_owned()));
        }
        let (name, domain) = text.split_once('@').ok_or(NoInvoiceSource::Neither)?;
        let is_name = |char: char| char.is_ascii_alphanumeric() || "-_.+".contains(char);
        let is_domain = |char: char| char.is_ascii_alphanumeric() || "-.".contains(char);
        let is_good = !name.is_empty()
            && name.chars().all(is_name)
            && domain.contains('.')
            && domain.chars().all(is_domain);
        if !is_good {
            return Err(NoInvoiceSource::Neither);
        }
        Ok(Self::LightningAddress {
            name: name.to_ascii_lowercase(),
            domain: domain.to_ascii_lowercase(),
        })
    }
}

/// Shows a URL without its query, which may contain a secret key.
impl fmt::Display for InvoiceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LightningAddress { name, domain } => write!(f, "{name}@{domain}"),
            Self::Server(url) => f.write_str(url.split('?').next().unwrap_or_default()),
        }
    }
}

impl InvoiceSource {
    /// Requests an invoice for this amount. The caller must check that the invoice is for this
    /// amount.
    pub async fn invoice(&self, amount_msat: u64) -> Result<String, InvoiceSourceError> {
        let asker = Asker::new();
        let answer = match self {
            Self::Server(url) => ask(&asker, &with_amount(url, amount_msat)).await?,
            Self::LightningAddress { name, domain } => {
                let url = format!("https://{domain}/.well-known/lnurlp/{name}");
                let terms = ask(&asker, &url).await?;
                // The answer may point to this machine only if the payee itself is on this machine.
                let is_here = url.parse::<Address>()?.is_here();
                ask(&asker, &callback(&terms, amount_msat, is_here)?).await?
            }
        };
        let invoice = answer["invoice"].as_str().or(answer["pr"].as_str());
        invoice.map(str::to_owned).ok_or_else(|| without(&answer))
    }
}

fn with_amount(url: &str, amount_msat: u64) -> String {
    url.replace(AMOUNT_PLACE, &amount_msat.to_string())
}

async fn ask(asker: &Asker, url: &str) -> Result<Value, InvoiceSourceError> {
    let answer = asker.get(&url.parse()?, TIMEOUT).await?;
    serde_json::from_slice(&answer).map_err(|_| InvoiceSourceError::NoInvoice {
        said: said(&answer),
    })
}

/// Returns the next URL to ask (LUD-06), if the amount is within the payee's limits. The payee
/// chooses this URL, so it must not point to this machine, unless the payee `is_here`.
fn callback(terms: &Value, amount_msat: u64, is_here: bool) -> Result<String, InvoiceSourceError> {
    let callback = terms["callback"].as_str().ok_or_else(|| without(terms))?;
    let min_msat = terms["minSendable"].as_u64().unwrap_or(1);
    let max_msat = terms["maxSendable"].as_u64().unwrap_or(u64::MAX);
    if !(min_msat..=max_msat).contains(&amount_msat) {
        return Err(InvoiceSourceError::OutOfBounds {
            min_msat,
            max_msat,
            amount_msat,
        });
    }
    let address: Address = callback.parse()?;
    if !address.is_private() || (address.is_here() && !is_here) {
        return Err(without(terms));
    }
    let sign = if callback.contains('?') { '&' } else { '?' };
    Ok(format!("{callback}{sign}amount={amount_msat}"))
}

fn without(answer: &Value) -> InvoiceSourceError {
    InvoiceSourceError::NoInvoice {
        said: said(answer.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_can_give_an_invoice_in_private_is_a_source() {
        for good in [
            "me@example.org",
            "https://example.org/invoice?amount={amount_msat}&key=secret",
            "http://127.0.0.1:9000/{amount_msat}",
        ] {
            assert!(good.parse::<InvoiceSource>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "me",
            "me@",
            "@example.org",
            "me@example.org/../x",
            "https://example.org/invoice",
            "http://example.org/{amount_msat}",
            "{amount_msat}",
        ] {
            assert!(bad.parse::<InvoiceSource>().is_err(), "{bad}");
        }
        let shown = "https://example.org/i?a={amount_msat}&key=secret".parse::<InvoiceSource>();
        assert_eq!(shown.unwrap().to_string(), "https://example.org/i");
    }

    #[test]
    fn a_callback_is_asked_within_the_payees_limits_and_in_private() {
        let terms =
            json!({"callback": "https://a.org/cb?x=1", "minSendable": 1_000, "maxSendable": 5_000});
        assert_eq!(
            callback(&terms, 2_000, false).unwrap(),
            "https://a.org/cb?x=1&amount=2000"
        );
        assert!(callback(&terms, 999, false).is_err());
        assert!(callback(&terms, 5_001, false).is_err());
        assert!(callback(&json!({"status": "ERROR"}), 2_000, false).is_err());
        for is_here in [false, true] {
            assert!(callback(&json!({"callback": "http://a.org/cb"}), 2_000, is_here).is_err());
        }
    }

    #[test]
    fn a_payee_elsewhere_sends_nobody_on_to_this_machine() {
        for here in [
            "http://127.0.0.1:8403/status",
            "https://127.0.0.1:8403/status",
            "http://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
            "http://[::1]:8403/",
            "https://[::ffff:127.0.0.1]/",
            "https://0.0.0.0:8403/",
        ] {
            let terms = json!({ "callback": here });
            assert!(callback(&terms, 2_000, false).is_err(), "{here}");
            assert!(callback(&terms, 2_000, true).is_ok(), "{here}");
        }
    }
}
