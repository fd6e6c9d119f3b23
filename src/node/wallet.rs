//! The on-chain wallet: deposits, balance and payments.

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::address::{Address, NetworkUnchecked};
use bitcoin::{FeeRate, Txid};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::chain::esplora::Sent;

use super::address::{self, Drawing};
use super::chain::source::Chain;
use super::coins::{Coins, Last, total_sat};
use super::core::{Core, Phase};
use super::error::NodeUnavailable;
use super::operation::{OperationError, refused};
use super::strangers::Strangers;
use super::sync::ChainSync;
use super::wallet_error::{CoinsInUse, WalletError};

/// The highest accepted fee rate, in sat per virtual byte. A higher figure is more likely a mistake
/// in its unit.
pub(super) const FEE_RATE_MAX_SAT_VB: u64 = 1_000;

/// The confirmation target of an ordinary payment, in blocks, as in ldk-node.
pub(super) const USUAL_BLOCKS: u16 = 6;

/// The longest wait for an answer to a broadcast. All endpoints are asked at once, and each has
/// four seconds.
const WORD_WITHIN: Duration = Duration::from_secs(10);

/// The additional cost of a transaction.
pub(super) const FEE: &str = "the fee";

/// The longest confirmation target that chain sources give a rate for, in blocks: a week.
const TARGET_BLOCKS_MAX: u16 = 1_008;

/// The amount to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnchainAmount {
    /// This many satoshi. The fee is added.
    Sat(u64),
    /// Everything except the reserve for closing channels.
    All,
    /// Everything, the reserve for closing channels included. Open channels then cannot be closed
    /// safely.
    AllWithReserve,
}

/// The fee rate of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fee {
    /// The chain source's rate for an ordinary payment.
    Usual,
    /// This many sat per virtual byte.
    SatPerVbyte(u64),
    /// The chain source's rate for a confirmation within this many blocks.
    Within(u16),
}

/// The on-chain balance, in sat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OnchainBalance {
    /// The whole balance, unconfirmed money included.
    pub total_sat: u64,
    /// The amount that can be spent now.
    pub spendable_sat: u64,
    /// The reserve for closing channels.
    pub reserved_sat: u64,
    /// The unconfirmed amount.
    pub pending_sat: u64,
}

/// An on-chain payment, and the amount that stays in the wallet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SentOnchain {
    /// The transaction id, hex. An Esplora API has accepted the transaction. Other chain sources
    /// received the transaction without saying whether they accept it.
    pub txid: String,
    /// The reserve for closing channels that stays in the wallet, in sat.
    pub kept_sat: u64,
}

/// The on-chain wallet.
#[derive(Debug)]
pub struct Wallet {
    pub(super) core: Arc<Core>,
    chain: Arc<Chain>,
    sync: Arc<ChainSync>,
    strangers: Strangers,
    /// The last transaction that was made from the wallet.
    coins: Coins,
    /// The deposit address, once it is known. A `std` mutex: held while the address is drawn, off
    /// the request path.
    deposit: Mutex<Option<String>>,
    /// Held while another address is drawn and counted, so that only one is drawn at a time. A
    /// `std` mutex: held on a thread that may block.
    drawing: Arc<Mutex<()>>,
}

