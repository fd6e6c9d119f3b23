//! `tollhouse access`: access tokens, with which others may do part of what the operator may do.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::base::amount::Msat;

use super::ids;
use super::operator::Operator;
use super::show::{list, number, short, table, text};
use super::units::{ago, amount, msat, span_secs};

/// `tollhouse access`
#[derive(Debug, Args)]
pub(super) struct Access {
    #[command(subcommand)]
    what: What,
}

/// Make, list and revoke access tokens. Each scope includes those before it
#[derive(Debug, Subcommand)]
enum What {
    /// Make a token that may read everything
    Read(Make),
    /// Make a token that may make invoices and addresses
    Invoices(Make),
    /// Make a token that may pay
    Spend(Make),
    /// Make a token that may do everything
    Admin(Make),
    /// List the access tokens
    List {
        #[command(flatten)]
        operator: Operator,
    },
    /// Revoke one token and all copies that its holder has narrowed
    Revoke {
        /// The token's id, as `list` shows it
        #[arg(value_parser = ids::any)]
        id: String,
        #[command(flatten)]
        operator: Operator,
    },
}

/// The options of a new token.
#[derive(Debug, Args)]
struct Make {
    /// The maximum total amount that the token can spend, fees included
    #[arg(long, value_parser = amount)]
    spend_max: Option<Msat>,
    /// How long the token is valid, as in `30d`
    ///
    /// By default it is valid until it is revoked or the operator's own token is replaced.
    #[arg(long, value_parser = span_secs)]
    valid: Option<u64>,
    #[command(flatten)]
    operator: Operator,
}

impl Access {
    pub(super) fn run(&self) -> ExitCode {
        match &self.what {
            What::Read(make) => make.run("read"),
            What::Invoices(make) => make.run("invoices"),
            What::Spend(make) => make.run("spend"),
            What::Admin(make) => make.run("admin"),
            What::List { operator } => operator.show(Method::GET, "/access", None, tokens),
            What::Revoke { id, operator } => {
                let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
                let path = format!("/access/{id}/revoke");
                operator.show(Method::POST, &path, None, revoked)
            }
        }
    }
}

impl Make {
    fn run(&self, scope: &str) -> ExitCode {
        let body = json!({
            "scope": scope,
            "spend_max_msat": self.spend_max.map(Msat::msat),
            "valid_secs": self.valid,
        });
        self.operator
            .show(Method::POST, "/access", Some(body), |answer| {
                format!(
                    "{}\n\nIt is shown once. To take it back: tollhouse access revoke {}",
                    text(&answer["token"]),
                    text(&answer["id"])
                )
            })
    }
}

/// A table of access tokens.
fn tokens(answer: &Value) -> String {
    let rows: Vec<_> = list(answer, "tokens")
        .iter()
        .map(|token| {
            vec![
                text(&token["id"]),
                text(&token["scope"]),
                number(&token["spend_max_msat"], msat),
                number(&token["spent_msat"], msat),
                number(&token["pending_msat"], msat),
                number(&token["made_secs"], ago),
                number(&token["until_secs"], ago),
                short(&token["made_with"]),
            ]
        })
        .collect();
    let titles = [
        "id",
        "may",
        "limit",
        "spent",
        "under way",
        "made",
        "ends",
        "made with",
    ];
    table(&titles, &rows, "There are none.")
}

/// Describes the result of a revocation, and lists tokens that are still to be revoked.
fn revoked(answer: &Value) -> String {
    let left: Vec<_> = list(answer, "made_with_it").iter().map(text).collect();
    if left.is_empty() {
        return "Revoked: it opens nothing from now on.".to_owned();
    }
    format!(
        "Revoked: it opens nothing from now on. These were made with it, and are still good:\n{}",
        left.join("\n")
    )
}
