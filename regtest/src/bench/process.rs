//! What the operating system says of the merchant's process and of its folder.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use regtest::network::Network;
use regtest::wait::eventually;
use tokio::time::Instant;

use super::megabytes;

/// A block of `stat`, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;
/// How much memory may change and still be at rest.
const REST_TOLERANCE: f64 = 0.01;
/// How much longer than asked for a rest may take to come.
const REST_DEADLINE: Duration = Duration::from_secs(60);

/// The number of the merchant's process.
pub(super) fn pid(network: &Network) -> Result<u32> {
    network
        .merchant
        .pid()
        .context("the merchant is not running")
}

/// Memory that the process holds, MB: `VmRSS`. More than half of it is the program's own file, as far as it was run.
pub(super) fn rss_mb(pid: u32) -> Result<f64> {
    status_mb(pid, "VmRSS:")
}

/// The part of it that is no file's: what the kernel cannot drop and read again.
pub(super) fn anonymous_mb(pid: u32) -> Result<f64> {
    status_mb(pid, "RssAnon:")
}

/// A line of the process's status.
fn status_mb(pid: u32, name: &str) -> Result<f64> {
    let file = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&file)
        .with_context(|| format!("failed to read {file}: has the merchant ended?"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<u64>().ok())
        .with_context(|| format!("no {name} in {file}"))?;
    Ok(megabytes(kib * 1024))
}

/// The same, once it has not changed for that long.
pub(super) async fn rss_at_rest_mb(pid: u32, rest: Duration) -> Result<f64> {
    let mut resting: Option<(f64, Instant)> = None;
    eventually(
        "the merchant's memory to come to rest",
        rest + REST_DEADLINE,
        || {
            let rested = rss_mb(pid).map(|rss| match resting {
                Some((before, since)) if (rss - before).abs() <= REST_TOLERANCE * before => {
                    (rss, since.elapsed() >= rest)
                }
                _ => {
                    resting = Some((rss, Instant::now()));
                    (rss, false)
                }
            });
            async move {
                match rested {
                    Ok((rss, true)) => Ok(Some(Ok(rss))),
                    Ok((rss, false)) => Err(format!("{rss:.1} MB, just changed")),
                    Err(error) => Ok(Some(Err(error))),
                }
            }
        },
    )
    .await?
}

/// Bytes that the process has caused to be written to the disk since its start: `write_bytes`. What stays in memory, as in a
/// folder of tmpfs, is not among them.
pub(super) fn written_bytes(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/io");
    let io = fs::read_to_string(&file)
        .with_context(|| format!("failed to read {file}: has the merchant ended?"))?;
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok())
        .with_context(|| format!("no write_bytes in {file}"))
}

/// What a folder takes on the disk, MB: blocks, as `du` counts them.
pub(super) fn disk_mb(folder: &Path) -> Result<f64> {
    blocks(folder)
        .map(|blocks| megabytes(blocks * BLOCK_BYTES))
        .with_context(|| format!("failed to look through {}", folder.display()))
}

/// The blocks of a file, or of a folder with everything in it; links are not followed.
fn blocks(path: &Path) -> io::Result<u64> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // Databases make and remove files as they go.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut sum = metadata.blocks();
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            sum += blocks(&entry?.path())?;
        }
    }
    Ok(sum)
}
