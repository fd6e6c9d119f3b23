//! The last stage: finds and sweeps our outputs in closings of channels without a monitor.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::key::Secp256k1;
use bitcoin::secp256k1::Message;
use bitcoin::sighash::{EcdsaSighashType, SighashCache};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, CompressedPublicKey, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid,
    WPubkeyHash, Witness,
};
use esplora_client::{AsyncClient, Tx};
use lightning::ln::chan_utils::get_to_countersigner_keyed_anchor_redeemscript;
use tokio_util::sync::CancellationToken;

use crate::base::error_chain;
use crate::channel_state::copy::Fence;
use crate::keys::NodeKeys;
use crate::node::error::NodeError;
use crate::node::wallet::FEE_RATE_MAX_SAT_VB;

use super::closing::{self, BURIED_CONFIRMATIONS};
use super::progress::Recoveries;

/// The number of scripts for each key. LDK lists the script without anchors first.
const SCRIPTS_PER_KEY: usize = 2;

/// If more scripts than this are left, the operator is told about the search.
const MANY: usize = 100;

/// The pause after a chain source stops answering. Public ones limit requests per hour.
const REST: Duration = Duration::from_secs(60);

/// The confirmation target of a sweep, in blocks. It can be slow, because only we can spend the
/// outputs.
const TARGET_BLOCKS: u16 = 12;

/// The fee rate if no estimate is known, in sat/vB: twice the least rate that nodes relay.
const FALLBACK_SAT_PER_VBYTE: f64 = 2.0;

/// The largest share of a sweep that the fee may take: a fifth. Fees may fall, or one server's
/// estimate may be wrong, and nothing is lost by waiting.
const FEE_PARTS: u64 = 5;

/// The least amount of a sweep. Less costs more than it brings (BOLT 3's dust for such scripts).
const DUST: Amount = Amount::from_sat(330);

/// An output that pays us.
#[derive(Debug)]
pub(super) struct Found {
    outpoint: OutPoint,
    value: Amount,
    script: ScriptBuf,
    /// The number of the key that the output pays.
    key: u32,
    /// Whether the channel of the output had anchors.
    has_anchors: bool,
}

/// Looks up every script to which a closing may pay us, and sweeps the outputs until the sweep is
/// confirmed; `false` if told to stop. Outputs that cost too much now are left for later searches.
pub(super) async fn watch(
    recovery: &Recoveries,
    fence: Fence,
    ldk: &Arc<ldk_node::Node>,
    until: &CancellationToken,
) -> Result<bool, NodeError> {
    let mut search = Search::new(&recovery.core.keys);
    loop {
        if search.left.len() > MANY {
            let count = search.left.len();
            recovery.tell(fence.searching(format!(
                "The chain is searched for {count} scripts; on a public chain source this takes hours."
            )));
        }
        let searched = tokio::select! {
            searched = search.go_on(recovery, usize::MAX) => searched,
            () = until.cancelled() => return Ok(false),
        };
        let rest = match searched {
            Ok(()) => {
                let swept = if search.found.is_empty() {
                    None
                } else {
                    Some(sweep(recovery, ldk, &search.found).await?)
                };
                if is_over(swept.as_ref(), search.young) {
                    return Ok(true);
                }
                let happening = swept.map_or_else(|| search.happening(), |swept| swept.to_string());
                recovery.tell(fence.searching(happening));
                // The next round checks only scripts with unsettled outputs.
                search.again();
                recovery.core.config.chain.sync_interval
            }
            Err(error) => {
                let why = error_chain::chain(&error);
                let happening = format!("The chain source does not answer ({why}).");
                recovery.tell(fence.searching(happening));
                REST
            }
        };
        if !recovery.look_again(rest, until).await {
            return Ok(false);
        }
    }
}

/// Whether the search is over, given the last sweep and the number of outputs that are not buried.
fn is_over(swept: Option<&Swept>, young: usize) -> bool {
    match swept {
        None | Some(Swept::TooDear) => young == 0,
        Some(Swept::Sent { .. } | Swept::Failed(_)) => false,
    }
}

/// A search that can continue where the chain source stopped answering.
#[derive(Debug)]
pub(super) struct Search {
    /// The scripts that were not looked up yet, with their numbers.
    left: VecDeque<(usize, ScriptBuf)>,
    /// The scripts with outputs that are not settled yet.
    seen: VecDeque<(usize, ScriptBuf)>,
    /// Our outputs that are buried and unspent.
    pub(super) found: Vec<Found>,
    /// The number of our outputs that are not buried, or whose sweep is not buried.
    young: usize,
    /// The fundings of channels with a monitor. The node itself sweeps their closings.
    monitored: HashSet<OutPoint>,
}

