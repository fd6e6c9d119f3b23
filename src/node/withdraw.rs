//! Automatic withdrawal: the node's key is hot, so what is above a threshold goes somewhere safer.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::amount::Msat;
use crate::causes::chain;
use crate::quote::{InvoiceSource, InvoiceSourceError};

use super::Node;
use super::operation::OperationError;
use super::payments::{Paying, Progress};
use super::wallet::{Fee, OnchainAmount};

/// What is left in the channels besides what is kept, for fees on the way: a hundredth of what is withdrawn.
const FEE_PART: u64 = 100;

/// Below it a withdrawal over the chain costs more than it saves, in sat.
const ONCHAIN_MIN_SAT: u64 = 10_000;

/// When something is withdrawn, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithdrawConfig {
    /// More than this is withdrawn: in the channels and on the chain, each by itself.
    pub above: Msat,
    /// What is left then.
    pub keep: Msat,
    /// How often it is looked at.
    pub every: Duration,
    /// Where to.
    pub to: WithdrawTo,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WithdrawTo {
    /// To this address: on-chain money by a transaction, that of the channels by a splice.
    Address(String),
    /// To invoices from this source: money of the channels only.
    Invoices(InvoiceSource),
}

/// Why nothing was withdrawn.
#[derive(Debug, thiserror::Error)]
enum WithdrawError {
    #[error(transparent)]
    Operation(#[from] OperationError),
    #[error(transparent)]
    Source(#[from] InvoiceSourceError),
    #[error("the payment failed")]
    Failed,
}

impl Node {
    /// Withdraws now and then, until told to stop.
    pub(super) async fn withdraw(&self, config: &WithdrawConfig, stop: &CancellationToken) {
        let mut tick = interval_at(Instant::now() + config.every, config.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            // What was sent goes on by itself if the program stops meanwhile.
            let withdrawn = tokio::select! {
                withdrawn = self.withdraw_once(config) => withdrawn,
                () = stop.cancelled() => return,
            };
            if let Err(error) = withdrawn {
                tracing::warn!(
                    "Nothing was withdrawn: {}. Next try in {:?}",
                    chain(&error),
                    config.every
                );
            }
        }
    }

    async fn withdraw_once(&self, config: &WithdrawConfig) -> Result<(), WithdrawError> {
        match &config.to {
            WithdrawTo::Invoices(source) => self.withdraw_to_invoice(config, source).await,
            WithdrawTo::Address(address) => {
                self.withdraw_from_wallet(config, address).await?;
                self.withdraw_from_channel(config, address).await
            }
        }
    }

    async fn withdraw_to_invoice(
        &self,
        config: &WithdrawConfig,
        source: &InvoiceSource,
    ) -> Result<(), WithdrawError> {
        let channels = self.channels().await?;
        let usable = channels.iter().filter(|channel| channel.usable);
        let sendable_msat = usable.map(|channel| channel.outbound_msat).sum();
        let Some(excess_msat) = excess(sendable_msat, config) else {
            return Ok(());
        };
        // Whole satoshi: many payees take no less.
        let fee_max_msat = excess_msat / FEE_PART;
        let amount_msat = (excess_msat - fee_max_msat) / 1_000 * 1_000;
        if amount_msat == 0 {
            return Ok(());
        }
        let paying = Paying {
            to: source.invoice(amount_msat).await?,
            amount_msat: Some(amount_msat),
            fee_max_msat: Some(fee_max_msat),
        };
        let payment = self.pay(self.payable(paying).await?).await?;
        match payment.status {
            Progress::Succeeded => {
                tracing::info!("Withdrew {amount_msat} msat to an invoice of {source}")
            }
            Progress::Pending => tracing::info!(
                "Withdrawing {amount_msat} msat to an invoice of {source}: under way"
            ),
            Progress::Failed => return Err(WithdrawError::Failed),
        }
        Ok(())
    }

    async fn withdraw_from_wallet(
        &self,
        config: &WithdrawConfig,
        address: &str,
    ) -> Result<(), WithdrawError> {
        let spendable_sat = self.onchain_balance().await?.spendable_sat;
        let Some(excess_msat) = excess(spendable_sat.saturating_mul(1_000), config) else {
            return Ok(());
        };
        let sat = excess_msat / 1_000;
        // All of it goes without change; a part of it leaves its fee to what is kept.
        let amount = if config.keep == Msat::ZERO {
            OnchainAmount::All
        } else {
            OnchainAmount::Sat(sat)
        };
        if sat < ONCHAIN_MIN_SAT {
            return Ok(());
        }
        let txid = self.send_onchain(address, amount, Fee::Usual).await?;
        tracing::info!("Withdrew {sat} sat of on-chain money in transaction {txid}");
        Ok(())
    }

    async fn withdraw_from_channel(
        &self,
        config: &WithdrawConfig,
        address: &str,
    ) -> Result<(), WithdrawError> {
        let channels = self.channels().await?;
        let fullest = channels.iter().filter(|channel| channel.usable);
        let Some(fullest) = fullest.max_by_key(|channel| channel.outbound_msat) else {
            return Ok(());
        };
        let Some(excess_msat) = excess(fullest.outbound_msat, config) else {
            return Ok(());
        };
        let sat = (excess_msat - excess_msat / FEE_PART) / 1_000;
        if sat < ONCHAIN_MIN_SAT {
            return Ok(());
        }
        self.splice_out(&fullest.channel_id, address, sat).await?;
        tracing::info!(
            "Withdrawing {sat} sat out of channel {}",
            fullest.channel_id
        );
        Ok(())
    }
}

/// What is too much.
fn excess(held_msat: u64, config: &WithdrawConfig) -> Option<u64> {
    (held_msat > config.above.msat()).then(|| held_msat - config.keep.msat().min(held_msat))
}
