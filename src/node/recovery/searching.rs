//! The last stage: what peers' closings pay us of channels that no monitor knows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::key::Secp256k1;
use bitcoin::secp256k1::Message;
use bitcoin::sighash::{EcdsaSighashType, SighashCache};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, CompressedPublicKey, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness,
};
use esplora_client::AsyncClient;
use lightning::ln::chan_utils::get_to_countersigner_keyed_anchor_redeemscript;
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::node::keys::NodeKeys;
use crate::node::state::Fence;
use crate::node::{Node, NodeError};

use super::closing::{self, BURIED_CONFIRMATIONS};
use super::look_again;

/// Scripts for each key: LDK lists that of a channel without anchors first, then that of one with them.
const SCRIPTS_PER_KEY: usize = 2;

/// So many scripts left are worth a word.
const MANY: usize = 100;

/// How long we let a chain source rest that answers no more: public ones count requests by the hour.
const REST: Duration = Duration::from_secs(60);

/// The blocks within which a sweep should be mined: nobody waits, and nobody else can take it.
const TARGET_BLOCKS: u16 = 12;

/// The fee rate where nobody tells any, in sat/vB: twice what is relayed at least.
const FALLBACK_SAT_PER_VBYTE: f64 = 2.0;

/// Below this an output costs more than it brings (BOLT 3's dust for such scripts).
const DUST: Amount = Amount::from_sat(330);

/// An output that pays us.
#[derive(Debug)]
struct Found {
    outpoint: OutPoint,
    value: Amount,
    script: ScriptBuf,
    /// Which of the keys it pays.
    key: u32,
    /// Whether its channel had anchors.
    has_anchors: bool,
}

/// Looks up every script that a closing may pay us at, sweeps what is there, and waits until that is confirmed; `false` if told
/// to stop before.
pub(super) async fn watch(
    node: &Node,
    fence: Fence,
    ldk: &Arc<ldk_node::Node>,
    until: &CancellationToken,
) -> Result<bool, NodeError> {
    let mut search = Search::new(&node.keys);
    loop {
        let searched = tokio::select! {
            searched = search.go_on(node, fence) => searched,
            () = until.cancelled() => return Ok(false),
        };
        let rest = match searched {
            Ok(()) if search.found.is_empty() && search.young == 0 => return Ok(true),
            Ok(()) => {
                if search.found.is_empty() {
                    let count = search.young;
                    node.tell_recovery(fence.searching(format!(
                        "{count} outputs of channels that the backup does not know were found; they, or what sweeps them, are not \
                         buried yet."
                    )));
                } else if !sweep(node, fence, ldk, &search.found).await? {
                    return Ok(true);
                }
                // The next round looks only where something is to be seen.
                search = search.again();
                node.config.chain.sync_interval
            }
            Err(error) => {
                tell_failure(node, fence, &error);
                REST
            }
        };
        if !look_again(node, rest, until).await {
            return Ok(false);
        }
    }
}

fn tell_failure(node: &Node, fence: Fence, error: &esplora_client::Error) {
    let why = causes::chain(error);
    node.tell_recovery(fence.searching(format!("The chain source does not answer ({why}).")));
}

/// A search, which goes on where a chain source left it.
struct Search {
    /// Scripts that were not looked up yet, by their numbers.
    left: VecDeque<(usize, ScriptBuf)>,
    /// Scripts at which something was that is not settled yet.
    seen: VecDeque<(usize, ScriptBuf)>,
    /// What is ours, buried and unspent.
    found: Vec<Found>,
    /// Outputs that are ours and not buried yet, or whose sweep is not.
    young: usize,
}

impl Search {
    fn new(keys: &NodeKeys) -> Self {
        Self::of(keys.closing_scripts().into_iter().enumerate().collect())
    }

    fn of(left: VecDeque<(usize, ScriptBuf)>) -> Self {
        Self {
            left,
            seen: VecDeque::new(),
            found: Vec::new(),
            young: 0,
        }
    }

    fn again(self) -> Self {
        Self::of(self.seen)
    }

    /// Looks up what is left.
    async fn go_on(&mut self, node: &Node, fence: Fence) -> Result<(), esplora_client::Error> {
        if self.left.len() > MANY {
            let count = self.left.len();
            node.tell_recovery(fence.searching(format!(
                "The chain is searched for {count} scripts; on a public chain source this takes hours."
            )));
        }
        let client = closing::client(node)?;
        let tip = client.get_height().await?;
        while let Some((number, script)) = self.left.front().cloned() {
            self.look_up(&client, tip, number, &script).await?;
            self.left.pop_front();
        }
        Ok(())
    }

