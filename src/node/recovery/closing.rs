//! The first stage: waits until the peers have closed the old channels, by checking the outputs
//! that held the channels' money.

use std::collections::HashSet;
use std::sync::Arc;

use bitcoin::{Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use esplora_client::AsyncClient;
use lightning::ln::channelmanager::BREAKDOWN_TIMEOUT;
use tokio_util::sync::CancellationToken;

use crate::account::ledger::Ledger;
use crate::base::error_chain;
use crate::channel_state::copy::{Fence, MonitoredChannel, Sorted};
use crate::node::error::NodeError;

use super::progress::{OldChannel, Recoveries};
use super::proof;
use super::trail::{Spender, Trail, Whereabouts, is_commitment};

/// The number of confirmations after which LDK treats a transaction as final (its
/// `ANTI_REORG_DELAY`).
pub(super) const BURIED_CONFIRMATIONS: u32 = 6;

/// The age of a backup, in seconds, from which the recovery does not wait for a channel with an
/// unseen funding. A peer broadcasts a funding within seconds. The channel's monitor stays set
/// aside, in case the funding appears later.
const UNFUNDED_SECS: u64 = 3_600;

/// The age of a backup, in seconds, from which an unseen funding counts as never made: LDK gives up
/// a channel after 2,016 blocks.
const NEVER_FUNDED_SECS: u64 = 15 * 86_400;

/// The time in seconds that one request may take.
const TIMEOUT_SECS: u64 = 20;

/// The least balance, in sat, that gets its own output in a closing.
const DUST_SAT: u64 = 354;

/// The ledger's reason for the end of an old channel.
const REASON: &str = "closed by its peer after a restore from a backup";

/// The reasons why the state of the old channels could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    /// The chain source failed.
    #[error(transparent)]
    Source(#[from] esplora_client::Error),
    /// The chain source is behind the backup, probably because it is rebuilding its index. A
    /// transaction that it does not know may exist.
    #[error("it knows blocks up to {tip}, and the backup knew block {backup}")]
    Behind {
        /// The height of the chain source's tip.
        tip: u32,
        /// The height of the newest block that a monitor knows.
        backup: u32,
    },
}

/// The result of this stage.
#[derive(Debug)]
pub(super) struct Closed {
    /// The monitors to load or to retire.
    pub(super) sorted: Sorted,
    /// Whether the stage is complete. Otherwise it begins again, with the monitors that were put
    /// back.
    pub(super) is_over: bool,
}

/// Watches until a channel's closing is buried. Its monitor must not wait for other channels,
/// because it has limited time to punish an old state and to claim payments. Also ends when there
/// is nothing left to wait for; `None` if told to stop before.
pub(super) async fn watch(
    recovery: &Recoveries,
    fence: Fence,
    channels: Vec<MonitoredChannel>,
    ledger: &Arc<Ledger>,
    until: &CancellationToken,
) -> Result<Option<Closed>, NodeError> {
    let mut old: Vec<Watched> = channels.into_iter().map(Watched::new).collect();
    loop {
        let looked = tokio::select! {
            looked = look(recovery, &mut old) => looked,
            () = until.cancelled() => return Ok(None),
        };
        let happening = match &looked {
            Ok(()) => happening(&old, fence.put_back),
            Err(error) => format!(
                "The chain source cannot tell yet where the old channels are ({}).",
                error_chain::chain(error)
            ),
        };
        let shown = old.iter().map(|watched| watched.old.clone()).collect();
        recovery.tell(fence.closing(happening, shown));
        let backup_age_secs = recovery
            .core
            .clock
            .unix_secs()
            .saturating_sub(fence.backup_secs);
        let is_done = |watched: &Watched| watched.is_done(backup_age_secs);
        if looked.is_ok() {
            let is_over = recovery.is_to_leave() || old.iter().all(is_done);
            let sorted = sorted(&old, backup_age_secs);
            if is_over || !sorted.is_empty() {
                enter_closed(&old, ledger).await?;
                return Ok(Some(Closed { sorted, is_over }));
            }
        }
        if !recovery
            .look_again(recovery.core.config.chain.sync_interval, until)
            .await
        {
            return Ok(None);
        }
    }
}

/// An old channel, and its last known state.
#[derive(Debug)]
pub(super) struct Watched {
    channel: MonitoredChannel,
    pub(super) old: OldChannel,
    /// Whether the channel's monitor finds its closing.
    is_found: bool,
    /// Whether the chain source reports the closing as buried, but has no proof.
    is_unproven: bool,
    /// A proven closing, with the height that the chain source reported and the height of the
    /// proof.
    proven: Option<(Txid, u32, u32)>,
}

/// The inputs of one check.
struct View<'a> {
    client: &'a AsyncClient,
    /// The height of the tip. It is read first, so a newer block counts at the next check.
    tip: u32,
    network: Network,
    /// The scripts to which a peer's closing may pay our balance.
    scripts: &'a HashSet<ScriptBuf>,
}

