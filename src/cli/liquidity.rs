//! `tollhouse liquidity`: getting inbound liquidity from a provider that opens a channel when the
//! first customer pays.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::ids;
use super::operator::Operator;
use super::show::{list, number, pairs, short, table, text};
use super::units::{ago, grouped, msat, whole_sat};

/// `tollhouse liquidity`
#[derive(Debug, Args)]
pub(super) struct Liquidity {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the liquidity settings and terms without asking a provider
    Terms {
        #[command(flatten)]
        operator: Operator,
    },
    /// Make an invoice whose payment opens a channel to this node
    ///
    /// The output shows the provider's fee and the amount that arrives.
    Activate {
        /// The amount that the customer pays, as in `50000 sat`
        #[arg(value_parser = whole_sat, required_unless_present = "route", conflicts_with = "route")]
        amount: Option<u64>,
        /// Instead of an amount, the path of a route as in the settings
        ///
        /// The next client that asks for the route's grant gets the invoice, once, and buys the
        /// grant by paying it.
        #[arg(long)]
        route: Option<String>,
        /// The name of the route's grant, if not the default grant
        #[arg(long, requires = "route")]
        grant: Option<String>,
        #[command(flatten)]
        operator: Operator,
    },
    /// List invoices that opened channels or are still to be paid
    Activations {
        #[command(flatten)]
        operator: Operator,
    },
    /// Order a channel from a provider that sells channels
    ///
    /// The output shows the price and where to pay.
    Order {
        /// The amount to be received over the channel, as in `1000000 sat`
        #[arg(value_parser = whole_sat)]
        amount: u64,
        #[command(flatten)]
        operator: Operator,
    },
    /// Show the state of an order
    OrderStatus {
        /// The order's id
        #[arg(value_parser = ids::any)]
        order_id: String,
        #[command(flatten)]
        operator: Operator,
    },
}

impl Liquidity {
    pub(super) fn run(&self) -> ExitCode {
        match &self.what {
            What::Terms { operator } => operator.show(Method::GET, "/liquidity", None, terms),
            What::Activate {
                amount,
                route,
                grant,
                operator,
            } => {
                let body = json!({ "amount_sat": amount, "route": route, "grant": grant });
                operator.show(Method::POST, "/liquidity/activate", Some(body), activation)
            }
            What::Activations { operator } => {
                operator.show(Method::GET, "/activations", None, activations)
            }
            What::Order { amount, operator } => {
                let body = json!({ "lsp_balance_sat": amount });
                operator.show(Method::POST, "/liquidity/order", Some(body), order)
            }
            What::OrderStatus { order_id, operator } => {
                let order_id = utf8_percent_encode(order_id, NON_ALPHANUMERIC);
                let path = format!("/liquidity/orders/{order_id}");
                operator.show(Method::GET, &path, None, order)
            }
        }
    }
}

fn terms(answer: &Value) -> String {
    let provider = |provider: &Value| {
        if provider.is_null() {
            return "none".to_owned();
        }
        format!(
            "{} ({})",
            text(&provider["name"]),
            text(&provider["address"])
        )
    };
    let head = pairs(&[
        ("network", text(&answer["network"])),
        ("provider", provider(&answer["provider"])),
        (
            "what it says it takes",
            text(&answer["provider"]["published"]),
        ),
        ("sells channels", provider(&answer["order_provider"])),
        (
            "it may keep at most",
            format!(
                "{}, or {} % if that is more",
                number(&answer["fee_max_msat"], msat),
                text(&answer["fee_max_percent"])
            ),
        ),
        (
            "a customer pays at least",
            number(&answer["amount_min_sat"], |sat| {
                format!("{} sat", grouped(sat))
            }),
        ),
        ("reserve", text(&answer["reserve"])),
    ]);
    let hidden: Vec<String> = list(answer, "hidden").iter().map(text).collect();
    format!(
        "{head}\n\nNot known before: {}\n{}",
        hidden.join("; "),
        text(&answer["trust"])
    )
}

