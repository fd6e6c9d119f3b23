//! Tollhouse: a Lightning node with a paywall built in.

use std::process::ExitCode;

fn main() -> ExitCode {
    tollhouse::cli::main()
}
