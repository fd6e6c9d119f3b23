//! The harness as a program: a network to look at (`demo`), to use from outside (`up`), to measure (`bench`) or to kill again
//! and again (`soak`).

mod bench;
mod demo;
mod shop;
mod soaking;
mod stop;
mod tell;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::stop::Signals;

/// A Lightning network of one machine: a regtest chain, an Esplora server, the tollhouse program and a customer.
#[derive(Debug, Parser)]
#[command(name = "regtest", version)]
struct Arguments {
    /// The tollhouse program to drive; otherwise what TOLLHOUSE_EXE names, otherwise the one beside this program.
    #[arg(long, global = true, value_name = "PATH")]
    tollhouse: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Bench),
    Demo(demo::Demo),
    Soak(soaking::Soaking),
    Up(up::Up),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not by returning it: that would print a backtrace where a person needs the sentence.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let Arguments { tollhouse, command } = Arguments::parse();
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::WARN.into());
    let filter = match &command {
        // It complains of a merchant that is gone, which is what a soak is about.
        Command::Soak(_) => filter.parse("payer=off")?,
        Command::Bench(_) | Command::Demo(_) | Command::Up(_) => filter.from_env_lossy(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let mut signals = Signals::listen()?;
    match command {
        Command::Bench(bench) => bench.run(tollhouse, &mut signals).await,
        Command::Demo(demo) => demo.run(tollhouse, &mut signals).await,
        Command::Soak(soak) => soak.run(tollhouse, &mut signals).await,
        Command::Up(up) => up.run(tollhouse, &mut signals).await,
    }
}