/// Checks the state of each channel.
pub(super) async fn look(recovery: &Recoveries, old: &mut [Watched]) -> Result<(), LookError> {
    let client = client(recovery)?;
    let tip = client.get_height().await?;
    has_come_as_far(tip, old)?;
    let scripts = recovery.core.keys.closing_scripts().into_iter().collect();
    let view = View {
        client: &client,
        tip,
        network: recovery.core.config.network,
        scripts: &scripts,
    };
    for watched in old {
        watched.look(&view).await?;
    }
    Ok(())
}

/// Fails if a chain source with this tip cannot know all blocks that the backup knew.
fn has_come_as_far(tip: u32, old: &[Watched]) -> Result<(), LookError> {
    let heights = old.iter().map(|watched| watched.channel.height);
    match heights.max() {
        Some(backup) if tip < backup => Err(LookError::Behind { tip, backup }),
        Some(_) | None => Ok(()),
    }
}

impl Watched {
    pub(super) fn new(channel: MonitoredChannel) -> Self {
        Self {
            old: OldChannel::from(&channel),
            channel,
            is_found: true,
            is_unproven: false,
            proven: None,
        }
    }

    async fn look(&mut self, view: &View<'_>) -> Result<(), esplora_client::Error> {
        let channel = self.channel.clone();
        let mut trail = Trail::new(&channel);
        while let Some(outpoint) = trail.next() {
            trail.told(spender(view.client, &outpoint).await?);
        }
        match trail.end() {
            Whereabouts::Open(at) => {
                let is_moved = at != channel.funding;
                // For an unknown transaction, servers report that its outputs are unspent.
                let is_funded = is_moved || view.client.get_tx(&at.txid).await?.is_some();
                self.old = OldChannel {
                    is_funded,
                    moved_to: is_moved.then(|| at.to_string()),
                    ..OldChannel::from(&channel)
                };
                self.is_unproven = false;
            }
            Whereabouts::Closed { by, is_found } => self.closed(&by, is_found, view).await?,
        }
        Ok(())
    }

    async fn closed(
        &mut self,
        by: &Spender,
        is_found: bool,
        view: &View<'_>,
    ) -> Result<(), esplora_client::Error> {
        let txid = by.tx.compute_txid();
        self.is_unproven = false;
        let depth = |height: u32| (view.tip + 1).saturating_sub(height);
        let mut confirmations = by.height.map_or(0, depth);
        if let Some(said) = by.height.filter(|_| confirmations >= BURIED_CONFIRMATIONS) {
            let known = self
                .proven
                .filter(|known| (known.0, known.1) == (txid, said));
            if known.is_none() {
                let proven = proof::height(view.client, &txid, view.network).await?;
                self.proven = proven.map(|height| (txid, said, height));
            }
            let proven = self.proven.map(|(_, _, height)| depth(height));
            confirmations = proven.unwrap_or(BURIED_CONFIRMATIONS - 1);
            self.is_unproven = proven.is_none();
        }
        let is_new = self.old.closing_txid != Some(txid.to_string());
        self.old = OldChannel {
            closing_txid: Some(txid.to_string()),
            confirmations,
            pays_us_sat: pays_us_sat(&by.tx, view.scripts),
            deadline_height: by
                .height
                .filter(|_| is_commitment(&by.tx))
                .map(|height| height + u32::from(BREAKDOWN_TIMEOUT)),
            ..OldChannel::from(&self.channel)
        };
        self.is_found = is_found;
        if is_new {
            warn_of_our_own(&self.old, &by.tx);
        }
        Ok(())
    }

    /// The key under which the channel's monitor is stored.
    pub(super) fn key(&self) -> &String {
        &self.channel.key
    }

    pub(super) fn is_buried(&self) -> bool {
        self.old.confirmations >= BURIED_CONFIRMATIONS
    }

    /// Whether the recovery no longer waits for this channel.
    fn is_done(&self, backup_age_secs: u64) -> bool {
        self.is_buried() || (self.is_unfunded() && backup_age_secs > UNFUNDED_SECS)
    }