fn activation(answer: &Value) -> String {
    let shares = pairs(&[
        ("the customer pays", number(&answer["gross_msat"], msat)),
        ("the provider keeps", number(&answer["fee_msat"], msat)),
        ("arrives", number(&answer["net_msat"], msat)),
        (
            "can be paid until",
            number(&answer["expires_ms"], |ms| ago(ms / 1_000)),
        ),
    ]);
    let bundle = &answer["bundle"];
    if bundle.is_null() {
        return format!("{shares}\n\n{}", text(&answer["bolt11"]));
    }
    format!(
        "{shares}\n\nThe next client that asks for {} on {} gets the invoice, once, as long as nothing else can be received: \
         `tollhouse liquidity activations` says when. Do not give it to anybody yourself.",
        bundle_name(bundle),
        text(&bundle["route"])
    )
}

fn bundle_name(bundle: &Value) -> String {
    match bundle["grant"].as_str() {
        Some(grant) => format!("the grant {grant}"),
        None => "the default grant".to_owned(),
    }
}

fn activations(answer: &Value) -> String {
    let laid = &answer["laid_ready"];
    let rows: Vec<_> = list(answer, "activations")
        .iter()
        .map(|one| {
            let state = match one["settled_ms"].as_u64() {
                Some(settled_ms) => format!("paid {}", ago(settled_ms / 1_000)),
                None => format!(
                    "{}expires {}",
                    laid_ready(laid, one),
                    number(&one["expires_ms"], |ms| ago(ms / 1_000))
                ),
            };
            vec![
                state,
                number(&one["gross_msat"], msat),
                number(&one["fee_msat"], msat),
                number(&one["net_msat"], msat),
                text(&one["bundle"]["route"]),
                short(&one["payment_hash"]),
            ]
        })
        .collect();
    let titles = [
        "state",
        "paid",
        "provider's",
        "arrived",
        "buys on",
        "payment",
    ];
    table(
        &titles,
        &rows,
        "There are none: `tollhouse liquidity activate` makes one.",
    )
}

/// Describes whether a client has got the unpaid invoice of a prepared bundle.
fn laid_ready(laid: &Value, one: &Value) -> String {
    if laid["payment_hash"] != one["payment_hash"] {
        return String::new();
    }
    match laid["handed_ms"].as_u64() {
        Some(handed_ms) => format!("given out {}, ", ago(handed_ms / 1_000)),
        None => "ready for a client, ".to_owned(),
    }
}

fn order(answer: &Value) -> String {
    let sat = |value: &Value| number(value, |sat| format!("{} sat", grouped(sat)));
    let (lightning, onchain) = (&answer["lightning"], &answer["onchain"]);
    let price = |way: &Value| {
        if way.is_null() {
            return "cannot be paid for".to_owned();
        }
        format!(
            "{}, of which the provider keeps {}; {}",
            sat(&way["order_total_sat"]),
            sat(&way["fee_total_sat"]),
            text(&way["state"])
        )
    };
    // The command includes the amount, so that an invoice over another amount is not paid.
    let by = |command: &str, way: &Value, to: &str, amount: &str| {
        if way.is_null() {
            return String::new();
        }
        let (to, total) = (text(&way[to]), text(&way["order_total_sat"]));
        format!("tollhouse {command} {to} {amount}\"{total} sat\"")
    };
    pairs(&[
        ("order", text(&answer["order_id"])),
        ("can be received over it", sat(&answer["lsp_balance_sat"])),
        ("over Lightning", price(lightning)),
        ("", by("pay", lightning, "bolt11", "--amount ")),
        ("on chain", price(onchain)),
        ("", by("send", onchain, "address", "")),
        ("channel", text(&answer["channel"]["funding_outpoint"])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_how_to_pay_no_more_than_its_total() {
        let way = json!({
            "state": "expect_payment", "fee_total_sat": 1_500, "order_total_sat": 2_000, "bolt11": "lnbc1", "address": "bc1q",
        });
        let answer = json!({
            "order_id": "o\u{1b}[2J", "lsp_balance_sat": 1_000_000, "lightning": way, "onchain": way, "channel": null,
        });
        let shown = order(&answer);
        for line in [
            "2,000 sat, of which the provider keeps 1,500 sat; expect_payment",
            "tollhouse pay lnbc1 --amount \"2000 sat\"",
            "tollhouse send bc1q \"2000 sat\"",
        ] {
            assert!(shown.contains(line), "`{line}` in:\n{shown}");
        }
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        let none = order(&json!({ "order_id": "o", "lightning": null, "onchain": null }));
        assert!(none.contains("cannot be paid for"), "{none}");
        assert!(!none.contains("tollhouse"), "{none}");
    }
}
