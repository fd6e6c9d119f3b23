//! The command line. A command either runs here with its settings, or asks the running program and
//! shows its answer.

mod access;
mod backup;
mod books;
mod channels;
mod check;
mod completions;
mod descriptors;
mod doctor;
mod exit_code;
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

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use exit_code::BAD_SETTINGS;
use output::Effect;

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
    /// Write a first settings file and create the seed
    Init(Box<init::Init>),
    /// Run the program until SIGINT or SIGTERM
    Run(Settings),
    /// Validate the settings, and show the routes and the effective values
    Check(Settings),
    /// Show the node, channels, balances and sales
    Status(state::Status),
    /// Read the settings again without dropping a request
    Reload(state::Reload),
    /// Sync with the chain now
    Sync(state::Sync),
    /// List sales, the newest first
    Sales(books::Sales),
    /// List tokens that were used, and what is left of them
    Tokens(books::Tokens),
    /// Revoke a token, or all tokens of a service that were sold until now
    Revoke(books::Revoke),
    /// Show the on-chain balance
    Balance(money::Balance),
    /// Show an address that receives on-chain money
    Address(money::Address),
    /// Send on-chain money
    Send(money::Send),
    /// Withdraw the amount above the threshold of the settings now
    Withdraw(money::Withdraw),
    /// Pay a BOLT 11 invoice or a BOLT 12 offer
    Pay(money::Pay),
    /// List incoming and outgoing payments, without sales
    Payments(money::Payments),
    /// Make an invoice that sells nothing
    Invoice(money::Invoice),
    /// Get a channel: a provider opens one when the first customer pays
    Liquidity(liquidity::Liquidity),
    /// List, open, close and splice channels
    Channels(channels::Channels),
    /// List, connect and disconnect peers
    Peers(peers::Peers),
    /// Make, list and revoke access tokens for others
    Access(access::Access),
    /// Report what could go wrong, and what to do about it
    Doctor(doctor::Doctor),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Make, verify or restore a backup of everything that must not be lost
    #[command(subcommand)]
    Backup(backup::Command),
}

#[derive(Debug, Args)]
struct Settings {
    /// The settings file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command that the arguments name.
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
        Command::Completions(completions) => completions.run(Cli::command()),
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
