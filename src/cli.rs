//! The command line: read arguments, load settings, start tracing, hand over.

mod check;
mod descriptors;
mod init;
mod run;
mod tracing;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Settings that do not hold, or arguments that are none.
const BAD_SETTINGS: u8 = 2;

/// A Lightning node with a paywall built in: sells HTTP requests with L402.
#[derive(Debug, Parser)]
#[command(version)]
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
}

#[derive(Debug, Args)]
struct Settings {
    /// The settings file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Does what the arguments say.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Init(answers) => init::init(&answers),
        Command::Run(settings) => run::run(&settings.config),
        Command::Check(settings) => check::check(&settings.config),
    }
}

/// Tells the operator, who may have no log yet.
#[expect(clippy::print_stderr, reason = "before tracing is there")]
fn complain(text: &dyn std::fmt::Display) {
    eprintln!("{text}");
}
