//! `regtest bench`: the numbers of the shipped program, measured on a network of its own. `scripts/bench` runs it after
//! criterion has timed the parts.
//!
//! MB is 1,000,000 bytes everywhere.

mod credentials;
mod estimates;
mod flood;
mod goods;
mod gossip;
mod guarded;
mod load;
mod machine;
mod nginx;
mod process;
mod purchases;
mod ready;
mod reloads;
mod syncs;
mod table;
mod upstream;
mod writes;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use regtest::environment;
use regtest::network::{Network, NetworkOptions};

use self::goods::Goods;
use self::table::{Report, rounded};
use crate::stop::Signals;
use crate::tell;

/// Measure the program: challenges per second, guarded against unguarded and nginx, memory, disk, time to the first 402.
///
/// Everything is on loopback, on a chain of its own; about twelve minutes. A missed target is shown and is no failure.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Also write the numbers into this file, as one JSON object.
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    json: Option<PathBuf>,
    /// Where `cargo bench --bench parts` left its estimates; otherwise `criterion` in the target folder that this program
    /// lies in.
    #[arg(long, value_name = "DIR")]
    criterion: Option<PathBuf>,
    /// The nginx to compare with; by default the system's
    #[arg(long, value_name = "FILE")]
    nginx: Option<PathBuf>,
    /// See in a minute or two whether the benchmark itself works. Its numbers mean nothing, so it writes no JSON.
    #[arg(long)]
    quick: bool,
}

/// How long and how often everything is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Repetitions of what is noisy; the median counts.
    rounds: usize,
    /// Seconds of one round of challenges.
    challenge_secs: u32,
    /// Repetitions of an unguarded and a guarded round.
    guarded_rounds: usize,
    /// Seconds of one of these.
    guarded_secs: u32,
    /// Challenges during which flushes are counted, at least.
    sync_challenges: u64,
    /// Purchases in a row.
    purchases: usize,
    /// Unpaid challenges of the flood.
    flood_challenges: u64,
    /// How long their invoices live. Longer than the 40 s in which the program writes what it still remembers of a flood
    /// (20,000 challenges, 500 a second), so that every one that can reach the disk does.
    flood_expiry: Duration,
    /// How long memory must stay the same before it counts as being at rest; longer than the 10 s between two looks at
    /// the chain.
    rest: Duration,
    /// Channels of the merchant that has many.
    channels: usize,
    /// How long the chain source's requests are counted.
    idle: Duration,
}

impl Effort {
    /// What the numbers are made with.
    const FULL: Self = Self {
        rounds: 3,
        challenge_secs: 30,
        guarded_rounds: 5,
        guarded_secs: 5,
        sync_challenges: 10_000,
        purchases: 50,
        flood_challenges: 1_000_000,
        flood_expiry: Duration::from_secs(60),
        rest: Duration::from_secs(12),
        channels: 50,
        idle: Duration::from_secs(120),
    };
    /// What only shows that everything runs.
    const QUICK: Self = Self {
        rounds: 1,
        challenge_secs: 2,
        guarded_rounds: 1,
        guarded_secs: 2,
        sync_challenges: 500,
        purchases: 5,
        flood_challenges: 5_000,
        flood_expiry: Duration::from_secs(5),
        rest: Duration::from_secs(1),
        channels: 6,
        idle: Duration::from_secs(10),
    };
}

/// What a phase leaves besides its numbers: progress at once, remarks for below the table.
#[derive(Debug)]
pub(crate) struct Notes {
    /// When the run began.
    begun: Instant,
    /// The remarks.
    remarks: Vec<String>,
}

impl Notes {
    /// Says on standard error what is being done now; some of it takes a minute.
    fn progress(&self, what: &str) {
        eprintln!("[{:4}s] {what}", self.begun.elapsed().as_secs());
    }

    /// Keeps a remark, and says it.
    fn remark(&mut self, remark: String) {
        self.progress(&format!("  {remark}"));
        self.remarks.push(remark);
    }
}

impl Bench {
    /// Measures everything, shows the table, writes the file.
    pub(crate) async fn run(
        self,
        tollhouse_exe: Option<PathBuf>,
        signals: &mut Signals,
    ) -> Result<()> {
        let exe = tollhouse_exe.map_or_else(environment::tollhouse_exe, Ok)?;
        self.check()?;
        let nginx = nginx::exe(self.nginx.as_deref())?;
        let effort = if self.quick {
            Effort::QUICK
        } else {
            Effort::FULL
        };
        let mut report = Report::default();
        match estimates::read(self.criterion.as_deref()) {
            Ok(parts) => report.set_parts(parts),
            Err(error) if self.json.is_none() => eprintln!("the parts are not timed: {error:#}"),
            Err(error) => return Err(error),
        }
        let watch = machine::Watch::start();
        let mut notes = Notes {
            begun: Instant::now(),
            remarks: Vec::new(),
        };
        tokio::select! {
            measured = measure(&exe, Goods::open(nginx)?, &effort, &mut report, &mut notes) => measured?,
            () = signals.recv() => bail!("told to stop before everything was measured"),
        }
        machine::tell(self.quick, &watch);
        report.tell();
        tell::line("");
        for remark in &notes.remarks {
            tell::paragraph(&format!("- {remark}"));
        }
        match &self.json {
            Some(file) => report.write(file),
            None => Ok(()),
        }
    }

