//! Finds the current output of an old channel, or its closing, from the transactions that spent its
//! money. This module does no I/O.
//!
//! A confirmed spend is not always a closing. A splice moves the channel to another output, where
//! the channel stays open: a monitor loaded then could broadcast an old state. A commitment has
//! marks (BOLT 3). A splice and a cooperative close have none, and look alike if the peer is paid
//! at a multisig script. Only a later spend of that output tells them apart.

use std::collections::VecDeque;

use bitcoin::opcodes::all::OP_PUSHNUM_2;
use bitcoin::{OutPoint, Script, Transaction};

use crate::channel_state::copy::MonitoredChannel;

/// The maximum number of spends that are followed: a splice every day for two months. A longer
/// trail counts as an open channel.
const SPENDS_MAX: usize = 64;

/// The maximum number of outputs of one transaction that are checked. A splice has one output for
/// the channel, and few others.
const OUTPUTS_MAX: usize = 8;

/// The length of a funding script: two keys of 33 bytes, each with a length byte, and three
/// operations (BOLT 3).
const FUNDING_SCRIPT_BYTES: usize = 2 * 34 + 3;

/// The transaction that spends an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spender {
    pub(super) tx: Transaction,
    /// The height of the transaction's block, as the chain source reports it.
    pub(super) height: Option<u32>,
}

/// The place of a channel's money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// The channel's money is at this output, or may be there.
    Open(OutPoint),
    /// The channel is closed.
    Closed {
        by: Spender,
        /// Whether the channel's monitor finds this closing. If not, the monitor is useless.
        is_found: bool,
    },
}

/// The trail from a channel's funding to its current output.
#[derive(Debug)]
pub(super) struct Trail<'a> {
    channel: &'a MonitoredChannel,
    /// The outputs that hold the channel, or may hold it, and were not looked up yet.
    ahead: VecDeque<OutPoint>,
    /// An output on the trail that is not spent.
    unspent: Option<OutPoint>,
    /// Whether the channel's monitor knows the outputs in `ahead`.
    is_known: bool,
    /// The closing, unless an output in `ahead` turns out to be the channel; and whether the
    /// monitor finds the closing.
    closing: Option<(Spender, bool)>,
    spends: usize,
}

impl<'a> Trail<'a> {
    pub(super) fn new(channel: &'a MonitoredChannel) -> Self {
        Self {
            channel,
            ahead: VecDeque::from([channel.funding]),
            unspent: None,
            is_known: true,
            closing: None,
            spends: 0,
        }
    }

    /// The output whose spender is needed next.
    pub(super) fn next(&self) -> Option<OutPoint> {
        let next = self.ahead.front().copied();
        next.filter(|_| self.spends < SPENDS_MAX)
    }

    /// Takes the spender of the next output; `None` if the output is unspent.
    pub(super) fn told(&mut self, spender: Option<Spender>) {
        self.spends += 1;
        let Some(outpoint) = self.ahead.pop_front() else {
            return;
        };
        let spent = spender.and_then(|spender| {
            let is_channel = self.is_channel(outpoint, &spender.tx)?;
            Some((spender, is_channel))
        });
        match spent {
            None => self.unspent = Some(outpoint),
            // This output held ordinary coins, at a script of another kind.
            Some((_, false)) => {}
            Some((spender, true)) => self.goes_on(spender),
        }
    }

    /// Whether the output that a transaction spends held the channel. Returns `None` if the
    /// transaction does not spend it, whatever the chain source says. The input must name the
    /// output and reveal the script behind the output's hash.
    fn is_channel(&self, outpoint: OutPoint, tx: &Transaction) -> Option<bool> {
        let mut inputs = tx.input.iter();
        let input = inputs.find(|input| input.previous_output == outpoint)?;
        let Some((before, _)) = self.closing.as_ref() else {
            return Some(true);
        };
        let script = Script::from_bytes(input.witness.last()?);
        let spent = before.tx.output.get(usize::try_from(outpoint.vout).ok()?)?;
        (script.to_p2wsh() == spent.script_pubkey).then(|| is_funding(script))
    }

    fn goes_on(&mut self, by: Spender) {
        self.unspent = None;
        self.ahead.clear();
        let txid = by.tx.compute_txid();
        // LDK treats a spend as a closing only if it has no other input.
        let is_found = self.is_known && by.tx.input.len() == 1;
        let channel = self.channel;
        let splice = channel.splices.iter().find(|splice| splice.txid == txid);
        if let Some(splice) = splice.filter(|_| channel.is_open) {
            // The monitor knows this splice, whatever the transaction looks like.
            self.ahead.push_back(*splice);
        } else if channel.is_open && !is_commitment(&by.tx) {
            let outputs = (0_u32..).zip(&by.tx.output);
            let maybe = outputs.filter(|(_, output)| output.script_pubkey.is_p2wsh());
            let maybe = maybe.map(|(vout, _)| OutPoint::new(txid, vout));
            self.ahead = maybe.take(OUTPUTS_MAX).collect();
            self.is_known = false;
        }
        self.closing = Some((by, is_found));
    }

