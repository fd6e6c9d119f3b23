//! `[node.peers]`: the limits on peers that the operator did not choose.

use bitcoin::secp256k1::PublicKey;

use crate::base::amount::Msat;
use crate::node::{self, PeersConfig};

use super::meaning::Meaning;
use super::raw::{RawPeers, TextOrList};

/// The smallest channel that LDK opens, in sat.
const CHANNEL_MIN_SAT: u64 = 1_000;

/// The most channels or connections of strangers that a setting may allow. LDK itself accepts 250
/// peers without a channel, and each channel costs one request in every sync with the chain.
const MANY: u32 = 1_000;

/// The most keysends that a setting may have recorded. Each takes 400 bytes on disk and 500 in
/// memory.
const KEYSENDS_MAX: u32 = 100_000;

impl Meaning<'_> {
    /// Reads the limits on strangers.
    pub(super) fn peers(&mut self, raw: &RawPeers) -> PeersConfig {
        let mut trusted = self.node_ids("node.peers.trusted", &raw.trusted);
        let anyone_opens = match raw.open.0.as_slice() {
            [word] if word == "anyone" => true,
            [word] if word == "providers" => false,
            named => {
                trusted.extend(self.opening(named, &raw.open));
                false
            }
        };
        let channel_min_sat = self.channel_sat("node.peers.channel_min", &raw.channel_min);
        let channel_max_sat = self.channel_sat("node.peers.channel_max", &raw.channel_max);
        if channel_min_sat > channel_max_sat {
            let what = "it is larger than node.peers.channel_max: no channel would fit";
            self.complain("node.peers.channel_min", what);
        }
        PeersConfig {
            anyone_opens,
            trusted,
            channel_min_sat,
            channel_max_sat,
            pending_max: self.some("node.peers.pending_max", raw.pending_max, MANY),
            pending_per_peer: self.some("node.peers.pending_per_peer", raw.pending_per_peer, MANY),
            pending_timeout: self.span("node.peers.pending_timeout", &raw.pending_timeout),
            channels_max: self.some("node.peers.channels_max", raw.channels_max, MANY),
            channels_per_peer: self.some(
                "node.peers.channels_per_peer",
                raw.channels_per_peer,
                MANY,
            ),
            channels_per_network: self.some(
                "node.peers.channels_per_network",
                raw.channels_per_network,
                MANY,
            ),
            connections_max: self.some("node.peers.connections_max", raw.connections_max, MANY),
            connections_per_network: self.some(
                "node.peers.connections_per_network",
                raw.connections_per_network,
                MANY,
            ),
            keysends_max: self.some("node.peers.keysends_max", raw.keysends_max, KEYSENDS_MAX),
        }
    }

    /// The peers in the list of `node.peers.open`.
    fn opening(&mut self, named: &[String], raw: &TextOrList) -> Vec<PublicKey> {
        if named.is_empty() || named.iter().any(|id| id == "anyone" || id == "providers") {
            let what = format!(
                "`{}` names nobody who may open channels: write \"anyone\", \"providers\", or a list of node ids",
                raw.0.join(", ")
            );
            self.complain("node.peers.open", what);
            return Vec::new();
        }
        self.node_ids("node.peers.open", named)
    }

    fn node_ids(&mut self, key: &str, ids: &[String]) -> Vec<PublicKey> {
        let mut peers = Vec::new();
        for id in ids {
            match node::node_id(id) {
                Some(peer) => peers.push(peer),
                None => self.complain(
                    key,
                    format!(
                        "`{id}` is not a node id: write 66 hex digits that begin with 02 or 03"
                    ),
                ),
            }
        }
        peers
    }

    fn channel_sat(&mut self, key: &str, text: &str) -> u64 {
        let sat = text.parse::<Msat>().ok().and_then(Msat::whole_sat);
        let sat = sat.filter(|sat| *sat >= CHANNEL_MIN_SAT);
        sat.unwrap_or_else(|| {
            let what = format!(
                "`{text}` is not the size of a channel: write whole satoshi, at least {CHANNEL_MIN_SAT}, as in \"20000 sat\""
            );
            self.complain(key, what);
            CHANNEL_MIN_SAT
        })
    }

    /// A number from 1 to `max`.
    fn some(&mut self, key: &str, number: u32, max: u32) -> usize {
        if number == 0 || number > max {
            self.complain(key, format!("write a number from 1 to {max}"));
        }
        number.clamp(1, max) as usize
    }
}