impl Wallet {
    pub(super) fn new(
        core: &Arc<Core>,
        chain: &Arc<Chain>,
        sync: &Arc<ChainSync>,
        strangers: &Strangers,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(chain),
            sync: Arc::clone(sync),
            strangers: strangers.clone(),
            coins: Coins::default(),
            deposit: Mutex::new(None),
            drawing: Arc::default(),
        }
    }

    /// The last transaction that was made from the wallet.
    pub(super) fn coins(&self) -> &Coins {
        &self.coins
    }

    /// The on-chain balance.
    pub async fn balance(&self) -> Result<OnchainBalance, WalletError> {
        self.core
            .read("read the balance", |node| Ok(balance(node)))
            .await
    }

    /// Draws a new address. Each sync asks the chain source about it from then on. For a single
    /// payer, the deposit address in the status is enough.
    pub async fn new_address(&self, drawing: Drawing) -> Result<String, WalletError> {
        let (folder, turn) = (self.core.config.folder.clone(), Arc::clone(&self.drawing));
        let relay = self.chain.relay().cloned();
        self.core
            .operate("draw an address", move |node| {
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                address::another(&folder, node, relay.as_deref(), drawing)
            })
            .await
    }

    /// Sends money to this address, once the previous transaction was seen. On return, the chain
    /// source has the transaction.
    pub async fn send(
        &self,
        address: &str,
        amount: OnchainAmount,
        fee: Fee,
    ) -> Result<SentOnchain, WalletError> {
        let address = self.address(address)?;
        let rate = self.fee_rate(fee).await?;
        let (clock, relay) = (self.core.clock.clone(), self.chain.relay().cloned());
        let sending = self.spend("send on chain", move |node, coins| {
            let wallet = node.onchain_payment();
            let before_sat = total_sat(node);
            let before = balance(node);
            let began = Instant::now();
            let sent = match amount {
                OnchainAmount::Sat(0) => return Err(WalletError::NoAmount),
                OnchainAmount::Sat(sat) => {
                    is_there(node, sat)?;
                    wallet.send_to_address(&address, sat, rate)
                }
                OnchainAmount::All => wallet.send_all_to_address(&address, true, rate),
                OnchainAmount::AllWithReserve => wallet.send_all_to_address(&address, false, rate),
            };
            let txid = sent.map_err(|error| match (error, amount) {
                (ldk_node::NodeError::InsufficientFunds, OnchainAmount::Sat(sat)) => {
                    above(sat, FEE, &balance(node))
                }
                (
                    ldk_node::NodeError::InsufficientFunds,
                    OnchainAmount::All | OnchainAmount::AllWithReserve,
                ) => nothing(&balance(node)),
                (error, _) => refused("send on chain")(error).into(),
            })?;
            coins.note(Last::Sent {
                txid,
                at_secs: clock.unix_secs(),
                before_sat,
            });
            if let Some(relay) = relay {
                relay.keep_sending(Some(txid));
            }
            Ok((txid, before, began))
        });
        let (txid, before, began) = sending.await?;
        self.is_taken(txid, began).await?;
        let is_all_spent = amount == OnchainAmount::AllWithReserve;
        Ok(SentOnchain {
            txid: txid.to_string(),
            kept_sat: if is_all_spent { 0 } else { before.reserved_sat },
        })
    }

    /// Waits for the relay's answer to a broadcast, if there is a relay. If all endpoints refuse
    /// the transaction, its coins are free again.
    async fn is_taken(&self, txid: Txid, began: Instant) -> Result<(), WalletError> {
        let Some(relay) = self.chain.relay() else {
            return Ok(());
        };
        match relay.word_on(txid, began, WORD_WITHIN).await {
            Some(Sent::Accepted(_)) => Ok(()),
            Some(Sent::Refused(words)) => {
                self.coins.note(Last::Seen);
                self.keep_sending();
                Err(WalletError::NotTaken { words })
            }
            Some(Sent::Nowhere(why)) => Err(WalletError::NotTakenYet { txid, why }),
            Some(Sent::Malformed) | None => {
                let why = "no endpoint has answered".to_owned();
                Err(WalletError::NotTakenYet { txid, why })
            }
        }
    }

    /// Fails if the chain source's fee rate is absurdly high. Transactions whose fee ldk-node
    /// chooses, such as a channel's funding, have no other limit.
    pub(super) async fn check_fee_rate(&self) -> Result<(), WalletError> {
        self.fee_rate(Fee::Usual).await.map(drop)
    }

    /// Parses an address of this node's network.
    pub(super) fn address(&self, text: &str) -> Result<Address, WalletError> {
        let address = Address::<NetworkUnchecked>::from_str(text.trim())
            .map_err(|_| WalletError::NotAnAddress(text.to_owned()))?;
        address
            .require_network(self.core.config.network)
            .map_err(|_| WalletError::OtherNetwork(self.core.config.network))
    }

    async fn fee_rate(&self, fee: Fee) -> Result<Option<FeeRate>, WalletError> {
        let sat_per_vbyte = match fee {
            Fee::Usual => match self.chain.fee_rate_within(USUAL_BLOCKS).await {
                // Without a relay, only ldk-node knows the rate.
                None => return Ok(None),
                Some(rate) if rate > FEE_RATE_MAX_SAT_VB => {
                    return Err(WalletError::FeeRate(
                        "the chain source asks for more than 1,000 sat per virtual byte: that is more likely a mistake. Where a fee rate can be given, give one",
                    ));
                }
                Some(rate) => rate,
            },
            Fee::SatPerVbyte(rate) => rate,
            Fee::Within(blocks) if !(1..=TARGET_BLOCKS_MAX).contains(&blocks) => {
                return Err(WalletError::FeeRate(
                    "a confirmation target has 1 to 1,008 blocks",
                ));
            }
            Fee::Within(blocks) => {
                let rate = self.chain.fee_rate_within(blocks).await;
                rate.ok_or(WalletError::FeeRate(
                    "the chain source gives no fee rate for that target now: give a fee rate yourself",
                ))?
            }
        };
        if !(1..=FEE_RATE_MAX_SAT_VB).contains(&sat_per_vbyte) {
            return Err(WalletError::FeeRate(
                "a fee rate has 1 to 1,000 sat per virtual byte",
            ));
        }
        Ok(FeeRate::from_sat_per_vb(sat_per_vbyte))
    }

    /// The address for deposits, drawn from the wallet once. Takes locks of the node.
    pub(super) fn deposit_address(&self, node: &ldk_node::Node) -> Option<String> {
        let mut deposit = self.deposit.lock().unwrap_or_else(PoisonError::into_inner);
        if deposit.is_none() {
            let (folder, network) = (&self.core.config.folder, self.core.config.network);
            let relay = self.chain.relay().map(Arc::as_ref);
            *deposit = address::deposit(folder, network, node, relay);
        }
        deposit.clone()
    }

    /// Makes a transaction from the wallet, once the previous one was seen. The closure `work`
    /// records the new transaction.
    pub(super) async fn spend<T, E>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Arc<ldk_node::Node>, &Coins) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<WalletError> + From<OperationError> + Send + 'static,
    {
        let turn = self.coins.turn().await;
        self.coins_free().await?;
        let (coins, strangers) = (self.coins.clone(), self.strangers.clone());
        self.core
            .operate(what, move |node| {
                let _turn = turn;
                let done = work(node, &coins);
                strangers.coins_changed();
                done
            })
            .await
    }

    /// Checks that the previous transaction was seen, with a sync if needed. After that, the
    /// wallet's balance is correct.
    pub(super) async fn coins_free(&self) -> Result<(), WalletError> {
        let Some(why) = self.coins_in_use().await? else {
            return Ok(());
        };
        if !self.coins.may_look(why, self.core.clock.unix_secs()) {
            return Err(why.into());
        }
        self.sync.look_now().await.map_err(OperationError::from)?;
        match self.coins_in_use().await? {
            Some(why) => Err(why.into()),
            None => Ok(()),
        }
    }

    async fn coins_in_use(&self) -> Result<Option<CoinsInUse>, WalletError> {
        let Phase::Running { since_secs, .. } = self.core.phase() else {
            return Err(OperationError::from(NodeUnavailable::NotRunning).into());
        };
        let source = self.core.config.chain.source.clone();
        let (coins, now_secs) = (self.coins.clone(), self.core.clock.unix_secs());
        let relay = self.chain.relay().cloned();
        let in_use = self.core.operate("look at the wallet", move |node| {
            Ok::<_, OperationError>(coins.in_use_of(
                node,
                &source,
                relay.as_deref(),
                since_secs,
                now_secs,
            ))
        });
        let in_use = in_use.await?;
        self.keep_sending();
        Ok(in_use)
    }

    /// Makes the relay rebroadcast the unseen transaction until an endpoint has it. The relay
    /// rebroadcasts no other transaction, because coins that are free again must not be spent by a
    /// late broadcast.
    pub(super) fn keep_sending(&self) {
        if let Some(relay) = self.chain.relay() {
            relay.keep_sending(self.coins.sent());
        }
    }
}