impl Search {
    fn new(keys: &NodeKeys) -> Self {
        Self::from(keys, 0)
    }

    /// Creates a search that begins with the script of this number.
    pub(super) fn from(keys: &NodeKeys, start: usize) -> Self {
        let mut left = all(keys);
        let start = start % left.len();
        left.rotate_left(start);
        Self {
            left,
            seen: VecDeque::new(),
            found: Vec::new(),
            young: 0,
            monitored: HashSet::new(),
        }
    }

    /// Skips closings of channels with these fundings, because the node has their monitors.
    pub(super) fn pass_over(&mut self, monitored: HashSet<OutPoint>) {
        self.monitored = monitored;
    }

    /// Puts the scripts with unsettled outputs first.
    fn again(&mut self) {
        self.seen.append(&mut self.left);
        std::mem::swap(&mut self.seen, &mut self.left);
        self.found.clear();
        self.young = 0;
    }

    /// Does the same, and starts over after the last script. Returns the number of unsettled
    /// scripts.
    pub(super) fn again_and_again(&mut self, keys: &NodeKeys) -> usize {
        let (is_through, unsettled) = (self.left.is_empty(), self.seen.len());
        self.again();
        if is_through {
            let first: HashSet<usize> = self.left.iter().map(|(number, _)| *number).collect();
            let all = all(keys).into_iter();
            self.left
                .extend(all.filter(|(number, _)| !first.contains(number)));
        }
        unsettled
    }

    fn happening(&self) -> String {
        let count = self.young;
        format!(
            "{count} outputs of channels that the backup does not know were found; they, or what sweeps them, are not buried yet."
        )
    }

