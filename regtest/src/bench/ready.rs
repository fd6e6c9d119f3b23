//! How long a shop is closed over a restart: from the start of the process until it says that it can be paid.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regtest::network::Network;
use tokio::time::interval;

use super::purchases::connect;
use super::{Effort, Notes, median, millis};

/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// When to give up.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// What the further channels hold, in sat: fifty of them are a quarter of what the payer has.
const CHANNEL_SAT: u64 = 500_000;

/// The time with as many channels as there are, whose other end connects as soon as it can.
pub(super) async fn ready_ms(
    network: &mut Network,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<f64> {
    let channels = network.payer.channels().len();
    let mut rounds = Vec::new();
    for _ in 0..effort.rounds {
        notes.progress(&format!(
            "stopping the merchant, starting it, waiting until it is ready; it has {channels} channels"
        ));
        let status = network.merchant.terminate().await?;
        if !status.success() {
            bail!("the merchant ended with {status}");
        }
        let begun = Instant::now();
        network.merchant.restart().await?;
        let both = async { tokio::try_join!(until_ready(network, begun), connect(network, begun)) };
        let started = tokio::time::timeout(READY_DEADLINE, both).await;
        let (ready, connected) =
            started.with_context(|| format!("waited {READY_DEADLINE:?} for /ready"))??;
        notes.remark(format!(
            "ready after {:.0} ms with {channels} channels; the payer was connected after {:.0} ms",
            millis(ready),
            millis(connected)
        ));
        rounds.push(millis(ready));
        if network.ensure_channel().await? > 0 {
            bail!("the channels did not survive the restart");
        }
    }
    Ok(median(rounds))
}

/// Opens channels until there are so many; the merchant is told to accept them of one peer.
pub(super) async fn grow(network: &mut Network, channels: usize, notes: &mut Notes) -> Result<()> {
    let more = channels.saturating_sub(network.payer.channels().len());
    let limits = [
        "pending_max",
        "pending_per_peer",
        "channels_max",
        "channels_per_peer",
        "channels_per_network",
    ];
    let limits = limits.map(|limit| format!("node.peers.{limit} = {}\n", channels + 1));
    network.merchant.settings_mut().extra = limits.concat();
    network.merchant.restart().await?;
    network.merchant.wait_up().await?;
    if network.ensure_channel().await? > 0 {
        bail!("the channels did not survive the restart");
    }
    notes.progress(&format!("opening {more} more channels"));
    network.open_channels(more, CHANNEL_SAT).await
}

/// When the operator's listener said so.
async fn until_ready(network: &Network, begun: Instant) -> Result<Duration> {
    let mut pause = interval(LOOK_EVERY);
    loop {
        pause.tick().await;
        // Nobody listens at first.
        if let Ok(answer) = network.merchant.admin().ready().await
            && answer.ready
        {
            return Ok(begun.elapsed());
        }
    }
}
