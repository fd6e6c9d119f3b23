//! What the numbers were made on and of.

use std::fs;
use std::process::Command;

use crate::tell;

/// Shows it. What cannot be found out is said to be unknown: no number depends on it.
pub(super) fn tell(is_quick: bool) {
    tell::heading(if is_quick {
        "A short run: it shows that the benchmark works, its numbers mean nothing"
    } else {
        "What was measured"
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    tell::pair("processor", &format!("{cores} × {}", processor()));
    tell::pair("kernel", &read("/proc/sys/kernel/osrelease"));
    tell::pair(
        "load, at the end",
        &format!(
            "{} (1, 5 and 15 minutes, this run included)",
            load_average()
        ),
    );
    tell::pair("compiler", &output("rustc", &["--version"]));
    tell::pair("commit", &commit());
    tell::line("");
}

/// The commit of the sources that this program was built from, and whether anything was changed since.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        output(
            "git",
            &[&["-C", env!("CARGO_MANIFEST_DIR")], arguments].concat(),
        )
    };
    let commit = git(&["log", "-1", "--format=%h, %s"]);
    if git(&["status", "--porcelain"]).is_empty() {
        commit
    } else {
        format!("{commit}, and changes that are not committed")
    }
}

/// The processor's name for itself.
fn processor() -> String {
    let description = read("/proc/cpuinfo");
    let name = description
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(
        || format!("unknown {}", std::env::consts::ARCH),
        |(_, name)| name.to_owned(),
    )
}

/// The three averages.
fn load_average() -> String {
    let averages = read("/proc/loadavg");
    let first: Vec<&str> = averages.split_whitespace().take(3).collect();
    first.join(" ")
}

/// The text of a file of the kernel's.
fn read(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// What a program says.
fn output(program: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).output();
    match ran {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}
