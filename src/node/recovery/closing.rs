//! The first stage: waiting until the peers have closed the old channels, by looking at the outputs that held their money.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bitcoin::{ScriptBuf, Transaction, TxOut};
use esplora_client::AsyncClient;
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::ledger::Ledger;
use crate::node::state::{self, Fence, MonitoredChannel};
use crate::node::{Node, NodeError};

use super::{OldChannel, look_again};

/// Confirmations after which LDK itself takes a transaction for final (its `ANTI_REORG_DELAY`).
pub(super) const BURIED_CONFIRMATIONS: u32 = 6;

/// After so long a funding that nobody has seen will not come: LDK gives up a channel after 2,016 blocks.
const UNFUNDED_SECS: u64 = 15 * 86_400;

/// How long one question may take.
const TIMEOUT_SECS: u64 = 20;

/// Less than this has no output of its own in a closing.
const DUST_SAT: u64 = 354;

/// What the books say of such a channel.
const REASON: &str = "closed by its peer after a restore from a backup";

/// Watches until every old channel's closing is buried, or until the operator does not want to wait for the others. The keys of
/// those that are; `None` if told to stop before.
pub(super) async fn watch(
    node: &Node,
    fence: Fence,
    channels: &[MonitoredChannel],
    ledger: &Arc<Ledger>,
    until: &CancellationToken,
) -> Result<Option<Vec<String>>, NodeError> {
    let mut old: Vec<OldChannel> = channels.iter().map(OldChannel::from).collect();
    let scripts = node.keys.closing_scripts().into_iter().collect();
    loop {
        let looked = tokio::select! {
            looked = look(node, channels, &mut old, &scripts) => looked,
            () = until.cancelled() => return Ok(None),
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
        let is_to_leave = node.is_to_leave.load(Ordering::Relaxed);
        if looked.is_ok() && (is_to_leave || old.iter().all(is_done)) {
            return Ok(Some(closed(channels, &old, ledger).await?));
        }
        if !look_again(node, node.config.chain.sync_interval, until).await {
            return Ok(None);
        }
    }
}

/// Looks once whether channels that a recovery went on without have been closed since. Those are swept as any closed channel
/// is; of the others the operator is reminded.
pub(super) async fn return_to_left(node: &Node, ledger: &Arc<Ledger>) -> Result<(), NodeError> {
    let channels = super::set_aside(node).await?;
    if channels.is_empty() {
        return Ok(());
    }
    let mut old: Vec<OldChannel> = channels.iter().map(OldChannel::from).collect();
    let scripts = node.keys.closing_scripts().into_iter().collect();
    let looked = match node.chain.relay() {
        Some(_) => look(node, &channels, &mut old, &scripts)
            .await
            .map(|()| true),
        // Only an index of the chain knows; a start with one asks again.
        None => Ok(false),
    };
    match looked {
        Ok(false) => {}
        Ok(true) => {
            let keys = closed(&channels, &old, ledger).await?;
            super::on(node.config.folder.clone(), move |folder| {
                state::put_back(&folder, &keys)
            })
            .await?;
            old.retain(|channel| !is_buried(channel));
        }
        Err(error) => tracing::warn!(
            "The chain source cannot be asked about old channels that were left unclosed, the next start asks again: {}",
            causes::chain(&error)
        ),
    }
    for channel in &old {
        tracing::warn!(
            "Channel {} with {} is left unclosed since the recovery: when its peer has closed it, a restart sweeps what is ours",
            channel.channel_id,
            channel.counterparty
        );
    }
    *node.left.lock().unwrap_or_else(PoisonError::into_inner) = old;
    Ok(())
}

/// The keys of those that are closed for good. The books are told: the node, which no longer knows them, makes no event.
async fn closed(
    channels: &[MonitoredChannel],
    old: &[OldChannel],
    ledger: &Arc<Ledger>,
) -> Result<Vec<String>, NodeError> {
    let closed = channels.iter().zip(old);
    let closed = closed.filter(|(_, old)| is_buried(old));
    let (keys, ids): (Vec<_>, Vec<_>) = closed
        .map(|(channel, _)| (channel.key.clone(), channel.channel_id))
        .unzip();
    let ledger = Arc::clone(ledger);
    let entered = tokio::task::spawn_blocking(move || {
        ids.into_iter()
            .try_for_each(|id| ledger.close_channel(id, REASON).map(drop))
    });
    entered.await.map_err(NodeError::Panicked)??;
    Ok(keys)
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
    scripts: &HashSet<ScriptBuf>,
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
        let txid = spending.and_then(|spending| spending.txid);
        let is_another = old.closing_txid != txid.map(|txid| txid.to_string());
        if let Some(txid) = txid.filter(|_| is_another)
            && let Some(tx) = client.get_tx(&txid).await?
        {
            old.pays_us_sat = pays_us_sat(&tx, scripts);
            warn_of_our_own(old, &tx);
        }
        old.closing_txid = txid.map(|txid| txid.to_string());
        // The tip was asked for first: a block that came since counts next time.
        old.confirmations = height.map_or(0, |height| (tip + 1).saturating_sub(height));
    }
    Ok(())
}

fn pays_us_sat(closing: &Transaction, scripts: &HashSet<ScriptBuf>) -> Option<u64> {
    let ours = |output: &&TxOut| scripts.contains(&output.script_pubkey);
    let ours: Vec<_> = closing.output.iter().filter(ours).collect();
    let sat = ours.iter().map(|output| output.value.to_sat());
    (!ours.is_empty()).then(|| sat.sum())
}

/// Says so if a channel's last state was broadcast, and not by its peer: what is ours in that is found by a monitor that knows the
/// state, and by nothing else.
fn warn_of_our_own(old: &OldChannel, closing: &Transaction) {
    // The marks of a commitment (BOLT 3), as against a closing in agreement.
    let is_commitment = closing.lock_time.to_consensus_u32() >> 24 == 0x20
        && closing.input[0].sequence.to_consensus_u32() >> 24 == 0x80;
    if is_commitment && old.pays_us_sat.is_none() && old.backup_balance_sat > DUST_SAT {
        tracing::error!(
            "Channel {} was closed by transaction {}, which pays us nothing that the words alone tell. If this node closed the channel \
             itself, what is ours comes back only if the backup was made after that: look for a newer one, and keep the words",
            old.channel_id,
            closing.compute_txid()
        );
    }
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
             force-close the channel, or go on without it: `tollhouse backup leave`.",
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
