//! `tollhouse completions`: scripts with which a shell completes the commands.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::output::{self, Effect};

/// `tollhouse completions`
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell to print completions for
    shell: Shell,
}

impl Completions {
    /// Prints the completions of this program's commands.
    pub(super) fn run(&self, mut program: clap::Command) -> ExitCode {
        // Generate into memory, because the crate panics if it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "tollhouse", &mut script);
        output::show(&String::from_utf8_lossy(&script), Effect::None)
    }
}