    /// Refuses at once what would only fail after minutes.
    fn check(&self) -> Result<()> {
        for tool in [load::WRK, syncs::STRACE] {
            if environment::on_path(tool).is_none() {
                bail!("{tool} is missing: run this as scripts/bench, which installs it");
            }
        }
        let Some(file) = &self.json else {
            return Ok(());
        };
        if cfg!(debug_assertions) {
            bail!("only release builds are worth a file of numbers: run this as scripts/bench");
        }
        let folder = std::path::absolute(file)
            .ok()
            .and_then(|file| file.parent().map(Path::to_owned));
        if !folder.is_some_and(|folder| folder.is_dir()) {
            bail!("the folder of {} does not exist", file.display());
        }
        Ok(())
    }
}

/// Everything that needs a network. The flood comes first: it is measured on a data folder that holds nothing yet, where
/// the store has no free room to hide in.
async fn measure(
    exe: &Path,
    goods: Goods,
    effort: &Effort,
    report: &mut Report,
    notes: &mut Notes,
) -> Result<()> {
    // A copy: what is built meanwhile must not be what is measured after the next restart.
    let copy = goods.dir().join("tollhouse");
    std::fs::copy(exe, &copy).with_context(|| format!("failed to copy {}", exe.display()))?;
    report.binary_mb = binary_mb(&copy)?;
    notes.progress("starting a chain, a merchant, a payer and a channel");
    let mut network = Network::start(NetworkOptions {
        routes_dir: Some(goods.dir().to_owned()),
        settings: flood::settings(effort),
        ..NetworkOptions::new(copy, goods.routes())
    })
    .await?;
    let measured = phases(&mut network, &goods, effort, report, notes).await;
    measured.with_context(|| network.merchant.log_tail())?;
    let status = network.stop().await?;
    if !status.success() {
        bail!("the merchant ended with {status}");
    }
    Ok(())
}

/// One number after the other, on the same network.
async fn phases(
    network: &mut Network,
    goods: &Goods,
    effort: &Effort,
    report: &mut Report,
    notes: &mut Notes,
) -> Result<()> {
    let flood = flood::measure(network, goods, effort, notes).await?;
    report.rss_idle_mb = rounded(flood.rss_idle_mb);
    report.rss_after_flood_mb = rounded(flood.rss_after_mb);
    report.disk_growth_mb = rounded(flood.disk_growth_mb);
    // From here on with the shipped settings.
    network.merchant.settings_mut().extra.clear();
    report.first_402_ms = rounded(purchases::first_402_ms(network, effort, notes).await?);
    report.pay_ms_p50 = rounded(purchases::pay_ms_p50(network, effort, notes).await?);
    report.challenges_per_sec =
        rounded(load::challenges_per_sec(network, goods, effort, notes).await?);
    report.fsyncs_per_challenge =
        rounded(syncs::per_challenge(network, goods, effort, notes).await?);
    let ratios = guarded::ratios(network, goods, effort, notes).await?;
    report.guarded_ratio_files = rounded(ratios.files.of_unguarded);
    report.guarded_ratio_upstream = rounded(ratios.upstream.of_unguarded);
    report.guarded_ratio_small = rounded(ratios.small.of_unguarded);
    report.files_vs_nginx = rounded(ratios.files.of_nginx);
    report.files_small_vs_nginx = rounded(ratios.small.of_nginx);
    report.proxy_vs_nginx = rounded(ratios.upstream.of_nginx);
    report.reload_failed = reloads::failed(network, goods, effort, notes).await?;
    report.disk_bytes_per_sale = rounded(writes::bytes_per_sale(network, effort, notes).await?);
    let idle = writes::idle_hour(network, effort, notes).await?;
    report.esplora_per_idle_hour = rounded(idle.requests);
    report.disk_mb_per_idle_hour = rounded(idle.written_mb);
    report.ready_1_channel_ms = rounded(ready::ready_ms(network, effort, notes).await?);
    // Last: everything before is measured with the one channel.
    ready::grow(network, effort.channels, notes).await?;
    report.ready_50_channels_ms = rounded(ready::ready_ms(network, effort, notes).await?);
    let gossip = gossip::memory(network, goods, effort, notes).await?;
    report.rss_gossip_off_mb = rounded(gossip.off_mb);
    report.rss_gossip_on_mb = rounded(gossip.on_mb);
    Ok(())
}

/// The size of the program's file, MB.
fn binary_mb(exe: &Path) -> Result<f64> {
    let bytes = std::fs::metadata(exe)
        .with_context(|| format!("failed to look at {}", exe.display()))?
        .len();
    Ok(rounded(megabytes(bytes)))
}

/// Bytes as MB.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The middle of these numbers; of an even number the mean of the two in the middle. NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(lower), values.get(upper)) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => f64::NAN,
    }
}

/// A duration in milliseconds.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
