//! Automatic withdrawal. The node's key is hot, so money above a threshold goes to a safer place.

use std::sync::Arc;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::base::amount::Msat;
use crate::base::error_chain::chain;
use crate::sell::quote::{InvoiceSource, InvoiceSourceError};

use super::chain::source::Chain;
use super::channel_error::ChannelError;
use super::channels::Channels;
use super::config::{WithdrawConfig, WithdrawTo};
use super::core::Core;
use super::operation::OperationError;
use super::payment::Progress;
use super::payment_error::PaymentError;
use super::payments::{Paying, Payments};
use super::wallet::{Fee, OnchainAmount, USUAL_BLOCKS, Wallet};
use super::wallet_error::WalletError;

/// The share of a withdrawal that stays in the channels for fees, besides the amount to keep: a
/// hundredth.
const FEE_PART: u64 = 100;

/// The least on-chain withdrawal, in sat. A smaller one costs more than it is worth.
const ONCHAIN_MIN_SAT: u64 = 10_000;

/// The assumed size of an on-chain withdrawal, in virtual bytes: six inputs, one output.
const ONCHAIN_VBYTES: u64 = 500;

/// The assumed fee rate if only ldk-node knows the real one, in sat per virtual byte. The
/// withdrawal leaves room for that fee.
const FEE_RATE_UNKNOWN: u64 = 20;

/// The largest share of a withdrawal that the on-chain fee may take: a twentieth. The withdrawal
/// can wait for lower fees.
const ONCHAIN_FEE_PART: u64 = 20;

/// A withdrawal that was started, and perhaps completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Withdrawal {
    /// `invoice`, `onchain` or `splice`.
    pub by: &'static str,
    /// The amount in msat, including the fee if nothing is to stay in the wallet.
    pub amount_msat: u64,
    /// The id of the payment, transaction or channel, hex.
    pub id: String,
    /// Whether the withdrawal has arrived, as far as the node can tell. Otherwise it is on its way.
    pub is_done: bool,
}

/// The reasons why nothing was withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    /// The settings do not ask for withdrawals.
    #[error("there is no `[node.withdraw]` in the settings")]
    NotWanted,
    /// The node did not do it.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The wallet did not send.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The channel was not spliced.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The invoice was not paid.
    #[error(transparent)]
    PaymentRefused(#[from] PaymentError),
    /// The source gave no invoice.
    #[error(transparent)]
    Source(#[from] InvoiceSourceError),
    /// On-chain fees are too high now.
    #[error(
        "the chain takes some {fee_sat} sat now for a withdrawal of {amount_sat} sat: it is done when that is less than a twentieth"
    )]
    Dear {
        /// The approximate fee.
        fee_sat: u64,
        /// The amount to withdraw.
        amount_sat: u64,
    },
    /// The payment was sent and failed.
    #[error("the payment failed: nothing left the channels")]
    Failed,
}

/// The automatic withdrawal.
#[derive(Debug)]
pub struct Withdrawals {
    core: Arc<Core>,
    chain: Arc<Chain>,
    wallet: Arc<Wallet>,
    channels: Arc<Channels>,
    payments: Arc<Payments>,
    /// Held during a withdrawal, so that only one runs at a time.
    running: tokio::sync::Mutex<()>,
}

