//! `tollhouse completions`: what a shell needs to complete our commands.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::output::{self, Effect};

/// `tollhouse completions`
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> ExitCode {
        // Generates into memory: the crate panics if it cannot write.
        let mut script = Vec::new();
        let mut command = super::Cli::command();
        clap_complete::generate(self.shell, &mut command, "tollhouse", &mut script);
        output::show(&String::from_utf8_lossy(&script), Effect::None)
    }
}
