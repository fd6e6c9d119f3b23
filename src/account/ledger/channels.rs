//! Channels in the ledger: when each became ready, and how it ended.

use super::error::LedgerError;
use super::journal::Line;
use super::record::{ChannelRecord, REASON_CHARS_MAX};
use super::state::{Books, Ledger};

impl Ledger {
    /// Records a channel that is ready. Blocks on the disk.
    pub fn open_channel(
        &self,
        channel_id: [u8; 32],
        counterparty: Option<String>,
    ) -> Result<(), LedgerError> {
        self.change(|books| {
            if self.trees.channels.get(&channel_id)?.is_some() {
                return Ok(());
            }
            let channel = ChannelRecord {
                channel_id,
                counterparty,
                ready_ms: self.clock.unix_ms(),
                closed_ms: None,
                reason: None,
            };
            self.write_channel(books, channel)
        })
    }

    /// Records the end of a channel. Returns whether the channel was ever ready: only such channels
    /// are recorded. Blocks on the disk.
    pub fn close_channel(&self, channel_id: [u8; 32], reason: &str) -> Result<bool, LedgerError> {
        self.change(|books| {
            let Some(mut channel) = self.trees.channels.get(&channel_id)? else {
                return Ok(false);
            };
            if channel.closed_ms.is_none() {
                channel.closed_ms = Some(self.clock.unix_ms());
                channel.reason = Some(reason.chars().take(REASON_CHARS_MAX).collect());
                self.write_channel(books, channel)?;
            }
            Ok(true)
        })
    }

    fn write_channel(&self, books: &mut Books, channel: ChannelRecord) -> Result<(), LedgerError> {
        books.journal.append([&Line::Channel(channel.clone())])?;
        books.journal.sync()?;
        self.trees.channels.put(&channel.channel_id, &channel)?;
        Ok(self.store.flush_blocking()?)
    }

    /// Returns the record of this channel; `None` if the channel was never ready.
    pub fn channel(&self, channel_id: &[u8; 32]) -> Result<Option<ChannelRecord>, LedgerError> {
        self.using(|| Ok(self.trees.channels.get(channel_id)?))
    }

    /// Whether any recorded channel is still open.
    pub fn has_open_channel(&self) -> Result<bool, LedgerError> {
        self.using(|| {
            for entry in self.trees.channels.iter() {
                let (_, channel) = entry?;
                if channel.closed_ms.is_none() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Returns closed channels, the newest first, at most this many.
    pub fn closed_channels(&self, max: usize) -> Result<Vec<ChannelRecord>, LedgerError> {
        self.using(|| {
            let all = self.trees.channels.iter();
            let mut closed: Vec<ChannelRecord> = all
                .map(|entry| entry.map(|(_, channel)| channel))
                .filter(|channel| !matches!(channel, Ok(channel) if channel.closed_ms.is_none()))
                .collect::<Result<_, _>>()?;
            closed.sort_by_key(|channel| std::cmp::Reverse(channel.closed_ms));
            closed.truncate(max);
            Ok(closed)
        })
    }
}