impl Withdrawals {
    pub(super) fn new(
        core: &Arc<Core>,
        chain: &Arc<Chain>,
        wallet: &Arc<Wallet>,
        channels: &Arc<Channels>,
        payments: &Arc<Payments>,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(chain),
            wallet: Arc::clone(wallet),
            channels: Arc::clone(channels),
            payments: Arc::clone(payments),
            running: tokio::sync::Mutex::default(),
        }
    }

    /// Withdraws at each interval, until told to stop.
    pub(super) async fn keep(&self, config: &WithdrawConfig, stop: &CancellationToken) {
        let mut tick = interval_at(Instant::now() + config.every, config.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            // A payment that was sent continues by itself if the program stops meanwhile.
            let withdrawn = tokio::select! {
                withdrawn = self.withdraw_by(config) => withdrawn,
                () = stop.cancelled() => return,
            };
            if let Err(error) = withdrawn {
                tracing::warn!(
                    "A withdrawal was not done: {}. Next try in {:?}",
                    chain(&error),
                    config.every
                );
            }
        }
    }

    /// Withdraws the amounts that are above the threshold now.
    pub async fn now(&self) -> Result<Vec<Withdrawal>, WithdrawError> {
        let config = self.core.config.withdraw.as_ref();
        self.withdraw_by(config.ok_or(WithdrawError::NotWanted)?)
            .await
    }

    async fn withdraw_by(&self, config: &WithdrawConfig) -> Result<Vec<Withdrawal>, WithdrawError> {
        // Two withdrawals at once would each withdraw the whole excess.
        let _one_at_a_time = self.running.lock().await;
        let (withdrawn, fault) = match &config.to {
            WithdrawTo::Invoices(source) => (vec![self.pay_invoice(config, source).await?], None),
            WithdrawTo::Address(address) => {
                let sent = self.send_from_wallet(config, address).await;
                // The channels are tried even if the wallet's withdrawal failed.
                let spliced = self.splice_from_channel(config, address).await;
                match (sent, spliced) {
                    (Ok(sent), Ok(spliced)) => (vec![sent, spliced], None),
                    (Ok(done), Err(fault)) | (Err(fault), Ok(done)) => (vec![done], Some(fault)),
                    (Err(fault), Err(_)) => (Vec::new(), Some(fault)),
                }
            }
        };
        let withdrawn: Vec<_> = withdrawn.into_iter().flatten().collect();
        for Withdrawal {
            by,
            amount_msat,
            id,
            ..
        } in &withdrawn
        {
            tracing::info!(amount_msat, "Withdrew {amount_msat} msat, by {by}: {id}");
        }
        match fault {
            Some(fault) if withdrawn.is_empty() => Err(fault),
            Some(fault) => {
                tracing::warn!("Another withdrawal was not done: {}", chain(&fault));
                Ok(withdrawn)
            }
            None => Ok(withdrawn),
        }
    }

    /// The approximate on-chain fee for withdrawing this amount; an error if the fee is too high.
    async fn fee_for(&self, amount_sat: u64) -> Result<u64, WithdrawError> {
        let Some(rate) = self.chain.fee_rate_within(USUAL_BLOCKS).await else {
            return Ok(FEE_RATE_UNKNOWN * ONCHAIN_VBYTES);
        };
        fee_at(rate, amount_sat)
    }

    async fn pay_invoice(
        &self,
        config: &WithdrawConfig,
        source: &InvoiceSource,
    ) -> Result<Option<Withdrawal>, WithdrawError> {
        let channels = self.channels.list().await?;
        let usable = channels.iter().filter(|channel| channel.usable);
        let sendable_msat = usable.map(|channel| channel.outbound_msat).sum();
        let Some(excess_msat) = excess(sendable_msat, config) else {
            return Ok(None);
        };
        // Whole satoshi, because many payees accept nothing smaller.
        let fee_max_msat = excess_msat / FEE_PART;
        let amount_msat = (excess_msat - fee_max_msat) / 1_000 * 1_000;
        if amount_msat == 0 {
            return Ok(None);
        }
        let paying = Paying {
            to: source.invoice(amount_msat).await?,
            amount_msat: Some(amount_msat),
            fee_max_msat: Some(fee_max_msat),
        };
        let payment = self
            .payments
            .pay(self.payments.payable(paying).await?, |_| {})
            .await?;
        if payment.status == Progress::Failed {
            return Err(WithdrawError::Failed);
        }
        Ok(Some(Withdrawal {
            by: "invoice",
            amount_msat,
            id: payment.payment_id,
            is_done: payment.status == Progress::Succeeded,
        }))
    }

    async fn send_from_wallet(
        &self,
        config: &WithdrawConfig,
        address: &str,
    ) -> Result<Option<Withdrawal>, WithdrawError> {
        self.wallet.coins_free().await?;
        let spendable_sat = self.wallet.balance().await?.spendable_sat;
        let excess_msat = excess(spendable_sat.saturating_mul(1_000), config);
        let Some(sat) = excess_msat.map(whole_sat).filter(is_worth_it) else {
            return Ok(None);
        };
        let fee_sat = self.fee_for(sat).await?;
        // Sending everything needs no change output. Otherwise the fee comes off the amount, so
        // that `keep` stays.
        let (amount, sat) = if config.keep == Msat::ZERO {
            (OnchainAmount::All, sat)
        } else {
            let Some(sat) = less_fee(sat, fee_sat) else {
                return Ok(None);
            };
            (OnchainAmount::Sat(sat), sat)
        };
        Ok(Some(Withdrawal {
            by: "onchain",
            amount_msat: sat * 1_000,
            id: self.wallet.send(address, amount, Fee::Usual).await?.txid,
            is_done: false,
        }))
    }

    async fn splice_from_channel(
        &self,
        config: &WithdrawConfig,
        address: &str,
    ) -> Result<Option<Withdrawal>, WithdrawError> {
        let channels = self.channels.list().await?;
        let usable = channels.into_iter().filter(|channel| channel.usable);
        let Some(fullest) = usable.max_by_key(|channel| channel.outbound_msat) else {
            return Ok(None);
        };
        let excess_msat = excess(fullest.outbound_msat, config);
        let Some(excess_sat) = excess_msat.map(whole_sat).filter(is_worth_it) else {
            return Ok(None);
        };
        // The channel pays the fee, and LDK makes its own estimate.
        let fee_sat = self.fee_for(excess_sat).await?.max(excess_sat / FEE_PART);
        let Some(sat) = less_fee(excess_sat, fee_sat) else {
            return Ok(None);
        };
        self.channels
            .splice_out(&fullest.channel_id, address, sat)
            .await?;
        Ok(Some(Withdrawal {
            by: "splice",
            amount_msat: sat * 1_000,
            id: fullest.channel_id,
            is_done: false,
        }))
    }
}

