//! `tollhouse sales`, `tokens` and `revoke`: listing what was sold, and revoking it.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::ids;
use super::operator::Operator;
use super::show::{list, number, short, table, text};
use super::units::{ago, grouped, msat};

/// `tollhouse sales`
#[derive(Debug, Args)]
pub(super) struct Sales {
    /// The number of sales, at most 500
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Those before: `next` of the page before
    #[arg(long)]
    before: Option<String>,
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse tokens`
#[derive(Debug, Args)]
pub(super) struct Tokens {
    /// The beginning of a token id or a payment hash
    #[arg(long)]
    find: Option<String>,
    /// Show only tokens of this service
    #[arg(long)]
    service: Option<String>,
    /// The number of tokens, at most 500
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Those before: `next` of the page before
    #[arg(long)]
    before: Option<String>,
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse revoke`
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The token's id, as `tollhouse tokens` shows it
    #[arg(required_unless_present = "service", conflicts_with = "service", value_parser = ids::any)]
    token_id: Option<String>,
    /// Revoke all tokens of this service that were sold until now
    #[arg(long)]
    service: Option<String>,
    /// The reason to record in the ledger
    #[arg(long, default_value = "")]
    reason: String,
    /// With --service: accept a service that is not sold and has no used tokens
    #[arg(long, requires = "service")]
    unknown_too: bool,
    #[command(flatten)]
    operator: Operator,
}

impl Sales {
    pub(super) fn run(&self) -> ExitCode {
        let query = [("before", &self.before)];
        let path = with_query("/sales", self.limit, &query);
        self.operator.show(Method::GET, &path, None, |answer| {
            let rows: Vec<_> = list(answer, "sales")
                .iter()
                .map(|sale| {
                    vec![
                        number(&sale["settled_ms"], |ms| ago(ms / 1_000)),
                        amount(sale),
                        text(&sale["service"]),
                        text(&sale["route"]),
                        short(&sale["payment_hash"]),
                        number(&sale["surplus_msat"], |surplus| {
                            if surplus == 0 {
                                String::new()
                            } else {
                                msat(surplus)
                            }
                        }),
                    ]
                })
                .collect();
            let titles = [
                "settled", "amount", "service", "route", "payment", "surplus",
            ];
            let sales = table(&titles, &rows, "Nothing was sold yet.");
            paged(
                format!("{sales}\n\nSales: {}", sums(&answer["totals"])),
                answer,
            )
        })
    }
}

/// The amount of one sale.
fn amount(sale: &Value) -> String {
    let amount = number(&sale["amount_msat"], msat);
    if sale["lost_ms"].is_u64() {
        return format!("{amount} LOST");
    }
    amount
}

/// The sums over all sales.
pub(super) fn sums(totals: &Value) -> String {
    let sold = number(&totals["amount_msat"], msat);
    let sold = format!("{}, {sold} in all", number(&totals["count"], grouped));
    let sold = match totals["lost_msat"].as_u64() {
        None | Some(0) => sold,
        Some(lost) => format!("{sold}; {} of it LOST on chain", msat(lost)),
    };
    match totals["surplus_msat"].as_u64() {
        None | Some(0) => sold,
        Some(surplus) => format!(
            "{sold}; surplus {} (above the price, or for an invoice that was paid before)",
            msat(surplus)
        ),
    }
}

impl Tokens {
    pub(super) fn run(&self) -> ExitCode {
        let query = [
            ("before", &self.before),
            ("service", &self.service),
            ("q", &self.find),
        ];
        let path = with_query("/tokens", self.limit, &query);
        self.operator.show(Method::GET, &path, None, |answer| {
            let rows: Vec<_> = list(answer, "tokens")
                .iter()
                .map(|token| {
                    vec![
                        text(&token["token_id"]),
                        text(&token["service"]),
                        number(&token["requests"], grouped),
                        number(&token["last_used_ms"], |ms| ago(ms / 1_000)),
                        number(&token["valid_until_secs"], ago),
                        text(&token["revoked"]),
                    ]
                })
                .collect();
            let titles = [
                "token",
                "service",
                "requests",
                "last used",
                "ends",
                "revoked",
            ];
            paged(table(&titles, &rows, "No token was used yet."), answer)
        })
    }
}

impl Revoke {
    pub(super) fn run(&self) -> ExitCode {
        let path = match (&self.token_id, &self.service) {
            (Some(token_id), _) => format!("/tokens/{}/revoke", encoded(token_id)),
            (None, service) => format!(
                "/services/{}/revoke",
                encoded(service.as_deref().unwrap_or_default())
            ),
        };
        let body = json!({ "reason": self.reason, "unknown_too": self.unknown_too });
        self.operator.show(Method::POST, &path, Some(body), |_| {
            "Revoked. What it was sold for stays in the books.".to_owned()
        })
    }
}

fn encoded(part: &str) -> String {
    utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()
}

fn with_query(path: &str, limit: u32, query: &[(&str, &Option<String>)]) -> String {
    let mut path = format!("{path}?limit={limit}");
    for (name, value) in query {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    path
}

/// Adds how to show the next page, if there is one.
fn paged(table: String, answer: &Value) -> String {
    match answer["next"].as_str() {
        Some(next) => format!("{table}\n\nThere are more: --before {next}"),
        None => table,
    }
}
