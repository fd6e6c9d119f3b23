//! The shipped program as a command.

use std::path::Path;
use std::process::{Command, Stdio};

/// A command of the program in this folder, without anything to read.
pub(crate) fn tollhouse(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
    command
        .current_dir(folder)
        .env_remove(regtest::environment::TOLLHOUSE_EXE)
        .stdin(Stdio::null());
    command
}