    /// Whether the channel may never have been funded. One server without the transaction is not
    /// enough: a channel whose state has changed was funded. Its peer may close it with an old
    /// state, which only its monitor can punish.
    fn is_unfunded(&self) -> bool {
        !self.old.is_funded && self.channel.update_id == 0
    }
}

/// Decides which monitors of these channels to load and which to retire.
pub(super) fn sorted(old: &[Watched], backup_age_secs: u64) -> Sorted {
    let mut sorted = Sorted::default();
    for watched in old {
        let key = watched.channel.key.clone();
        if watched.is_buried() && watched.is_found {
            sorted.put_back.push(key);
        } else if watched.is_buried() {
            tracing::warn!(
                "Channel {} was spliced after the backup, and then closed: what its closing pays us is searched for, its monitor is of no \
                 use any more",
                watched.old.channel_id
            );
            sorted.retired.push(key);
        } else if watched.is_unfunded() && backup_age_secs > NEVER_FUNDED_SECS {
            tracing::warn!("Channel {} was never funded", watched.old.channel_id);
            sorted.retired.push(key);
        }
    }
    sorted
}

/// Records the closings that are final in the ledger. The node no longer knows these channels, so
/// it makes no event.
pub(super) async fn enter_closed(old: &[Watched], ledger: &Arc<Ledger>) -> Result<(), NodeError> {
    let closed = old.iter().filter(|watched| watched.is_buried());
    let ids: Vec<_> = closed.map(|watched| watched.channel.channel_id).collect();
    let ledger = Arc::clone(ledger);
    let entered = tokio::task::spawn_blocking(move || {
        ids.into_iter()
            .try_for_each(|id| ledger.close_channel(id, REASON).map(drop))
    });
    entered.await.map_err(NodeError::Panicked)??;
    Ok(())
}

/// A client for the node's chain source.
pub(super) fn client(recovery: &Recoveries) -> Result<AsyncClient, esplora_client::Error> {
    let relay = recovery.chain.relay();
    let relay = relay.expect("a recovery does not begin without an Esplora API");
    esplora_client::Builder::new(&relay.url_for_searches())
        .timeout(TIMEOUT_SECS)
        .build_async()
}

/// The transaction that spends this output, if there is one.
async fn spender(
    client: &AsyncClient,
    outpoint: &OutPoint,
) -> Result<Option<Spender>, esplora_client::Error> {
    let index = u64::from(outpoint.vout);
    let spending = client.get_output_status(&outpoint.txid, index).await?;
    let Some(spending) = spending.filter(|spending| spending.spent) else {
        return Ok(None);
    };
    let Some(txid) = spending.txid else {
        return Ok(None);
    };
    let status = spending.status.filter(|status| status.confirmed);
    let height = status.and_then(|status| status.block_height);
    let tx = client.get_tx(&txid).await?;
    Ok(tx.map(|tx| Spender { tx, height }))
}

fn pays_us_sat(closing: &Transaction, scripts: &HashSet<ScriptBuf>) -> Option<u64> {
    let ours = |output: &&TxOut| scripts.contains(&output.script_pubkey);
    let ours: Vec<_> = closing.output.iter().filter(ours).collect();
    let sat = ours.iter().map(|output| output.value.to_sat());
    (!ours.is_empty()).then(|| sat.sum())
}

/// Logs an error if a channel was closed by a commitment that pays us at none of a peer's scripts,
/// so that it may be our own. Only a monitor that knows the commitment's state finds our balance in
/// it.
fn warn_of_our_own(old: &OldChannel, closing: &Transaction) {
    if is_commitment(closing) && old.pays_us_sat.is_none() && old.backup_balance_sat > DUST_SAT {
        tracing::error!(
            "Channel {} was closed by transaction {}, which pays us nothing that the words alone tell. If this node closed the channel \
             itself, what is ours comes back only if the backup was made after that: look for a newer one, and keep the words",
            old.channel_id,
            closing.compute_txid()
        );
    }
}

