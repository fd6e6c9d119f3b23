//! Where the money is, to the satoshi.
//!
//! The merchant's node must have, on chain and in channels together,
//!
//! ```text
//! deposit + sales − fees
//! ```
//!
//! - *deposit*: what it had when the soak began, before any sale.
//! - *sales*: the sum of its books. Every price is whole satoshi, so no millisatoshi is rounded off.
//! - *fees*: what the transactions paid to miners that the merchant sent and that are in a block. These are the claims of
//!   payments that were under way when a channel was closed, and the sweeps of what was its own in it. A commitment or a
//!   closing spends the funding, and its fee and its two anchors (330 sat each) are the payer's, who funded the channel: they
//!   are left out. An anchor that the merchant spends is a gain, so it is taken off. What the merchant has sent is known
//!   because it has an Esplora server of its own here.
//!
//! There is no slack. While a channel's money is between closing and wallet it may be in neither of the two balances (ldk-node
//! counts what it is sweeping in neither), so this holds only once it is back: the soak mines blocks until it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use bitcoin::{OutPoint, Txid};
use serde_json::{Value, json};

use crate::esplora::Esplora;
use crate::network::Network;
use crate::rpc::RpcError;

/// What an anchor output holds (BOLT 3).
const ANCHOR_SAT: i64 = 330;
/// What Bitcoin Core says of a transaction that it does not know: one that another one has replaced.
const UNKNOWN: i64 = -5;

/// What is known of the merchant's money.
#[derive(Debug)]
pub(super) struct Money {
    /// What it had at the beginning.
    pub(super) deposit_sat: u64,
    /// The merchant's own chain source.
    esplora: Esplora,
    /// What funds the channels, closed ones included.
    fundings: BTreeSet<OutPoint>,
    /// What funds channels of others than the payer, in which the merchant has nothing.
    fundings_of_others: BTreeSet<OutPoint>,
    /// The reason for each channel that was closed, by its id.
    closings: BTreeMap<String, String>,
    /// What each of the merchant's transactions in a block has cost it. A std mutex: held for a look-up.
    costs: Mutex<BTreeMap<Txid, i64>>,
}

/// One look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Balance {
    deposit_sat: u64,
    sales_msat: u64,
    fees_sat: i64,
    onchain_sat: u64,
    lightning_sat: u64,
    /// Of closed channels, and not back yet.
    pub(super) closing_sat: u64,
}

impl Balance {
    /// The equation.
    pub(super) fn must_hold(&self) -> Result<(), String> {
        let due_msat = i128::from(self.deposit_sat) * 1_000 + i128::from(self.sales_msat)
            - i128::from(self.fees_sat) * 1_000;
        let has_msat = (i128::from(self.onchain_sat) + i128::from(self.lightning_sat)) * 1_000;
        if has_msat == due_msat {
            return Ok(());
        }
        Err(format!(
            "{} msat too much: {} sat on chain and {} in channels, after a deposit of {} sat, sales of {} msat and \
             {} sat of fees",
            has_msat - due_msat,
            self.onchain_sat,
            self.lightning_sat,
            self.deposit_sat,
            self.sales_msat,
            self.fees_sat
        ))
    }
}

impl Money {
    /// Begins to count, before the first sale.
    pub(super) async fn count(network: &Network, esplora: Esplora) -> Result<Self> {
        network.sync().await?;
        let status = network.merchant.admin().status().await?;
        let mut money = Self {
            deposit_sat: sat(&status, "onchain_total_sat")? + sat(&status, "lightning_sat")?,
            esplora,
            fundings: BTreeSet::new(),
            fundings_of_others: BTreeSet::new(),
            closings: BTreeMap::new(),
            costs: Mutex::default(),
        };
        money.know_channels(network);
        Ok(money)
    }

    /// Remembers what funds the channels that are open now.
    pub(super) fn know_channels(&mut self, network: &Network) {
        let channels = network.payer.channels();
        let fundings = channels.iter().filter_map(|channel| channel.funding_txo);
        self.fundings.extend(fundings);
    }

    /// Remembers what funds channels of others than the payer.
    pub(super) fn know_channels_of_others(&mut self, fundings: Vec<OutPoint>) {
        self.fundings_of_others.extend(fundings);
    }

    /// Remembers these closed channels, ids and reasons. Gives the reasons of all that are known.
    pub(super) fn know_closings(&mut self, closings: Vec<(String, String)>) -> Vec<String> {
        self.closings.extend(closings);
        self.closings.values().cloned().collect()
    }

    /// What the merchant has, by what its operator's listener just said, and what it should have.
    pub(super) async fn balance(&self, network: &Network, status: &Value) -> Result<Balance> {
        Ok(Balance {
            deposit_sat: self.deposit_sat,
            sales_msat: ["amount_msat", "surplus_msat"]
                .iter()
                .map(|part| status["sales"][part].as_u64())
                .sum::<Option<u64>>()
                .context("no sum of the sales")?,
            fees_sat: self.fees_sat(network).await?,
            onchain_sat: sat(status, "onchain_total_sat")?,
            lightning_sat: sat(status, "lightning_sat")?,
            closing_sat: sat(status, "closing_sat")?,
        })
    }

