//! Channels that ended before their funding transaction appeared. LDK asks about that transaction
//! as long as it keeps the channel's monitor, and it never deletes a monitor.
//!
//! Such a channel holds no money of this node. If the peer still broadcasts the funding
//! transaction, the money belongs to the peer, and stays there until the peer closes the channel.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use bitcoin::Txid;
use lightning::ln::types::ChannelId;
use tokio::time::Instant;

use crate::base::secret_file;
use crate::chain::esplora::Where;

use super::bounds::Pending;

/// The file in the node's folder that lists these channels, one per line: the funding transaction
/// id, the channel id, and `?` while the chain source has not answered about the transaction.
const FILE: &str = "channels.abandoned";

/// The maximum number of channels in the list. Beyond it, the node asks again about the funding
/// transactions of the oldest. Each channel takes 130 bytes here, and its monitor some thousand
/// bytes on the disk.
const MAX: usize = 2_000;

/// A channel, its funding transaction, and the chain source's answer about that transaction; `None`
/// without an answer.
pub(super) type Heard = (ChannelId, Txid, Option<Where>);

/// The channels that ended before their funding transaction appeared.
#[derive(Debug)]
pub(super) struct Abandoned {
    file: PathBuf,
    /// Channels whose funding transaction the chain source does not have, in the order of
    /// discovery.
    nowhere: Vec<(Txid, ChannelId)>,
    /// Channels about whose funding transaction the chain source has not answered yet.
    unknown: HashMap<ChannelId, Pending>,
}

impl Abandoned {
    /// Reads the channels of earlier runs from this folder.
    pub(super) fn read(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let text = secret_file::read_list_or_warn(&file);
        let mut read = Self {
            file,
            nowhere: Vec::new(),
            unknown: HashMap::new(),
        };
        for (funding, channel, is_known) in text.lines().filter_map(line) {
            if is_known {
                read.nowhere.push((funding, channel));
            } else {
                let pending = Pending::new(funding, Instant::now());
                read.unknown.insert(channel, pending);
            }
        }
        read
    }

    /// Adds channels that ended, and writes them to the disk, because LDK asks about their funding
    /// transactions again after a restart.
    pub(super) fn add(&mut self, ended: Vec<(ChannelId, Pending)>) {
        // A channel with a confirmed funding transaction is watched like any other channel.
        let mut ended = ended
            .into_iter()
            .filter(|(_, it)| !it.is_in_a_block())
            .peekable();
        if ended.peek().is_none() || self.unknown.len() >= MAX {
            return;
        }
        self.unknown.extend(ended);
        self.write();
    }

    /// The channels whose funding transactions to ask about now, at most `max`, those that have
    /// waited longest first.
    pub(super) fn ask(&mut self, now: Instant, max: usize) -> Vec<(ChannelId, Txid)> {
        let due = self.unknown.iter_mut();
        let mut due: Vec<_> = due.filter(|(_, it)| it.is_to_be_asked(now)).collect();
        due.sort_by_key(|(_, it)| it.asked);
        let due = due.into_iter().take(max);
        due.map(|(channel, it)| (*channel, it.ask(now))).collect()
    }

    /// Notes where these funding transactions are. If the chain source has a transaction, the node
    /// itself asks about it again.
    pub(super) fn hear(&mut self, answers: &[Heard]) {
        let before = (self.unknown.len(), self.nowhere.len());
        for (channel, funding, seen) in answers {
            let Some(seen) = seen else { continue };
            if *seen != Where::Nowhere {
                // Another channel may have named this transaction before it was broadcast.
                self.nowhere.retain(|(named, _)| named != funding);
            }
            let Some(pending) = self.unknown.remove(channel) else {
                continue;
            };
            if *seen == Where::Nowhere {
                self.nowhere.push((pending.funding, *channel));
            }
        }
        if (self.unknown.len(), self.nowhere.len()) != before {
            let beyond = self.nowhere.len().saturating_sub(MAX);
            self.nowhere.drain(..beyond);
            self.write();
        }
    }