fn happening(old: &[Watched], put_back: usize) -> String {
    let count = old.len() + put_back;
    let buried = put_back + old.iter().filter(|watched| watched.is_buried()).count();
    let mut text = format!("Of {count} old channels {buried} are closed for good.");
    let waiting: Vec<&str> = old
        .iter()
        .map(|watched| &watched.old)
        .filter(|old| old.closing_txid.is_none() && old.is_funded)
        .map(|old| &*old.counterparty)
        .collect();
    if !waiting.is_empty() {
        text.push_str(&format!(
            " Their peers close them when they connect; not closed yet: with {}. If a peer does not come back, ask its operator to \
             force-close the channel, or go on without it: `tollhouse backup leave`.",
            waiting.join(", ")
        ));
    }
    let young = old.iter().filter(|watched| !watched.is_buried());
    if let Some(height) = young
        .filter_map(|watched| watched.old.deadline_height)
        .min()
    {
        text.push_str(&format!(
            " Each is looked after from its sixth confirmation on; what a peer takes by an old state can be taken back until block {height}."
        ));
    }
    let of = |is_so: fn(&Watched) -> bool| old.iter().filter(|watched| is_so(watched)).count();
    let moved = of(|watched| watched.old.moved_to.is_some());
    if moved > 0 {
        text.push_str(&format!(
            " {moved} went on elsewhere by a splice, or were closed in agreement with a peer that holds its money by several keys."
        ));
    }
    let unproven = of(|watched| watched.is_unproven);
    if unproven > 0 {
        text.push_str(&format!(
            " Of {unproven} the chain source says so without a proof, which is not enough: name another one (node.chain.esplora)."
        ));
    }
    let unfunded = of(Watched::is_unfunded);
    if unfunded > 0 {
        text.push_str(&format!(
            " Of {unfunded} the chain source does not know the funding transaction: an hour after the backup they are not waited for."
        ));
    }
    let unknown = of(|watched| !watched.old.is_funded && !watched.is_unfunded());
    if unknown > 0 {
        text.push_str(&format!(
            " Of {unknown} the chain source does not know the funding transaction, though they were in use: name another one \
             (node.chain.esplora), or go on without them: `tollhouse backup leave`."
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    fn watched(key: &str) -> Watched {
        Watched::new(MonitoredChannel {
            key: key.to_owned(),
            channel_id: [1; 32],
            counterparty: "02".to_owned(),
            funding: OutPoint::new(Txid::from_byte_array([1; 32]), 0),
            update_id: 7,
            height: 100,
            balance_sat: 1_000,
            is_open: true,
            splices: Vec::new(),
        })
    }

    fn closed(key: &str, confirmations: u32, is_found: bool) -> Watched {
        let mut watched = watched(key);
        watched.old.closing_txid = Some("aa".to_owned());
        watched.old.confirmations = confirmations;
        watched.old.deadline_height = Some(244);
        watched.is_found = is_found;
        watched
    }

    #[test]
    fn a_monitor_is_put_back_only_when_the_closing_that_it_finds_is_buried() {
        let old = [
            watched("open"),
            closed("young", 5, true),
            closed("buried", 6, true),
            closed("spliced", 6, false),
            unknown("unfunded", 0),
            unknown("used", 1),
        ];
        let mut expected = Sorted {
            put_back: vec!["buried".to_owned()],
            retired: vec!["spliced".to_owned()],
        };
        assert_eq!(sorted(&old, UNFUNDED_SECS + 1), expected);
        expected.retired.push("unfunded".to_owned());
        assert_eq!(sorted(&old, NEVER_FUNDED_SECS + 1), expected);
    }

    /// A channel with an unknown funding transaction, after this many updates.
    fn unknown(key: &str, update_id: u64) -> Watched {
        let mut watched = watched(key);
        watched.old.is_funded = false;
        watched.channel.update_id = update_id;
        watched
    }

    #[test]
    fn a_channel_that_was_in_use_is_waited_for_whatever_a_server_does_not_know() {
        let unfunded = unknown("unfunded", 0);
        assert!(!unfunded.is_done(UNFUNDED_SECS));
        assert!(unfunded.is_done(UNFUNDED_SECS + 1));
        let used = unknown("used", 1);
        assert!(!used.is_done(NEVER_FUNDED_SECS + 1));
        let told = happening(&[used], 0);
        assert!(told.contains("though they were in use"), "{told}");
        assert!(!told.contains("an hour after"), "{told}");
        assert!(closed("buried", 6, false).is_done(0));
    }

    #[test]
    fn a_chain_source_that_has_not_come_as_far_as_the_backup_is_not_believed() {
        let old = [watched("one"), watched("two")];
        assert!(has_come_as_far(100, &old).is_ok());
        assert!(has_come_as_far(0, &[]).is_ok());
        let behind = has_come_as_far(99, &old).unwrap_err().to_string();
        assert!(behind.contains("99") && behind.contains("100"), "{behind}");
    }

    #[test]
    fn the_operator_is_told_until_when_an_old_state_can_be_punished() {
        let told = happening(&[watched("open"), closed("young", 1, true)], 2);
        assert!(
            told.starts_with("Of 4 old channels 2 are closed for good."),
            "{told}"
        );
        assert!(told.contains("until block 244"), "{told}");
    }
}
