//! What a sale costs the disk, and an idle hour the chain source.

use std::time::Duration;

use anyhow::{Result, bail};
use http::StatusCode;
use regtest::network::Network;
use tokio::time::{Instant, sleep_until};

use super::goods::SMALL;
use super::{Effort, Notes, process};

/// Until what a sale leaves behind is written: counts go to the journal every second, challenges to the store after two.
const BEHIND: Duration = Duration::from_secs(4);
/// As little as this, bytes, is written in that time by a program that has nothing left to write: what a look at the chain notes.
const REST_BYTES: u64 = 64 * 1024;
/// When to give up on that: 20,000 challenges that were made before are written 500 a second.
const REST_DEADLINE: Duration = Duration::from_secs(120);
/// Settings as shipped where the harness's own are faster: how often the node looks at the chain.
const SHIPPED: &str = "node.chain.sync_interval = \"60s\"\n";
/// Seconds of an hour.
const HOUR_SECS: f64 = 3_600.0;

/// Bytes that the process wrote for each of some sales in a row, everything included: node, journal, store, log.
pub(super) async fn bytes_per_sale(
    network: &Network,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<f64> {
    notes.progress(&format!("bytes written during {} sales", effort.purchases));
    let pid = process::pid(network)?;
    until_at_rest(pid).await?;
    let before = process::written_bytes(pid)?;
    for _ in 0..effort.purchases {
        let purchase = network.buy(SMALL.sold).await?;
        if purchase.answer.status != StatusCode::OK {
            bail!("a purchase ended with {}", purchase.answer.status);
        }
    }
    sleep_until(Instant::now() + BEHIND).await;
    let written = process::written_bytes(pid)? - before;
    let sleeping = process::written_bytes(pid)?;
    sleep_until(Instant::now() + BEHIND).await;
    let idle = process::written_bytes(pid)? - sleeping;
    notes.remark(format!(
        "disk: {written} bytes written for {} sales and {} s after them; {idle} in as many seconds without one",
        effort.purchases,
        BEHIND.as_secs()
    ));
    Ok(written as f64 / effort.purchases as f64)
}

/// Waits until everything is written that earlier measurements left to be written behind.
async fn until_at_rest(pid: u32) -> Result<()> {
    let deadline = Instant::now() + REST_DEADLINE;
    loop {
        let before = process::written_bytes(pid)?;
        sleep_until(Instant::now() + BEHIND).await;
        let written = process::written_bytes(pid)? - before;
        if written <= REST_BYTES {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("the merchant still writes {written} bytes in {BEHIND:?} without a request");
        }
    }
}

/// An hour without a sale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    /// Requests that the chain source gets.
    pub(super) requests: f64,
    /// What is written to the disk, MB.
    pub(super) written_mb: f64,
}

/// Both counted over some time, and scaled.
pub(super) async fn idle_hour(
    network: &mut Network,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<Idle> {
    network.merchant.settings_mut().extra = SHIPPED.to_owned();
    network.merchant.restart().await?;
    network.merchant.wait_up().await?;
    if network.ensure_channel().await? > 0 {
        bail!("the channel did not survive the restart");
    }
    notes.progress(&format!(
        "requests to the chain source, and writes, in {} s without a sale",
        effort.idle.as_secs()
    ));
    // The payer asks only when it is told to: what comes in is the merchant's.
    let pid = process::pid(network)?;
    until_at_rest(pid).await?;
    let (before, written) = (network.esplora.requests(), process::written_bytes(pid)?);
    sleep_until(Instant::now() + effort.idle).await;
    let requests = network.esplora.requests() - before;
    let written = process::written_bytes(pid)? - written;
    notes.remark(format!(
        "idle: {requests} requests and {written} bytes in {} s with the shipped interval and one channel, scaled to an hour",
        effort.idle.as_secs()
    ));
    network.merchant.settings_mut().extra.clear();
    let scale = HOUR_SECS / effort.idle.as_secs_f64();
    Ok(Idle {
        requests: requests as f64 * scale,
        written_mb: super::megabytes(written) * scale,
    })
}
