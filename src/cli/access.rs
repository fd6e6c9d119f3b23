//! `tollhouse access`: a token with which others may do part of what the operator may.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::json;

use crate::amount::Msat;

use super::Operator;
use super::show::text;
use super::units::{amount, span_secs};

/// `tollhouse access`
#[derive(Debug, Args)]
pub(super) struct Access {
    /// What may be done with it; each includes those before it
    scope: Scope,
    /// What may be spent with it in all, fees included
    #[arg(long, value_parser = amount)]
    spend_max: Option<Msat>,
    /// How long it is good, as in `30d`; default: until the operator's own token is replaced
    #[arg(long, value_parser = span_secs)]
    valid: Option<u64>,
    #[command(flatten)]
    operator: Operator,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scope {
    /// Looking at everything
    Read,
    /// Making invoices and addresses
    Invoices,
    /// Paying
    Spend,
    /// Everything
    Admin,
}

impl Access {
    pub(super) fn run(&self) -> ExitCode {
        let scope = match self.scope {
            Scope::Read => "read",
            Scope::Invoices => "invoices",
            Scope::Spend => "spend",
            Scope::Admin => "admin",
        };
        let body = json!({
            "scope": scope,
            "spend_max_msat": self.spend_max.map(Msat::msat),
            "valid_secs": self.valid,
        });
        self.operator
            .show(Method::POST, "/access", Some(body), |answer| {
                text(&answer["token"])
            })
    }
}
