//! `tollhouse balance`, `address`, `send`, `withdraw`, `pay`, `payments` and `invoice`: all money
//! other than sales.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::base::amount::Msat;

use super::exit_code::{FAULT, PENDING, complain};
use super::operator::{NoAnswer, Operator, View};
use super::output::Effect;
use super::show::{list, number, pairs, short, table, text};
use super::units::{ago, amount, fee_rate, grouped, msat, span_secs, whole_sat};

/// `tollhouse balance`
#[derive(Debug, Args)]
pub(super) struct Balance {
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse address`
#[derive(Debug, Args)]
pub(super) struct Address {
    /// Draw a new address
    ///
    /// The node looks for money on every drawn address from then on. Use this only where the old
    /// address must not be known.
    #[arg(long)]
    new: bool,
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse withdraw`
#[derive(Debug, Args)]
pub(super) struct Withdraw {
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse send`
#[derive(Debug, Args)]
pub(super) struct Send {
    /// The on-chain address to send to
    address: String,
    /// The amount, as in `50000 sat`, without the fee
    #[arg(value_parser = whole_sat, required_unless_present = "all", conflicts_with = "all")]
    amount: Option<u64>,
    /// Send everything that can be spent, less the fee
    #[arg(long)]
    all: bool,
    /// With --all: also send the reserve for closing channels
    ///
    /// Without the reserve, channels cannot be closed safely.
    #[arg(long, requires = "all")]
    reserve_too: bool,
    /// The fee rate in sat per virtual byte; default: the chain source's estimate
    #[arg(long, value_name = "SAT", value_parser = fee_rate)]
    fee_rate: Option<u64>,
    /// The number of blocks to confirm within, instead of a fee rate
    #[arg(long, value_name = "N", conflicts_with = "fee_rate")]
    target_blocks: Option<u16>,
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse pay`
#[derive(Debug, Args)]
pub(super) struct Pay {
    /// A BOLT 11 invoice or a BOLT 12 offer, by itself or in a link
    to: String,
    /// The amount, if the invoice or offer names none
    #[arg(long, value_parser = amount)]
    amount: Option<Msat>,
    /// The maximum routing fee; default: 1 % of the amount plus 10 sat
    #[arg(long, value_parser = amount)]
    fee_max: Option<Msat>,
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse payments`
#[derive(Debug, Args)]
pub(super) struct Payments {
    /// The number of payments, the newest first; at most 1000
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    operator: Operator,
}

/// `tollhouse invoice`
#[derive(Debug, Args)]
pub(super) struct Invoice {
    /// The amount, as in `1000 sat`; if omitted, the payer chooses it
    #[arg(value_parser = amount)]
    amount: Option<Msat>,
    /// The text that the payer's wallet shows
    #[arg(long, default_value = "")]
    description: String,
    /// How long the invoice can be paid
    #[arg(long, value_parser = span_secs, default_value = "1h")]
    expiry: u64,
    #[command(flatten)]
    operator: Operator,
}

fn sat(value: &Value) -> String {
    number(value, |sat| format!("{} sat", grouped(sat)))
}

impl Balance {
    pub(super) fn run(&self) -> ExitCode {
        self.operator.show(Method::GET, "/onchain", None, |answer| {
            pairs(&[
                ("on chain", sat(&answer["total_sat"])),
                ("can be spent now", sat(&answer["spendable_sat"])),
                ("kept to close channels", sat(&answer["reserved_sat"])),
                ("waits for confirmation", sat(&answer["pending_sat"])),
                (
                    "on its way from closed channels",
                    match answer["sweeping_from_height"].as_u64() {
                        Some(height) => format!(
                            "{}, the last of it from block {} on",
                            sat(&answer["sweeping_sat"]),
                            grouped(height)
                        ),
                        None => sat(&answer["sweeping_sat"]),
                    },
                ),
            ])
        })
    }
}

impl Address {
    pub(super) fn run(&self) -> ExitCode {
        if self.new {
            let view = |answer: &Value| text(&answer["address"]);
            return self
                .operator
                .show(Method::POST, "/onchain/address", None, view);
        }
        match self.operator.ask(Method::GET, "/status", None) {
            Ok(answer) if answer["node"]["deposit_address"].is_null() => {
                let why = "the node has not started yet, and knows no address: `tollhouse status` says what it waits for";
                let (code, why) = (FAULT, why.to_owned());
                NoAnswer { code, why }.tell()
            }
            Ok(answer) => {
                let answer = json!({ "address": answer["node"]["deposit_address"] });
                self.operator
                    .print(&answer, |answer| text(&answer["address"]), Effect::None)
            }
            Err(no_answer) => no_answer.tell(),
        }
    }
}

impl Withdraw {
    pub(super) fn run(&self) -> ExitCode {
        self.operator
            .show(Method::POST, "/withdraw", None, |answer| {
                let rows: Vec<_> = list(answer, "withdrawn")
                    .iter()
                    .map(|one| {
                        vec![
                            text(&one["by"]),
                            number(&one["amount_msat"], msat),
                            text(&one["id"]),
                        ]
                    })
                    .collect();
                table(
                    &["by", "amount", "id"],
                    &rows,
                    "Nothing is above the threshold.",
                )
            })
    }
}

impl Send {
    pub(super) fn run(&self) -> ExitCode {
        let body = json!({
            "address": self.address,
            "amount_sat": self.amount,
            "all": self.all,
            "reserve_too": self.reserve_too,
            "fee_rate_sat_vb": self.fee_rate,
            "target_blocks": self.target_blocks,
        });
        let view: View = if self.all { sent_all } else { sent };
        self.operator
            .show(Method::POST, "/onchain/send", Some(body), view)
    }
}

fn sent(answer: &Value) -> String {
    format!("Sent: transaction {}", text(&answer["txid"]))
}

/// Describes the result of `--all`, with the amount that was kept.
fn sent_all(answer: &Value) -> String {
    let told = sent(answer);
    match answer["kept_sat"].as_u64() {
        None | Some(0) => told,
        Some(kept) => format!(
            "{told}\n{} sat remain in reserve for closing channels; `--reserve-too` sends them as well",
            grouped(kept)
        ),
    }
}

impl Pay {
    /// Exits with 0 if the payment succeeded, 1 if it failed, and 5 if it is pending.
    pub(super) fn run(&self) -> ExitCode {
        complain(&"paying; this takes up to a minute…");
        let body = json!({
            "to": self.to,
            "amount_msat": self.amount.map(Msat::msat),
            "fee_max_msat": self.fee_max.map(Msat::msat),
        });
        let answer = match self.operator.ask(Method::POST, "/payments", Some(body)) {
            Ok(answer) => answer,
            Err(no_answer) => return no_answer.tell(),
        };
        let view = |answer: &Value| {
            let line = format!(
                "{}: {}, the way there cost {} (payment {})",
                text(&answer["status"]),
                number(&answer["amount_msat"], msat),
                number(&answer["fee_msat"], msat),
                text(&answer["payment_id"]),
            );
            match answer["preimage"].as_str() {
                Some(preimage) => format!("{line}\npreimage {preimage}"),
                None => line,
            }
        };
        // If the payment failed or is pending, `not_arrived` reports that.
        let effect = if answer["status"] == "succeeded" {
            Effect::Done
        } else {
            Effect::None
        };
        let shown = self.operator.print(&answer, view, effect);
        let not_arrived = |code, why: &str| {
            NoAnswer {
                code,
                why: why.to_owned(),
            }
            .tell()
        };
        match answer["status"].as_str() {
            Some("succeeded") => shown,
            Some("pending") => not_arrived(
                PENDING,
                "it is still under way: look at `tollhouse payments`",
            ),
            _ => not_arrived(FAULT, "it failed; nothing was spent. The log says why"),
        }
    }
}

impl Payments {
    pub(super) fn run(&self) -> ExitCode {
        let path = format!("/payments?limit={}", self.limit);
        self.operator.show(Method::GET, &path, None, |answer| {
            let rows: Vec<_> = list(answer, "payments")
                .iter()
                .map(|payment| {
                    let is_outbound = payment["is_outbound"] == true;
                    vec![
                        number(&payment["updated_secs"], ago),
                        if is_outbound { "out" } else { "in" }.to_owned(),
                        text(&payment["kind"]),
                        text(&payment["status"]),
                        number(&payment["amount_msat"], msat),
                        number(&payment["fee_msat"], msat),
                        short(&payment["payment_id"]),
                    ]
                })
                .collect();
            let titles = ["when", "way", "kind", "status", "amount", "fee", "payment"];
            table(&titles, &rows, "There are no payments but sales.")
        })
    }
}

impl Invoice {
    pub(super) fn run(&self) -> ExitCode {
        let body = json!({
            "amount_msat": self.amount.map(Msat::msat),
            "description": self.description,
            "expiry_secs": u32::try_from(self.expiry).unwrap_or(u32::MAX),
        });
        self.operator.show(Method::POST, "/invoices", Some(body), |answer| {
            let invoice = text(&answer["bolt11"]);
            if answer["payable_now"] == true {
                return invoice;
            }
            format!("{invoice}\n\nIt cannot be paid now: so much cannot arrive over the channels that there are.")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_all_reports_what_is_kept() {
        let answer = json!({ "txid": "ab", "kept_sat": 25_000 });
        assert_eq!(
            sent_all(&answer),
            "Sent: transaction ab\n25,000 sat remain in reserve for closing channels; `--reserve-too` sends them as well"
        );
        assert_eq!(sent(&answer), "Sent: transaction ab");
        let answer = json!({ "txid": "ab", "kept_sat": 0 });
        assert_eq!(sent_all(&answer), sent(&answer));
    }
}
