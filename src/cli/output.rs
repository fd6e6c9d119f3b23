//! The only module that writes a command's output to standard output.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::exit_code::{FAULT, NOT_SHOWN, complain};

/// Whether a command has changed anything before it writes its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The command only reads.
    None,
    /// The command has done its work, and repeating it would do the work twice.
    Done,
}

/// Writes a command's output and returns its exit code.
pub(super) fn show(text: &str, effect: Effect) -> ExitCode {
    ended(write(text), effect)
}

/// Writes a text and ends its last line.
fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The exit code after writing the output. A pipe that its reader has closed is not an error.
pub(super) fn ended(written: io::Result<()>, effect: Effect) -> ExitCode {
    let error = match written {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    match effect {
        Effect::None => {
            complain(&format_args!("error: failed to write the output: {error}"));
            ExitCode::from(FAULT)
        }
        Effect::Done => {
            complain(&format_args!(
                "error: it was done, but failed to write the output: {error}. Do not repeat the command"
            ));
            ExitCode::from(NOT_SHOWN)
        }
    }
}
