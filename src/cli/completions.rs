//! `tollhouse completions`: scripts with which a shell completes the commands.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::output::{self, Effect};

/// `tollhouse completions`
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell to print completions for
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> ExitCode {
        // Generate into memory, because the crate panics if it cannot write.
        let mut script = Vec::new();
        let mut command = super::Cli::command();
        clap_complete::generate(self.shell, &mut command, "tollhouse", &mut script);
        output::show(&String::from_utf8_lossy(&script), Effect::None)
    }
}