    /// The result, after the spenders of all requested outputs were given.
    pub(super) fn end(self) -> Whereabouts {
        let held = self.unspent.or(self.ahead.front().copied());
        match (held, self.closing) {
            (Some(outpoint), _) => Whereabouts::Open(outpoint),
            (None, Some((by, is_found))) => Whereabouts::Closed { by, is_found },
            (None, None) => Whereabouts::Open(self.channel.funding),
        }
    }
}

/// Whether a transaction has the marks of a commitment: the state number in two halves (BOLT 3),
/// and only one input.
pub(super) fn is_commitment(tx: &Transaction) -> bool {
    let [input] = tx.input.as_slice() else {
        return false;
    };
    let sequence = input.sequence.to_consensus_u32();
    tx.lock_time.to_consensus_u32() >> 24 == 0x20 && sequence >> 24 == 0x80
}

/// Whether this is the script of a channel's funding: two of two keys.
fn is_funding(script: &Script) -> bool {
    script.is_multisig()
        && script.len() == FUNDING_SCRIPT_BYTES
        && script.as_bytes().first() == Some(&OP_PUSHNUM_2.to_u8())
}

#[cfg(test)]
mod tests {
    use bitcoin::absolute::LockTime;
    use bitcoin::hashes::Hash as _;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, ScriptBuf, Sequence, TxIn, TxOut, Txid, WPubkeyHash, Witness};

    use super::*;

    const MARKS: (u32, u32) = (0x2012_3456, 0x8065_4321);
    const NO_MARKS: (u32, u32) = (800_000, 0xFFFF_FFFD);

    fn outpoint(number: u8) -> OutPoint {
        OutPoint::new(Txid::from_byte_array([number; 32]), 0)
    }

    fn channel() -> MonitoredChannel {
        MonitoredChannel {
            key: "one".to_owned(),
            channel_id: [1; 32],
            counterparty: "02".to_owned(),
            funding: outpoint(1),
            update_id: 7,
            height: 100,
            balance_sat: 1_000,
            is_open: true,
            splices: Vec::new(),
        }
    }

    fn key_script() -> ScriptBuf {
        ScriptBuf::new_p2wpkh(&WPubkeyHash::all_zeros())
    }

    /// The output script of a multisig script with this many keys. A channel's script has two.
    fn keys_script(keys: u8) -> ScriptBuf {
        Script::from_bytes(&two_of(keys)).to_p2wsh()
    }

    /// A multisig script with this many keys, two of which must sign.
    fn two_of(keys: u8) -> Vec<u8> {
        let mut script = vec![0x52];
        for _ in 0..keys {
            script.push(33);
            script.extend([2; 33]);
        }
        script.extend([0x50 + keys, 0xAE]);
        script
    }

    fn tx(spends: &[OutPoint], marks: (u32, u32), outputs: &[ScriptBuf], script: &[u8]) -> Spender {
        let input = |previous_output: &OutPoint| TxIn {
            previous_output: *previous_output,
            script_sig: ScriptBuf::new(),
            sequence: Sequence(marks.1),
            witness: Witness::from_slice(&[script]),
        };
        let output = |script_pubkey: &ScriptBuf| TxOut {
            value: Amount::from_sat(1_000),
            script_pubkey: script_pubkey.clone(),
        };
        let tx = Transaction {
            version: Version::TWO,
            lock_time: LockTime::from_consensus(marks.0),
            input: spends.iter().map(input).collect(),
            output: outputs.iter().map(output).collect(),
        };
        Spender {
            tx,
            height: Some(100),
        }
    }

    fn made(spender: &Spender, vout: u32) -> OutPoint {
        OutPoint::new(spender.tx.compute_txid(), vout)
    }

    /// The place of a channel's money in a chain with these transactions.
    fn found(channel: &MonitoredChannel, chain: &[&Spender]) -> Whereabouts {
        let mut trail = Trail::new(channel);
        while let Some(outpoint) = trail.next() {
            let spends = |spender: &&&Spender| {
                let mut inputs = spender.tx.input.iter();
                inputs.any(|input| input.previous_output == outpoint)
            };
            trail.told(chain.iter().find(spends).map(|spender| (**spender).clone()));
        }
        trail.end()
    }

    fn closed(by: &Spender, is_found: bool) -> Whereabouts {
        Whereabouts::Closed {
            by: by.clone(),
            is_found,
        }
    }

    #[test]
    fn a_commitment_closes_a_channel_and_so_does_a_closing_in_agreement() {
        let channel = channel();
        assert_eq!(found(&channel, &[]), Whereabouts::Open(channel.funding));
        let both = [keys_script(2), key_script()];
        let commitment = tx(&[channel.funding], MARKS, &both, &two_of(2));
        assert_eq!(found(&channel, &[&commitment]), closed(&commitment, true));
        let agreed = tx(
            &[channel.funding],
            NO_MARKS,
            &[key_script(), key_script()],
            &two_of(2),
        );
        assert_eq!(found(&channel, &[&agreed]), closed(&agreed, true));
    }

    #[test]
    fn a_transaction_that_does_not_spend_the_channel_closes_nothing_whoever_says_so() {
        let channel = channel();
        let other = tx(&[outpoint(9)], MARKS, &[key_script()], &two_of(2));
        let mut trail = Trail::new(&channel);
        trail.told(Some(other));
        assert_eq!(trail.end(), Whereabouts::Open(channel.funding));
    }

    #[test]
    fn a_splice_that_the_monitor_knows_closes_nothing_and_what_closes_the_channel_there_is_found() {
        let mut channel = channel();
        // The second splice has the marks of a commitment, set by its maker.
        for marks in [NO_MARKS, MARKS] {
            let splice = tx(
                &[channel.funding, outpoint(2)],
                marks,
                &[keys_script(2), key_script()],
                &two_of(2),
            );
            channel.splices = vec![made(&splice, 0)];
            let moved = Whereabouts::Open(made(&splice, 0));
            assert_eq!(found(&channel, &[&splice]), moved);
            let commitment = tx(&[made(&splice, 0)], MARKS, &[key_script()], &two_of(2));
            assert_eq!(
                found(&channel, &[&splice, &commitment]),
                closed(&commitment, true)
            );
        }
    }

    #[test]
    fn a_splice_that_the_monitor_does_not_know_closes_nothing_and_what_closes_the_channel_there_is_not_found()
     {
        let channel = channel();
        // A splice-in has several inputs. A splice-out has only the channel's input.
        for spends in [&[channel.funding, outpoint(2)][..], &[channel.funding]] {
            let splice = tx(
                spends,
                NO_MARKS,
                &[key_script(), keys_script(2)],
                &two_of(2),
            );
            assert_eq!(
                found(&channel, &[&splice]),
                Whereabouts::Open(made(&splice, 1))
            );
            let again = tx(&[made(&splice, 1)], NO_MARKS, &[keys_script(2)], &two_of(2));
            let moved = Whereabouts::Open(made(&again, 0));
            assert_eq!(found(&channel, &[&splice, &again]), moved);
            let commitment = tx(&[made(&again, 0)], MARKS, &[key_script()], &two_of(2));
            let all = [&splice, &again, &commitment];
            assert_eq!(found(&channel, &all), closed(&commitment, false));
        }
    }

    #[test]
    fn a_closing_in_agreement_to_a_peer_with_several_keys_is_known_when_the_peer_spends_it() {
        let channel = channel();
        let agreed = tx(
            &[channel.funding],
            NO_MARKS,
            &[key_script(), keys_script(3)],
            &two_of(2),
        );
        // Until the peer spends its output, the transaction may be a splice.
        assert_eq!(
            found(&channel, &[&agreed]),
            Whereabouts::Open(made(&agreed, 1))
        );
        let spent = tx(&[made(&agreed, 1)], NO_MARKS, &[key_script()], &two_of(3));
        assert_eq!(found(&channel, &[&agreed, &spent]), closed(&agreed, true));
    }

    #[test]
    fn nobody_can_make_up_that_a_channel_was_not_where_a_splice_has_moved_it() {
        let mut channel = channel();
        let splice = tx(&[channel.funding], NO_MARKS, &[keys_script(2)], &two_of(2));
        channel.splices = vec![made(&splice, 0)];
        let made_up = tx(&[made(&splice, 0)], NO_MARKS, &[key_script()], &two_of(3));
        let moved = Whereabouts::Open(made(&splice, 0));
        assert_eq!(found(&channel, &[&splice, &made_up]), moved);
    }

    #[test]
    fn a_closing_that_the_monitor_has_seen_is_one_whatever_it_looks_like() {
        let channel = MonitoredChannel {
            is_open: false,
            ..channel()
        };
        let agreed = tx(
            &[channel.funding],
            NO_MARKS,
            &[key_script(), keys_script(3)],
            &two_of(2),
        );
        assert_eq!(found(&channel, &[&agreed]), closed(&agreed, true));
    }

    #[test]
    fn a_trail_without_end_ends() {
        let channel = channel();
        let mut chain = vec![tx(
            &[channel.funding],
            NO_MARKS,
            &[keys_script(2)],
            &two_of(2),
        )];
        for number in 0..SPENDS_MAX {
            let next = tx(
                &[made(&chain[number], 0)],
                NO_MARKS,
                &[keys_script(2)],
                &two_of(2),
            );
            chain.push(next);
        }
        let last = Whereabouts::Open(made(&chain[SPENDS_MAX - 1], 0));
        let chain: Vec<&Spender> = chain.iter().collect();
        assert_eq!(found(&channel, &chain), last);
    }
}
