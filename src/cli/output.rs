//! Standard output: the one place where a command writes its answer.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::{FAULT, NOT_SHOWN, complain};

/// Whether a command has changed anything by the time it shows its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It has only looked.
    None,
    /// What it was asked for is done; asking again would do it twice.
    Done,
}

/// Shows a command's answer, and says how the command ends.
pub(super) fn show(text: &str, effect: Effect) -> ExitCode {
    ended(write(text), effect)
}

/// Writes a text, and the end of its last line.
fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The exit code of a command whose answer was written, or was not. A reader that has gone away wanted no more.
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