fn fee_at(sat_per_vbyte: u64, amount_sat: u64) -> Result<u64, WithdrawError> {
    let fee_sat = sat_per_vbyte.saturating_mul(ONCHAIN_VBYTES);
    if fee_sat > amount_sat / ONCHAIN_FEE_PART {
        return Err(WithdrawError::Dear {
            fee_sat,
            amount_sat,
        });
    }
    Ok(fee_sat)
}

fn whole_sat(msat: u64) -> u64 {
    msat / 1_000
}

/// The amount to withdraw of this excess, so that the fee does not reduce `keep`. Returns `None` if
/// the fee would take more than half.
fn less_fee(excess_sat: u64, fee_sat: u64) -> Option<u64> {
    let sat = excess_sat.saturating_sub(fee_sat);
    (sat >= excess_sat / 2 && sat > 0).then_some(sat)
}

/// Whether this amount is worth an on-chain fee.
fn is_worth_it(sat: &u64) -> bool {
    *sat >= ONCHAIN_MIN_SAT
}

/// The amount above `keep`; `None` if the threshold is not exceeded.
fn excess(held_msat: u64, config: &WithdrawConfig) -> Option<u64> {
    (held_msat > config.above.msat()).then(|| held_msat - config.keep.msat().min(held_msat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fee_does_not_reduce_what_is_kept() {
        assert_eq!(less_fee(100_000, 5_000), Some(95_000));
        // Where no fee rate is known, a small excess waits.
        let unknown_sat = FEE_RATE_UNKNOWN * ONCHAIN_VBYTES;
        assert_eq!(less_fee(10_500, unknown_sat), None);
        assert_eq!(less_fee(2 * unknown_sat, unknown_sat), Some(unknown_sat));
        let fee_sat = fee_at(1, ONCHAIN_MIN_SAT).unwrap();
        assert_eq!(less_fee(ONCHAIN_MIN_SAT, fee_sat), Some(9_500));
    }

    #[test]
    fn no_more_than_a_twentieth_is_left_to_the_chain() {
        assert_eq!(fee_at(1, ONCHAIN_MIN_SAT).unwrap(), 500);
        assert_eq!(fee_at(10, 100_000).unwrap(), 5_000);
        assert!(fee_at(11, 100_000).is_err());
        // The chain source reports an absurd fee rate.
        assert!(fee_at(3_000, 500_000).is_err());
        assert!(fee_at(u64::MAX, u64::MAX).is_err());
    }
}