/// The on-chain balance.
pub(super) fn balance(node: &ldk_node::Node) -> OnchainBalance {
    let all = node.list_balances();
    let confirmed_sat = all.spendable_onchain_balance_sats + all.total_anchor_channels_reserve_sats;
    OnchainBalance {
        total_sat: all.total_onchain_balance_sats,
        spendable_sat: all.spendable_onchain_balance_sats,
        // The reserve may be larger than the balance.
        reserved_sat: all
            .total_anchor_channels_reserve_sats
            .min(all.total_onchain_balance_sats),
        pending_sat: all.total_onchain_balance_sats.saturating_sub(confirmed_sat),
    }
}

/// Fails if this amount cannot be spent.
pub(super) fn is_there(node: &ldk_node::Node, sat: u64) -> Result<(), WalletError> {
    let balance = balance(node);
    if sat > balance.spendable_sat {
        return Err(above(sat, FEE, &balance));
    }
    Ok(())
}

/// The error for an amount that cannot be spent, by itself or with the fee.
pub(super) fn above(
    asked_sat: u64,
    besides: &'static str,
    balance: &OnchainBalance,
) -> WalletError {
    let OnchainBalance {
        spendable_sat,
        pending_sat: unconfirmed_sat,
        reserved_sat,
        ..
    } = *balance;
    if asked_sat <= spendable_sat {
        return WalletError::AboveOnchainWithFee {
            asked_sat,
            besides,
            spendable_sat,
            unconfirmed_sat,
            reserved_sat,
        };
    }
    WalletError::AboveOnchain {
        asked_sat,
        spendable_sat,
        unconfirmed_sat,
        reserved_sat,
    }
}

fn nothing(balance: &OnchainBalance) -> WalletError {
    WalletError::NothingOnchain {
        spendable_sat: balance.spendable_sat,
        unconfirmed_sat: balance.pending_sat,
        reserved_sat: balance.reserved_sat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_without_room_for_the_fee_has_its_own_error() {
        let balance = OnchainBalance {
            total_sat: 200_000,
            spendable_sat: 200_000,
            reserved_sat: 0,
            pending_sat: 0,
        };
        let said = above(200_000, FEE, &balance).to_string();
        assert!(said.contains("200000 sat and the fee"), "{said}");
        let said = above(200_001, FEE, &balance).to_string();
        assert!(said.starts_with("200001 sat are more than"), "{said}");
        assert!(nothing(&balance).to_string().contains("do not cover"));
    }
}
