//! A channel, as its monitor knows it.

use bitcoin::OutPoint;
use lightning::chain::channelmonitor::{Balance, ChannelMonitor};
use lightning::sign::InMemorySigner;

/// A channel, as its monitor knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitoredChannel {
    /// The key of its monitor.
    pub key: String,
    /// The channel's id.
    pub channel_id: [u8; 32],
    /// The node id of the channel's peer, hex.
    pub counterparty: String,
    /// The output that holds the channel's money.
    pub funding: OutPoint,
    /// The number of updates that its monitor has seen.
    pub update_id: u64,
    /// The height of the chain that its monitor knows.
    pub height: u32,
    /// Our balance in it, according to its monitor.
    pub balance_sat: u64,
    /// Whether the channel is open: its monitor has not seen a closing.
    pub is_open: bool,
    /// The funding outputs of pending splices.
    pub splices: Vec<OutPoint>,
}

impl MonitoredChannel {
    pub(super) fn of(monitor: &ChannelMonitor<InMemorySigner>) -> Self {
        let balances = monitor.get_claimable_balances();
        let sat = balances.iter().map(Balance::claimable_amount_satoshis);
        let funding = monitor.get_funding_txo().into_bitcoin_outpoint();
        // The monitor of an open channel watches its funding output and those of its splices. Each
        // of them is the only watched output of its transaction.
        let watched = monitor.get_outputs_to_watch().into_iter();
        let splices = watched.filter_map(|(txid, outputs)| match outputs.as_slice() {
            [(vout, _)] if txid != funding.txid => Some(OutPoint::new(txid, *vout)),
            [..] => None,
        });
        Self {
            key: monitor.persistence_key().to_string(),
            channel_id: monitor.channel_id().0,
            counterparty: monitor.get_counterparty_node_id().to_string(),
            funding,
            update_id: monitor.get_latest_update_id(),
            height: monitor.current_best_block().height,
            balance_sat: sat.sum(),
            is_open: balances
                .iter()
                .any(|balance| matches!(balance, Balance::ClaimableOnChannelClose { .. })),
            splices: splices.collect(),
        }
    }
}