    /// Looks up the next scripts, at most this many.
    pub(super) async fn go_on(
        &mut self,
        recovery: &Recoveries,
        at_most: usize,
    ) -> Result<(), esplora_client::Error> {
        let client = closing::client(recovery)?;
        let tip = client.get_height().await?;
        for _ in 0..at_most {
            let Some((number, script)) = self.left.front().cloned() else {
                break;
            };
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
            if spends(&tx, &self.monitored) {
                continue;
            }
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

/// Whether a transaction spends one of these outputs.
fn spends(tx: &Tx, outputs: &HashSet<OutPoint>) -> bool {
    let mut inputs = tx.vin.iter();
    inputs.any(|input| outputs.contains(&OutPoint::new(input.txid, input.vout)))
}

/// All scripts, with their numbers.
fn all(keys: &NodeKeys) -> VecDeque<(usize, ScriptBuf)> {
    keys.closing_scripts().into_iter().enumerate().collect()
}

/// The result of a sweep.
#[derive(Debug)]
pub(super) enum Swept {
    /// The sweep was broadcast.
    Sent {
        txid: Txid,
        count: usize,
        sum: Amount,
    },
    /// The fee would take too much of the amount now.
    TooDear,
    /// The chain source did not answer, or refused the sweep.
    Failed(esplora_client::Error),
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { txid, count, sum } => {
                let sat = sum.to_sat();
                write!(
                    f,
                    "{count} outputs of channels that the backup does not know are swept: {sat} sat in transaction {txid}."
                )
            }
            Self::TooDear => f.write_str(
                "Outputs of channels that the backup does not know were found, and are less than five times what it costs to sweep them now.",
            ),
            Self::Failed(error) => {
                let why = error_chain::chain(error);
                write!(f, "The chain source does not answer ({why}).")
            }
        }
    }
}

/// Broadcasts a transaction that sweeps all outputs into the wallet, if that is worth the fee.
pub(super) async fn sweep(
    recovery: &Recoveries,
    ldk: &Arc<ldk_node::Node>,
    found: &[Found],
) -> Result<Swept, NodeError> {
    let asked = async {
        let client = closing::client(recovery)?;
        let rate = fee_rate(&client).await?;
        Ok((client, rate))
    };
    let (client, rate) = match asked.await {
        Ok(asked) => asked,
        Err(error) => return Ok(Swept::Failed(error)),
    };
    // Any script of the wallet's kind gives the fee. An address is drawn only for a sweep, because
    // each costs a request in every later sync.
    let nobody = ScriptBuf::new_p2wpkh(&WPubkeyHash::all_zeros());
    if sweeping(found, &nobody, rate, &recovery.core.keys).is_none() {
        return Ok(Swept::TooDear);
    }
    let asked = Arc::clone(ldk);
    let address = tokio::task::spawn_blocking(move || asked.onchain_payment().new_address());
    let address = address.await.map_err(NodeError::Panicked)?;
    let address = address.map_err(NodeError::Sweep)?;
    let Some(tx) = sweeping(found, &address.script_pubkey(), rate, &recovery.core.keys) else {
        return Ok(Swept::TooDear);
    };
    let sent = client.broadcast(&tx).await;
    Ok(match sent {
        Ok(()) => Swept::Sent {
            txid: tx.compute_txid(),
            count: found.len(),
            sum: tx.output[0].value,
        },
        Err(error) => Swept::Failed(error),
    })
}

async fn fee_rate(client: &AsyncClient) -> Result<f64, esplora_client::Error> {
    let estimates = client.get_fee_estimates().await?;
    let rate = esplora_client::convert_fee_rate(TARGET_BLOCKS.into(), estimates);
    let rate = rate.map_or(FALLBACK_SAT_PER_VBYTE, f64::from);
    Ok(rate.clamp(1.0, FEE_RATE_MAX_SAT_VB as f64))
}

/// The signed sweep; `None` if its fee would take too much of the amount.
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
    // Signed first to learn the size. The final signatures differ by a byte or two for each input.
    sign(&mut tx, found, keys);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fee is far from what an f64 cannot hold"
    )]
    let fee = (tx.vsize() as f64 * rate).ceil() as u64;
    if fee > sum.to_sat() / FEE_PARTS {
        return None;
    }
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
            // With anchors, the output can be spent only after one more block (BOLT 3).
            sequence: if self.has_anchors {
                Sequence::from_height(1)
            } else {
                Sequence::ENABLE_RBF_NO_LOCKTIME
            },
            witness: Witness::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;

    use super::*;

    fn keys() -> (tempfile::TempDir, NodeKeys) {
        let folder = tempfile::tempdir().unwrap();
        let keys = NodeKeys::open(&folder.path().join("words"), Network::Regtest).unwrap();
        (folder, keys)
    }

    #[test]
    fn no_fee_takes_more_than_a_fifth_of_what_is_swept() {
        let (_folder, keys) = keys();
        let found = |sat| {
            let outpoint = OutPoint::new(Txid::all_zeros(), 0);
            [Found {
                outpoint,
                value: Amount::from_sat(sat),
                script: keys.closing_scripts()[1].clone(),
                key: 0,
                has_anchors: true,
            }]
        };
        let nobody = ScriptBuf::new_p2wpkh(&WPubkeyHash::all_zeros());
        let swept = sweeping(&found(100_000), &nobody, 10.0, &keys).unwrap();
        let fee = 100_000 - swept.output[0].value.to_sat();
        let bytes = u64::try_from(swept.vsize()).unwrap();
        assert!((9 * bytes..=11 * bytes).contains(&fee), "{fee} for {bytes}");
        assert!(sweeping(&found(5 * fee + 100), &nobody, 10.0, &keys).is_some());
        assert!(sweeping(&found(4 * fee), &nobody, 10.0, &keys).is_none());
        let dearest = FEE_RATE_MAX_SAT_VB as f64;
        assert!(sweeping(&found(100_000), &nobody, dearest, &keys).is_none());
    }

    #[test]
    fn a_search_does_not_end_while_something_is_young() {
        assert!(is_over(None, 0));
        assert!(!is_over(None, 1));
        assert!(is_over(Some(&Swept::TooDear), 0));
        assert!(!is_over(Some(&Swept::TooDear), 1));
        let sent = Swept::Sent {
            txid: Txid::all_zeros(),
            count: 1,
            sum: Amount::from_sat(1_000),
        };
        assert!(!is_over(Some(&sent), 0));
    }

    #[test]
    fn a_search_that_goes_on_has_every_script_and_what_is_not_settled_first() {
        let (_folder, keys) = keys();
        let mut search = Search::from(&keys, 2_100);
        let numbers = |search: &Search| -> Vec<usize> {
            let left = search.left.iter();
            left.map(|(number, _)| *number).collect()
        };
        assert_eq!(search.again_and_again(&keys), 0);
        let all = numbers(&search);
        assert_eq!((all.len(), all[0], all[1_999]), (2_000, 100, 99));
        // All scripts were looked up, and one of them has an unsettled output.
        let seen = search.left[7].clone();
        search.left.clear();
        search.seen.push_back(seen);
        assert_eq!(search.again_and_again(&keys), 1);
        let all = numbers(&search);
        assert_eq!((all.len(), all[0], all[1]), (2_000, 107, 0));
    }
}
