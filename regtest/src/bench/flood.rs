//! A flood of challenges that nobody pays, and what it leaves in memory and on the disk.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::StatusCode;
use regtest::network::Network;
use regtest::wait::eventually;

use super::goods::{Goods, SMALL, UPSTREAM};
use super::load::Challenges;
use super::{Effort, Notes, process};

/// Sales before the flood.
const SALES: usize = 3;
/// Seconds of one run of load; runs are repeated until the flood is complete.
const LOAD_SECS: u32 = 5;
/// How long the disk must stay as it is before it is measured: longer than the store's own 0.5 s between two flushes and
/// the program's 1 s between two writes.
const DISK_REST: Duration = Duration::from_secs(5);
/// When to give up on that.
const DISK_REST_DEADLINE: Duration = Duration::from_secs(60);

/// What the flood did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flood {
    /// Memory at rest before it, MB.
    pub(super) rss_idle_mb: f64,
    /// Memory after it, MB: right after it or at rest, whichever is more.
    pub(super) rss_after_mb: f64,
    /// The growth of the data folder, measured at rest, in MB.
    pub(super) disk_growth_mb: f64,
}

/// The merchant's settings for the flood.
pub(super) fn settings(effort: &Effort) -> String {
    // A limit that nobody reaches: the table of those who are counted is part of what is measured.
    format!(
        "[l402]\ninvoice_expiry = \"{}s\"\n[http]\ntrusted_proxies = [\"127.0.0.1/32\"]\n\
         [limits]\nchallenges = {{ requests = 1000000, per = \"1s\" }}\n",
        effort.flood_expiry.as_secs()
    )
}

/// Sells a little, rests, floods, rests.
pub(super) async fn measure(
    network: &Network,
    goods: &Goods,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<Flood> {
    notes.progress("memory at rest, after a few sales");
    for _ in 0..SALES {
        let purchase = network.buy(SMALL.sold).await?;
        if purchase.answer.status != StatusCode::OK {
            bail!(
                "a sale before the flood ended with {}",
                purchase.answer.status
            );
        }
    }
    let (pid, folder) = (process::pid(network)?, network.merchant.data_dir());
    let rss_idle_mb = process::rss_at_rest_mb(pid, effort.rest).await?;
    let anonymous_idle_mb = process::anonymous_mb(pid)?;
    let disk_before_mb = disk_at_rest_mb(network).await?;

    notes.progress(&format!(
        "{} unpaid challenges from ten thousand addresses",
        effort.flood_challenges
    ));
    let challenges = Challenges::from_many(network, goods, UPSTREAM.sold).await?;
    let mut count = 0;
    while count < effort.flood_challenges {
        count += challenges.ask(LOAD_SECS).await?.requests;
    }
    let rss_flooded_mb = process::rss_mb(pid)?;
    let anonymous_flooded_mb = process::anonymous_mb(pid)?;
    let disk_flooded_mb = process::disk_mb(folder)?;

    // The newest of them are remembered for two hours after they expire, so nobody waits for that here.
    notes.progress("memory and disk at rest, after the flood");
    let disk_after_mb = disk_at_rest_mb(network).await?;
    let rss_rested_mb = process::rss_at_rest_mb(pid, effort.rest).await?;
    notes.remark(format!(
        "flood of {count} challenges: memory {rss_idle_mb:.1} MB before it, {rss_flooded_mb:.1} right after, \
         {rss_rested_mb:.1} at rest after it"
    ));
    notes.remark(format!(
        "flood: of it {anonymous_idle_mb:.1}, {anonymous_flooded_mb:.1} and {:.1} MB are no file's, the rest is the program as far as it \
         was run",
        process::anonymous_mb(pid)?
    ));
    notes.remark(format!(
        "flood: disk {disk_before_mb:.1} MB before it, {disk_flooded_mb:.1} right after, {disk_after_mb:.1} at rest \
         after it"
    ));
    Ok(Flood {
        rss_idle_mb,
        rss_after_mb: rss_flooded_mb.max(rss_rested_mb),
        disk_growth_mb: disk_after_mb - disk_before_mb,
    })
}

/// The data folder's size, once it has not changed for a while.
async fn disk_at_rest_mb(network: &Network) -> Result<f64> {
    let folder = network.merchant.data_dir();
    let mut resting: Option<(f64, tokio::time::Instant)> = None;
    let waited = eventually(
        "the data folder to come to rest",
        DISK_REST_DEADLINE,
        || {
            let rested = process::disk_mb(folder).map(|size| match resting {
                Some((before, since)) if (size - before).abs() < f64::EPSILON => {
                    (size, since.elapsed() >= DISK_REST)
                }
                _ => {
                    resting = Some((size, tokio::time::Instant::now()));
                    (size, false)
                }
            });
            async move {
                match rested {
                    Ok((size, true)) => Ok(Some(Ok(size))),
                    Ok((size, false)) => Err(format!("{size:.3} MB, just changed")),
                    Err(error) => Ok(Some(Err(error))),
                }
            }
        },
    );
    waited
        .await?
        .with_context(|| "failed to measure the data folder")
}