    async fn look_up(
        &mut self,
        client: &AsyncClient,
        tip: u32,
        number: usize,
        script: &ScriptBuf,
    ) -> Result<(), esplora_client::Error> {
        let (mut found, mut young) = (Vec::new(), 0);
        for tx in client.scripthash_txs(script, None).await? {
            for (vout, output) in (0_u32..).zip(&tx.vout) {
                if output.scriptpubkey != *script {
                    continue;
                }
                let spending = client.get_output_status(&tx.txid, vout.into()).await?;
                let spending = spending.filter(|spending| spending.spent);
                let status = spending
                    .as_ref()
                    .and_then(|spending| spending.status.as_ref());
                if status.is_some_and(|status| status.confirmed) {
                    continue;
                }
                let height = tx.status.block_height;
                let depth = height.map_or(0, |height| (tip + 1).saturating_sub(height));
                if spending.is_some() || depth < BURIED_CONFIRMATIONS {
                    young += 1;
                    continue;
                }
                found.push(Found {
                    outpoint: OutPoint::new(tx.txid, vout),
                    value: Amount::from_sat(output.value),
                    script: script.clone(),
                    key: u32::try_from(number / SCRIPTS_PER_KEY).unwrap_or(u32::MAX),
                    has_anchors: number % SCRIPTS_PER_KEY == 1,
                });
            }
        }
        if !found.is_empty() || young > 0 {
            self.seen.push_back((number, script.clone()));
        }
        self.found.extend(found);
        self.young += young;
        Ok(())
    }
}

/// Broadcasts a transaction that takes all of it into the wallet; the next search sees what came of it. `false` if it is not
/// worth its fee.
async fn sweep(
    node: &Node,
    fence: Fence,
    ldk: &Arc<ldk_node::Node>,
    found: &[Found],
) -> Result<bool, NodeError> {
    let asked = Arc::clone(ldk);
    let address = tokio::task::spawn_blocking(move || asked.onchain_payment().new_address());
    let address = address.await.map_err(NodeError::Panicked)?;
    let address = address.map_err(NodeError::Sweep)?;
    let sent = async {
        let client = closing::client(node)?;
        let rate = fee_rate(&client).await?;
        let Some(tx) = sweeping(found, &address.script_pubkey(), rate, &node.keys) else {
            return Ok(None);
        };
        client.broadcast(&tx).await?;
        Ok(Some(tx))
    };
    match sent.await {
        Ok(Some(tx)) => {
            let (txid, sum) = (tx.compute_txid(), tx.output[0].value.to_sat());
            let count = found.len();
            node.tell_recovery(fence.searching(format!(
                "{count} outputs of channels that the backup does not know are swept: {sum} sat in transaction {txid}."
            )));
        }
        Ok(None) => {
            tracing::warn!("What was found is less than it costs to sweep it");
            return Ok(false);
        }
        Err(error) => tell_failure(node, fence, &error),
    }
    Ok(true)
}

async fn fee_rate(client: &AsyncClient) -> Result<f64, esplora_client::Error> {
    let estimates = client.get_fee_estimates().await?;
    let rate = esplora_client::convert_fee_rate(TARGET_BLOCKS.into(), estimates);
    Ok(rate.map_or(FALLBACK_SAT_PER_VBYTE, f64::from).max(1.0))
}

/// The signed transaction; `None` if nothing would be left.
fn sweeping(found: &[Found], to: &ScriptBuf, rate: f64, keys: &NodeKeys) -> Option<Transaction> {
    let sum: Amount = found.iter().map(|found| found.value).sum();
    let mut tx = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: found.iter().map(Found::input).collect(),
        output: vec![TxOut {
            value: sum,
            script_pubkey: to.clone(),
        }],
    };
    // Signed once for its size, which differs by a byte or two for each input from what the second signatures take.
    sign(&mut tx, found, keys);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fee is far from what an f64 cannot hold"
    )]
    let fee = (tx.vsize() as f64 * rate).ceil() as u64;
    tx.output[0].value = sum.checked_sub(Amount::from_sat(fee))?;
    if tx.output[0].value < DUST {
        return None;
    }
    sign(&mut tx, found, keys);
    Some(tx)
}

fn sign(tx: &mut Transaction, found: &[Found], keys: &NodeKeys) {
    let secp = Secp256k1::signing_only();
    let unsigned = tx.clone();
    let mut cache = SighashCache::new(&unsigned);
    for (index, found) in found.iter().enumerate() {
        let secret = keys.static_payment_key(found.key);
        let public = CompressedPublicKey(secret.public_key(&secp));
        let all = EcdsaSighashType::All;
        let anchored = get_to_countersigner_keyed_anchor_redeemscript(&public.0);
        let hash = if found.has_anchors {
            let hash = cache.p2wsh_signature_hash(index, &anchored, found.value, all);
            hash.expect("there is such an input").into()
        } else {
            let hash = cache.p2wpkh_signature_hash(index, &found.script, found.value, all);
            hash.expect("there is such an input, and its script is of this kind")
                .into()
        };
        let hash: Message = hash;
        let signature = bitcoin::ecdsa::Signature {
            signature: secp.sign_ecdsa(&hash, &secret),
            sighash_type: all,
        };
        let key = if found.has_anchors {
            anchored.to_bytes()
        } else {
            public.to_bytes().to_vec()
        };
        tx.input[index].witness = Witness::from_slice(&[signature.to_vec(), key]);
    }
}

impl Found {
    fn input(&self) -> TxIn {
        TxIn {
            previous_output: self.outpoint,
            script_sig: ScriptBuf::new(),
            // With anchors the output wants one block to lie between (BOLT 3).
            sequence: if self.has_anchors {
                Sequence::from_height(1)
            } else {
                Sequence::ENABLE_RBF_NO_LOCKTIME
            },
            witness: Witness::new(),
        }
    }
}
