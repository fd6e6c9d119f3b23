//! What the numbers were made on and of.

use std::fs;
use std::process::Command;

use crate::tell;

/// How much of the processors other programs may take until the numbers are worth little.
const OTHERS_MAX_PERCENT: f64 = 5.0;

/// Processor time, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    /// What all processors had to give.
    all: u64,
    /// What programs used of it.
    used: u64,
    /// What this program and its children used, those that have ended and were waited for.
    ours: u64,
}

/// Sees how much of the processors other programs take while numbers are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// At its beginning.
    begun: Ticks,
}

impl Watch {
    /// Begins, before any child is started.
    pub(super) fn start() -> Self {
        Self {
            begun: Ticks::now().unwrap_or_default(),
        }
    }

    /// The share of others in percent, once all children have ended; `None` on a system without /proc.
    pub(super) fn others_percent(&self) -> Option<f64> {
        let now = Ticks::now()?;
        let used = now.used.saturating_sub(self.begun.used);
        let others = used.saturating_sub(now.ours.saturating_sub(self.begun.ours));
        let all = now.all.checked_sub(self.begun.all).filter(|all| *all > 0)?;
        Some(others as f64 / all as f64 * 100.0)
    }
}

impl Ticks {
    /// Reads them.
    fn now() -> Option<Self> {
        let system = fs::read_to_string("/proc/stat").ok()?;
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        Self::read(&system, &own)
    }

    /// Takes them from the two files' texts (proc_stat(5), proc_pid_stat(5)).
    fn read(system: &str, own: &str) -> Option<Self> {
        let all: Vec<u64> = numbers(system.lines().next()?.strip_prefix("cpu ")?);
        // The name in parentheses may hold anything; of what follows it, numbers 12 to 15 are the times.
        let own = numbers(own.rsplit_once(')')?.1);
        Some(Self {
            // user, nice, system; interrupts belong to nobody.
            used: all.get(..3)?.iter().sum(),
            // … idle, iowait, irq, softirq, steal; what follows is counted in user already.
            all: all.get(..8)?.iter().sum(),
            // The state, a letter, is no number, hence 10.
            ours: own.get(10..14)?.iter().sum(),
        })
    }
}

/// The numbers among the words of a text; negative ones count as 0.
fn numbers(text: &str) -> Vec<u64> {
    let words = text.split_whitespace();
    words
        .filter_map(|word| word.parse::<i64>().ok())
        .map(|number| u64::try_from(number).unwrap_or(0))
        .collect()
}

/// Shows it. What cannot be found out is said to be unknown: no number depends on it.
pub(super) fn tell(is_quick: bool, watch: &Watch) {
    tell::heading(if is_quick {
        "A short run: it shows that the benchmark works, its numbers mean nothing"
    } else {
        "What was measured"
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    tell::pair("processor", &format!("{cores} × {}", processor()));
    tell::pair("kernel", &read("/proc/sys/kernel/osrelease"));
    tell::pair("other programs took", &others(watch));
    tell::pair("compiler", &output("rustc", &["--version"]));
    tell::pair("commit", &commit());
    tell::line("");
}

/// What other programs took, and what that means.
fn others(watch: &Watch) -> String {
    match watch.others_percent() {
        None => "unknown".to_owned(),
        Some(percent) if percent > OTHERS_MAX_PERCENT => format!(
            "{percent:.1} % of the processors meanwhile: TOO MUCH, the numbers below say little"
        ),
        Some(percent) => format!("{percent:.1} % of the processors meanwhile"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_taken_from_the_right_columns() {
        let system = "cpu  1000 20 300 5000 60 7 80 9 11 0\ncpu0 1 2 3\n";
        let own =
            "42 (a (strange) name) S 1 42 42 0 -1 4194560 100 200 3 4 10 20 30 40 20 0 1 0 999";
        let ticks = Ticks::read(system, own).unwrap();
        assert_eq!((ticks.used, ticks.all, ticks.ours), (1320, 6476, 100));
        assert!(Ticks::read("", own).is_none());
    }
}
