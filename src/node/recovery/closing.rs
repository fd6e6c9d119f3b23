//! The first stage: waiting until the peers have closed the old channels, by looking at the outputs that held their money.

use std::sync::Arc;

use esplora_client::AsyncClient;
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::ledger::Ledger;
use crate::node::state::{Fence, MonitoredChannel};
use crate::node::{Node, NodeError};

use super::{OldChannel, look_again};

/// Confirmations after which LDK itself takes a transaction for final (its `ANTI_REORG_DELAY`).
pub(super) const BURIED_CONFIRMATIONS: u32 = 6;

/// After so long a funding that nobody has seen will not come: LDK gives up a channel after 2,016 blocks.
const UNFUNDED_SECS: u64 = 15 * 86_400;

/// How long one question may take.
const TIMEOUT_SECS: u64 = 20;

/// What the books say of such a channel.
const REASON: &str = "closed by its peer after a restore from a backup";

/// Watches until every old channel's closing is buried; `false` if told to stop before.
pub(super) async fn watch(
    node: &Node,
    fence: Fence,
    channels: &[MonitoredChannel],
    ledger: &Arc<Ledger>,
    until: &CancellationToken,
) -> Result<bool, NodeError> {
    let mut old: Vec<OldChannel> = channels.iter().map(OldChannel::from).collect();
    loop {
        let looked = tokio::select! {
            looked = look(node, channels, &mut old) => looked,
            () = until.cancelled() => return Ok(false),
        };
        let happening = match &looked {
            Ok(()) => happening(&old),
            Err(error) => format!(
                "The chain source cannot be asked about the old channels ({}).",
                causes::chain(error)
            ),
        };
        node.tell_recovery(fence.closing(happening, old.clone()));
        let backup_age_secs = node.clock.unix_secs().saturating_sub(fence.backup_secs);
        let is_done = |channel: &OldChannel| {
            is_buried(channel) || (!channel.is_funded && backup_age_secs > UNFUNDED_SECS)
        };
        if looked.is_ok() && old.iter().all(is_done) {
            enter(channels, ledger).await?;
            return Ok(true);
        }
        if !look_again(node, node.config.chain.sync_interval, until).await {
            return Ok(false);
        }
    }
}

/// A client of the node's chain source.
pub(super) fn client(node: &Node) -> Result<AsyncClient, esplora_client::Error> {
    let relay = node.chain.relay();
    let relay = relay.expect("a recovery does not begin without an Esplora API");
    esplora_client::Builder::new(relay.url())
        .timeout(TIMEOUT_SECS)
        .build_async()
}

/// Looks for the transaction that spent each channel's funding.
async fn look(
    node: &Node,
    channels: &[MonitoredChannel],
    old: &mut [OldChannel],
) -> Result<(), esplora_client::Error> {
    let client = client(node)?;
    let tip = client.get_height().await?;
    for (channel, old) in channels.iter().zip(old) {
        let index = u64::from(channel.funding.vout);
        let spending = client
            .get_output_status(&channel.funding.txid, index)
            .await?;
        old.is_funded = spending.is_some();
        let spending = spending.filter(|spending| spending.spent);
        let height = spending
            .as_ref()
            .and_then(|spending| spending.status.as_ref())
            .filter(|status| status.confirmed)
            .and_then(|status| status.block_height);
        old.closing_txid = spending.and_then(|spending| Some(spending.txid?.to_string()));
        // The tip was asked for first: a block that came since counts next time.
        old.confirmations = height.map_or(0, |height| (tip + 1).saturating_sub(height));
    }
    Ok(())
}

fn happening(old: &[OldChannel]) -> String {
    let count = old.len();
    let buried = old.iter().filter(|channel| is_buried(channel)).count();
    let waiting: Vec<&str> = old
        .iter()
        .filter(|channel| channel.closing_txid.is_none() && channel.is_funded)
        .map(|channel| &*channel.counterparty)
        .collect();
    let unfunded = old.iter().filter(|channel| !channel.is_funded).count();
    let mut text = format!("Of {count} old channels {buried} are closed for good.");
    if !waiting.is_empty() {
        text.push_str(&format!(
            " Their peers close them when they connect; not closed yet: with {}. If a peer does not come back, ask its operator to \
             force-close the channel.",
            waiting.join(", ")
        ));
    }
    if unfunded > 0 {
        text.push_str(&format!(
            " Of {unfunded} the chain source does not know the funding transaction: if it still does not 15 days after the backup, they \
             were never opened."
        ));
    }
    text
}

fn is_buried(channel: &OldChannel) -> bool {
    channel.confirmations >= BURIED_CONFIRMATIONS
}

/// Enters in the books that the channels are no more: the node, which no longer knows them, makes no event.
async fn enter(channels: &[MonitoredChannel], ledger: &Arc<Ledger>) -> Result<(), NodeError> {
    let ids: Vec<_> = channels.iter().map(|channel| channel.channel_id).collect();
    let ledger = Arc::clone(ledger);
    let entered = tokio::task::spawn_blocking(move || {
        ids.into_iter()
            .try_for_each(|id| ledger.close_channel(id, REASON).map(drop))
    });
    Ok(entered.await.map_err(NodeError::Panicked)??)
}
