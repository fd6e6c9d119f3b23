//! How often the program waits for the disk: flushes, counted by strace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use regtest::network::Network;
use regtest::wait::eventually;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};

use super::goods::{Goods, UPSTREAM};
use super::load::Challenges;
use super::{Effort, Notes, process};

/// The program; Debian's package has the same name.
pub(super) const STRACE: &str = "strace";
/// What counts as a flush.
const CALLS: &str = "fsync,fdatasync,sync_file_range,msync";
/// From its start until it has every thread, and from its signal to its end.
const STRACE_DEADLINE: Duration = Duration::from_secs(15);
/// Seconds of one run of load; runs are repeated until there are enough challenges.
const LOAD_SECS: u32 = 5;
/// How long the program is watched without any request, for comparison.
const IDLE: Duration = Duration::from_secs(10);

/// Flushes for each challenge. Nothing is taken off: what the node and the store flush by the clock counts too, and
/// under strace, which stops the program at every system call, there are fewer challenges to share it.
pub(super) async fn per_challenge(
    network: &Network,
    goods: &Goods,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<f64> {
    let pid = process::pid(network)?;
    notes.progress("flushes without a request");
    let strace = Strace::attach(pid, goods.dir()).await?;
    sleep_until(Instant::now() + IDLE).await;
    let idle = strace.finish().await?;
    notes.progress(&format!(
        "flushes during {} challenges",
        effort.sync_challenges
    ));
    let challenges = Challenges::at(network, goods, UPSTREAM.sold).await?;
    let strace = Strace::attach(pid, goods.dir()).await?;
    let (mut count, begun) = (0, Instant::now());
    while count < effort.sync_challenges {
        count += challenges.ask(LOAD_SECS).await?.requests;
    }
    let took = begun.elapsed();
    let flushes = strace.finish().await?;
    notes.remark(format!(
        "flushes: {flushes} during {count} challenges in {:.0} s under strace; {idle} in {:.0} s without a request",
        took.as_secs_f64(),
        IDLE.as_secs_f64()
    ));
    Ok(ratio(flushes, count))
}

/// One by the other.
fn ratio(flushes: u64, challenges: u64) -> f64 {
    flushes as f64 / challenges as f64
}

/// A strace that counts; dropping it ends it, and the program goes on.
#[derive(Debug)]
struct Strace {
    /// The process.
    child: Child,
    /// Where it writes what it counted.
    report: PathBuf,
}

impl Strace {
    /// Attaches to every thread of a process and returns when it has them all.
    async fn attach(pid: u32, folder: &Path) -> Result<Self> {
        let (report, said) = (folder.join("strace.report"), folder.join("strace.said"));
        let complaints = fs::File::create(&said)
            .with_context(|| format!("failed to make {}", said.display()))?;
        let mut child = Command::new(STRACE)
            .args(["-f", "-c", "-p", &pid.to_string(), "-e"])
            .arg(format!("trace={CALLS}"))
            .arg("-o")
            .arg(&report)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(complaints)
            .kill_on_drop(true)
            .spawn()
            .context("failed to run strace")?;
        eventually("strace to have every thread", STRACE_DEADLINE, || {
            let ended = child.try_wait().ok().flatten();
            let untraced = untraced(pid);
            let said = fs::read_to_string(&said).unwrap_or_default();
            async move {
                match (ended, untraced) {
                    (Some(status), _) => Ok(Some(Err(anyhow!(
                        "strace ended with {status}: {said}(Where kernel.yama.ptrace_scope is 1, only root may attach.)"
                    )))),
                    (None, Ok(0)) => Ok(Some(Ok(()))),
                    (None, Ok(threads)) => Err(format!("{threads} threads are still without it")),
                    (None, Err(error)) => Err(format!("{error:#}")),
                }
            }
        })
        .await??;
        Ok(Self { child, report })
    }

    /// Detaches and gives the number of calls.
    async fn finish(mut self) -> Result<u64> {
        let pid = self.child.id().context("strace has ended by itself")?;
        // The shell's own `kill`, as in the harness's merchant.
        let sent = Command::new("sh")
            .args(["-c", r#"kill -s INT "$0""#, &pid.to_string()])
            .status()
            .await
            .context("failed to run a shell")?;
        if !sent.success() {
            bail!("failed to tell strace to end");
        }
        // Its status is that of the signal.
        tokio::time::timeout(STRACE_DEADLINE, self.child.wait())
            .await
            .with_context(|| format!("waited {STRACE_DEADLINE:?} for strace to end"))?
            .context("failed to wait for strace")?;
        let report = fs::read_to_string(&self.report)
            .with_context(|| format!("failed to read {}", self.report.display()))?;
        calls(&report)
    }
}

/// How many threads of a process nobody traces.
fn untraced(pid: u32) -> Result<usize> {
    let folder = format!("/proc/{pid}/task");
    let failed = || format!("failed to look through {folder}: has the merchant ended?");
    let mut untraced = 0;
    for task in fs::read_dir(&folder).with_context(failed)? {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.with_context(failed)?.path().join("status"));
        let status = status.unwrap_or_default();
        untraced += status
            .lines()
            .filter(|line| {
                line.strip_prefix("TracerPid:")
                    .is_some_and(|tracer| tracer.trim() == "0")
            })
            .count();
    }
    Ok(untraced)
}

/// Sums the calls in strace's table: `% time, seconds, usecs/call, calls, [errors,] syscall`. Without any call there is no
/// table.
fn calls(report: &str) -> Result<u64> {
    let mut sum = 0;
    for line in report.lines() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_call = columns
            .last()
            .is_some_and(|name| CALLS.split(',').any(|call| call == *name));
        if is_call {
            sum += columns
                .get(3)
                .and_then(|calls| calls.parse::<u64>().ok())
                .with_context(|| format!("strace's table has the line {line:?}"))?;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_in_the_table_are_summed() {
        let report = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n \
                      66.67    0.000020          10         2         1 fdatasync\n \
                      33.33    0.000010           3         3           fsync\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      100.00    0.000030           6         5         1 total\n";
        assert_eq!(calls(report).unwrap(), 5);
        assert_eq!(calls("").unwrap(), 0);
        assert!(calls("garbage fsync").is_err());
    }
}
