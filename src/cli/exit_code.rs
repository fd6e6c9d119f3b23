//! The exit codes of the commands, and how a command complains.

use std::io::Write as _;

use super::show;

/// Exit code: the program or the node failed.
pub(super) const FAULT: u8 = 1;

/// Exit code: the settings or the arguments are wrong.
pub(super) const BAD_SETTINGS: u8 = 2;

/// Exit code: the program cannot be reached.
pub(super) const UNREACHABLE: u8 = 3;

/// Exit code: the program refused the request, and retrying it unchanged will not help.
pub(super) const REFUSED: u8 = 4;

/// Exit code: the outcome is not known yet.
pub(super) const PENDING: u8 = 5;

/// Exit code: the command succeeded, but its output could not be written.
pub(super) const NOT_SHOWN: u8 = 6;

/// Writes a message to standard error, because the log may not be running yet.
pub(super) fn complain(text: &dyn std::fmt::Display) {
    // If this fails, the exit code still reports the problem. `eprintln` would panic.
    let _ = writeln!(std::io::stderr(), "{}", show::lines(&text.to_string()));
}