    /// Removes the funding transactions of existing channels. The peer of an ended channel may have
    /// named such a transaction, which is not its own.
    pub(super) fn purge(&mut self, real: &HashSet<Txid>) {
        let before = self.nowhere.len();
        self.nowhere.retain(|(funding, _)| !real.contains(funding));
        if self.nowhere.len() != before {
            self.write();
        }
    }

    /// Funding transactions that the node no longer asks about.
    pub(super) fn fundings(&self) -> impl Iterator<Item = Txid> {
        self.nowhere.iter().map(|(funding, _)| *funding)
    }

    fn write(&self) {
        let nowhere = self.nowhere.iter();
        let nowhere = nowhere.map(|(funding, channel)| format!("{funding} {channel}\n"));
        let unknown = self.unknown.iter();
        let unknown = unknown.map(|(channel, it)| format!("{} {channel} ?\n", it.funding));
        let text: String = nowhere.chain(unknown).collect();
        if let Err(error) = secret_file::replace(&self.file, &text) {
            tracing::warn!("Failed to write {}: {error}", self.file.display());
        }
    }
}

/// Parses a line. Skips an invalid line: the node then asks about its transaction again, which only
/// costs requests.
fn line(text: &str) -> Option<(Txid, ChannelId, bool)> {
    let mut parts = text.split(' ');
    let (funding, channel) = (parts.next()?, parts.next()?);
    let channel: [u8; 32] = hex::decode(channel).ok()?.try_into().ok()?;
    Some((
        funding.parse().ok()?,
        ChannelId(channel),
        parts.next().is_none(),
    ))
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    fn funding(byte: u8) -> Txid {
        Txid::from_byte_array([byte; 32])
    }

    /// A channel that has ended.
    fn ended(byte: u8, seen: Option<Where>) -> (ChannelId, Pending) {
        let pending = Pending {
            seen,
            ..Pending::new(funding(byte), Instant::now())
        };
        (ChannelId([byte; 32]), pending)
    }

    fn left(abandoned: &Abandoned) -> Vec<Txid> {
        abandoned.fundings().collect()
    }

    #[test]
    fn only_what_is_nowhere_is_asked_for_no_more_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut abandoned = Abandoned::read(folder.path());
        abandoned.add(vec![
            ended(1, None),
            ended(2, None),
            ended(3, Some(Where::Block)),
        ]);
        assert_eq!(left(&abandoned), []);
        let mut again = Abandoned::read(folder.path());
        let mut asked = again.ask(Instant::now(), 10);
        asked.sort_unstable();
        let id = |byte| ChannelId([byte; 32]);
        assert_eq!(asked, [(id(1), funding(1)), (id(2), funding(2))]);
        again.hear(&[
            (id(1), funding(1), Some(Where::Nowhere)),
            (id(2), funding(2), None),
        ]);
        assert_eq!(left(&again), [funding(1)]);
        let mut again = Abandoned::read(folder.path());
        assert_eq!(left(&again), [funding(1)]);
        again.hear(&[(id(2), funding(2), Some(Where::Mempool))]);
        assert_eq!(left(&again), [funding(1)]);
        // Another channel names the first transaction, and it appears in the mempool.
        again.hear(&[(id(7), funding(1), Some(Where::Mempool))]);
        assert_eq!(left(&again), []);
        assert_eq!(again.ask(Instant::now(), 10), []);
    }

    #[test]
    fn the_funding_of_a_channel_that_there_is_is_asked_for_whoever_named_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut abandoned = Abandoned::read(folder.path());
        abandoned.add(vec![ended(1, None), ended(2, None)]);
        let id = |byte| ChannelId([byte; 32]);
        let nowhere = Some(Where::Nowhere);
        abandoned.hear(&[(id(1), funding(1), nowhere), (id(2), funding(2), nowhere)]);
        abandoned.purge(&HashSet::from([funding(1)]));
        assert_eq!(left(&abandoned), [funding(2)]);
        assert_eq!(left(&Abandoned::read(folder.path())), [funding(2)]);
    }

    #[test]
    fn lines_that_cannot_be_read_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "nonsense\n\n").unwrap();
        assert_eq!(left(&Abandoned::read(folder.path())), []);
    }
}
