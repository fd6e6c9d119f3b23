//! What was bought, by what the payer's node says, against what was sold, by what the merchant's books say.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use http::StatusCode;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::payment::{PaymentKind, PaymentStatus};

use crate::client::{Challenge, Credential};
use crate::network::Network;
use crate::payer::Payer;

/// Every challenge that was paid or may be, by its payment hash in hex.
#[derive(Debug, Default)]
pub(super) struct Books {
    begun: BTreeMap<String, Begun>,
}

/// A purchase that was begun.
#[derive(Debug)]
struct Begun {
    challenge: Challenge,
    id: PaymentId,
    /// Whether its token was found to open its door after the kill; it is not asked for again.
    is_honoured: bool,
}

/// What became of a payment.
enum State {
    /// It was never sent, or it failed: no money has left.
    Unpaid,
    /// It is under way.
    Pending,
    /// It arrived; the proof, in hex.
    Paid(String),
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Payments that succeeded.
    pub(super) payments: u64,
    /// The hashes of those that are not in the books.
    pub(super) lost: Vec<String>,
    /// The hashes of sales that stand there twice, or with more than was paid.
    pub(super) doubled: Vec<String>,
    /// The hashes of sales that nobody paid for.
    pub(super) invented: Vec<String>,
    /// The hashes of payments whose token opens nothing.
    pub(super) refused: Vec<String>,
}

impl Books {
    /// Remembers these challenges.
    pub(super) fn expect(&mut self, challenges: Vec<Challenge>) {
        for challenge in challenges {
            // Whatever is no invoice was not paid.
            let Ok(invoice) = challenge.invoice() else {
                continue;
            };
            let hash: &[u8; 32] = invoice.payment_hash().as_ref();
            let begun = Begun {
                id: PaymentId(*hash),
                challenge,
                is_honoured: false,
            };
            self.begun.insert(hex::encode(begun.id.0), begun);
        }
    }

    /// How many payments are under way.
    pub(super) fn pending(&self, payer: &Payer) -> usize {
        self.count(payer, |state| matches!(state, State::Pending))
    }

    /// How many payments succeeded.
    pub(super) fn paid(&self, payer: &Payer) -> u64 {
        self.count(payer, |state| matches!(state, State::Paid(_))) as u64
    }

    fn count(&self, payer: &Payer, is_one: impl Fn(&State) -> bool) -> usize {
        let states = self.begun.values().map(|begun| state(payer, &begun.id));
        states.filter(is_one).count()
    }

    /// Compares every payment with every sale, and asks for what each new payment has bought.
    pub(super) async fn audit(&mut self, network: &Network, path: &str) -> Result<Found> {
        let mut sold: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for sale in network.merchant.admin().all_sales().await? {
            let hash = sale["payment_hash"].as_str();
            let hash = hash.context("a sale without a payment hash")?.to_owned();
            let entry = sold.entry(hash).or_default();
            entry.0 += 1;
            entry.1 += sale["surplus_msat"].as_u64().unwrap_or_default();
        }
        let mut found = Found::default();
        for (hash, (count, surplus_msat)) in &sold {
            if *count > 1 || *surplus_msat > 0 {
                found.doubled.push(hash.clone());
            }
        }
        let url = format!("{}{path}", network.gate_url());
        for (hash, begun) in &mut self.begun {
            let State::Paid(preimage_hex) = state(&network.payer, &begun.id) else {
                found
                    .invented
                    .extend(sold.contains_key(hash).then(|| hash.clone()));
                continue;
            };
            found.payments += 1;
            if !sold.contains_key(hash) {
                found.lost.push(hash.clone());
            }
            if begun.is_honoured {
                continue;
            }
            let credential = Credential {
                macaroon_base64: begun.challenge.macaroon.clone(),
                preimage_hex,
            };
            let answer = network.client().get(&url, Some(&credential)).await?;
            begun.is_honoured = answer.status == StatusCode::OK;
            if !begun.is_honoured {
                found.refused.push(hash.clone());
            }
        }
        let strangers = sold.keys().filter(|hash| !self.begun.contains_key(*hash));
        found.invented.extend(strangers.cloned());
        Ok(found)
    }
}

/// What the payer's node knows of a payment, which outlives the call that made it.
fn state(payer: &Payer, id: &PaymentId) -> State {
    let Some(payment) = payer.node().payment(id) else {
        return State::Unpaid;
    };
    match (payment.status, payment.kind) {
        (PaymentStatus::Pending, _) => State::Pending,
        (
            PaymentStatus::Succeeded,
            PaymentKind::Bolt11 {
                preimage: Some(preimage),
                ..
            },
        ) => State::Paid(hex::encode(preimage.0)),
        // Of a payment of ours without a proof there is nothing to claim.
        (PaymentStatus::Succeeded | PaymentStatus::Failed, _) => State::Unpaid,
    }
}
