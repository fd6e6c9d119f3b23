//! The command line: read arguments, load settings, start tracing, hand over; or ask the running program and show its answer.

mod access;
mod backup;
mod books;
mod channels;
mod check;
mod completions;
mod descriptors;
mod doctor;
mod ids;
mod init;
mod liquidity;
mod money;
mod operator;
mod output;
mod peers;
mod run;
mod scratch;
mod show;
mod state;
mod tracing;
mod units;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use operator::Operator;
use output::Effect;

/// The program, or the node, could not do it.
const FAULT: u8 = 1;

/// Settings that do not hold, or arguments that are none.
const BAD_SETTINGS: u8 = 2;

/// The program is not there to be asked.
const UNREACHABLE: u8 = 3;

/// The program refused: asking in the same way again will not help.
const REFUSED: u8 = 4;

/// It is not known yet whether it was done.
const PENDING: u8 = 5;

/// The command succeeded, but its output could not be written.
const NOT_SHOWN: u8 = 6;

/// A Lightning node with a paywall built in: sells HTTP requests with L402.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "All but init, run, check, completions, backup verify and backup restore ask the running program; backup create and\n\
                  doctor work while nothing runs, too. They print tables to a terminal and JSON into a pipe, but for backups.\n\
                  Exit: 0 done, 1 it failed, 2 arguments or settings are wrong, 3 the program is not running, 4 it refused,\n\
                  5 outcome not known yet, 6 done, but the output could not be written."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first settings file and make the seed: asks what it is not told
    Init(Box<init::Init>),
    /// Serve, until SIGINT or SIGTERM
    Run(Settings),
    /// Read and validate the settings, and print the routes as they are understood
    Check(Settings),
    /// How node, channels, money and sales are
    Status(state::Status),
    /// Read the settings again, without a dropped request
    Reload(state::Reload),
    /// Look at the chain now
    Sync(state::Sync),
    /// What was sold, the newest first
    Sales(books::Sales),
    /// Tokens that were used, and what is left of them
    Tokens(books::Tokens),
    /// Take back a token, or all of a service that were sold until now
    Revoke(books::Revoke),
    /// Money on the chain
    Balance(money::Balance),
    /// Where on-chain money can be sent to
    Address(money::Address),
    /// Send on-chain money
    Send(money::Send),
    /// Withdraw now what is above the threshold of the settings
    Withdraw(money::Withdraw),
    /// Pay a BOLT 11 invoice or a BOLT 12 offer
    Pay(money::Pay),
    /// Payments, in and out, other than sales
    Payments(money::Payments),
    /// Make an invoice that sells nothing
    Invoice(money::Invoice),
    /// Become reachable: a provider opens a channel when the first customer pays
    Liquidity(liquidity::Liquidity),
    /// List, open, close and splice channels
    Channels(channels::Channels),
    /// List, connect and disconnect peers
    Peers(peers::Peers),
    /// Make tokens with which others may do part of this, list them, take them back
    Access(access::Access),
    /// What could go wrong here, and what to do about it
    Doctor(doctor::Doctor),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Make, check or restore a backup of everything that must not be lost
    #[command(subcommand)]
    Backup(backup::Command),
}

#[derive(Debug, Args)]
struct Settings {
    /// The settings file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Does what the arguments say.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(told) => return told_by_clap(&told),
    };
    match command {
        Command::Init(answers) => init::init(&answers),
        Command::Run(settings) => run::run(&settings.config),
        Command::Check(settings) => check::check(&settings.config),
        Command::Status(status) => status.run(),
        Command::Reload(reload) => reload.run(),
        Command::Sync(sync) => sync.run(),
        Command::Sales(sales) => sales.run(),
        Command::Tokens(tokens) => tokens.run(),
        Command::Revoke(revoke) => revoke.run(),
        Command::Balance(balance) => balance.run(),
        Command::Address(address) => address.run(),
        Command::Send(send) => send.run(),
        Command::Withdraw(withdraw) => withdraw.run(),
        Command::Pay(pay) => pay.run(),
        Command::Payments(payments) => payments.run(),
        Command::Invoice(invoice) => invoice.run(),
        Command::Liquidity(liquidity) => liquidity.run(),
        Command::Channels(channels) => channels.run(),
        Command::Peers(peers) => peers.run(),
        Command::Access(access) => access.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Completions(completions) => completions.run(),
        Command::Backup(command) => backup::run(command),
    }
}

/// Shows the help or the version, or reports wrong arguments.
fn told_by_clap(told: &clap::Error) -> ExitCode {
    let written = told.print().and_then(|()| std::io::stdout().flush());
    if told.use_stderr() {
        return ExitCode::from(BAD_SETTINGS);
    }
    output::ended(written, Effect::None)
}

/// Tells the operator, who may have no log yet.
fn complain(text: &dyn std::fmt::Display) {
    // Where it cannot be said, the exit code still says it: `eprintln` would panic.
    let _ = writeln!(std::io::stderr(), "{}", show::lines(&text.to_string()));
}
