//! `tollhouse completions`: what a shell needs to complete our commands.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

/// `tollhouse completions`
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> ExitCode {
        let mut command = super::Cli::command();
        clap_complete::generate(
            self.shell,
            &mut command,
            "tollhouse",
            &mut std::io::stdout(),
        );
        ExitCode::SUCCESS
    }
}