    /// How many channels are closed whose closing is in no block yet.
    pub(super) async fn unspent_fundings(&self, network: &Network) -> Result<u64> {
        let channels = network.payer.channels();
        let open: BTreeSet<OutPoint> = channels
            .iter()
            .filter_map(|channel| channel.funding_txo)
            .collect();
        let mut unspent = 0;
        for funding in self.fundings.difference(&open) {
            let asked = json!([funding.txid, funding.vout, false]);
            let found: Value = network.bitcoind.rpc().call("gettxout", asked).await?;
            unspent += u64::from(!found.is_null());
        }
        Ok(unspent)
    }

    /// What the merchant paid to miners, less the anchors that it took.
    pub(super) async fn fees_sat(&self, network: &Network) -> Result<i64> {
        let mut sum = 0;
        for txid in self.esplora.broadcast() {
            let known = self
                .costs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&txid)
                .copied();
            let Some(cost) = (match known {
                Some(cost) => Some(cost),
                None => self.cost_sat(network, txid).await?,
            }) else {
                continue;
            };
            sum += cost;
            self.costs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(txid, cost);
        }
        Ok(sum)
    }

    /// What a transaction in a block has cost; `None` while it is in none.
    async fn cost_sat(&self, network: &Network, txid: Txid) -> Result<Option<i64>> {
        let asked = network
            .bitcoind
            .rpc()
            .call::<Value>("getrawtransaction", json!([txid, 2]));
        let tx = match asked.await {
            Ok(tx) => tx,
            Err(RpcError::Refused { code: UNKNOWN, .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if tx["confirmations"].as_u64().unwrap_or_default() == 0 {
            return Ok(None);
        }
        if is_commitment(&tx) {
            return Ok(Some(0));
        }
        let mut cost = satoshi(&tx["fee"]).with_context(|| format!("no fee of {txid}"))?;
        for input in tx["vin"].as_array().into_iter().flatten() {
            let spent = OutPoint {
                txid: input["txid"]
                    .as_str()
                    .and_then(|txid| txid.parse().ok())
                    .with_context(|| format!("an input of {txid} without a transaction"))?,
                vout: serde_json::from_value(input["vout"].clone())?,
            };
            if self.fundings.contains(&spent) || self.fundings_of_others.contains(&spent) {
                return Ok(Some(0));
            }
            let value = satoshi(&input["prevout"]["value"])
                .with_context(|| format!("no value of an input of {txid}"))?;
            if value == ANCHOR_SAT {
                cost -= ANCHOR_SAT;
            }
        }
        Ok(Some(cost))
    }
}

/// Whether this is a commitment, as BOLT 3 writes the number of one into lock time and sequence. Whoever funded the channel pays
/// its fee, and in a soak that is never the merchant.
fn is_commitment(tx: &Value) -> bool {
    let first_byte = |number: &Value| number.as_u64().map(|number| number >> 24);
    let inputs = tx["vin"].as_array().map_or(0, Vec::len);
    inputs == 1
        && first_byte(&tx["locktime"]) == Some(0x20)
        && first_byte(&tx["vin"][0]["sequence"]) == Some(0x80)
}

/// One of the merchant's balances.
fn sat(status: &Value, key: &str) -> Result<u64> {
    let balance = &status["node"]["balances"][key];
    balance
        .as_u64()
        .with_context(|| format!("no {key} in {}", status["node"]))
}

/// Bitcoin Core writes bitcoin with eight digits behind the point; a double holds all of them.
fn satoshi(bitcoin: &Value) -> Option<i64> {
    Some((bitcoin.as_f64()? * 1e8).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_satoshi_too_little_does_not_hold() {
        let balance = Balance {
            deposit_sat: 1_000,
            sales_msat: 50_000,
            fees_sat: 7,
            onchain_sat: 900,
            lightning_sat: 143,
            closing_sat: 0,
        };
        assert_eq!(balance.must_hold(), Ok(()));
        let less = Balance {
            onchain_sat: 899,
            ..balance
        };
        assert!(less.must_hold().unwrap_err().contains("-1000 msat"));
    }

    #[test]
    fn only_a_commitment_is_taken_for_one() {
        let tx = |locktime: u32, sequences: &[u32]| {
            let inputs = sequences.iter().map(|it| json!({ "sequence": it }));
            json!({ "locktime": locktime, "vin": inputs.collect::<Vec<_>>() })
        };
        assert!(is_commitment(&tx(0x20ab_cdef, &[0x8012_3456])));
        // A closing in agreement, a claim of a payment, a sweep of two outputs.
        assert!(!is_commitment(&tx(0, &[0xffff_ffff])));
        assert!(!is_commitment(&tx(600, &[1])));
        assert!(!is_commitment(&tx(
            0x20ab_cdef,
            &[0x8012_3456, 0x8012_3456]
        )));
    }

    #[test]
    fn every_satoshi_of_a_bitcoin_is_read() {
        assert_eq!(satoshi(&json!(0.000_003_30)), Some(330));
        assert_eq!(
            satoshi(&json!(20_999_999.976_9)),
            Some(2_099_999_997_690_000)
        );
        assert_eq!(satoshi(&json!("1")), None);
    }
}
