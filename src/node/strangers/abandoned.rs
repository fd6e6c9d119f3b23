//! Channels that were closed before anybody saw their funding. LDK would go on asking for it as long as it keeps the channel's
//! monitor, which is for ever.
//!
//! Nothing of ours is in such a channel, or its money does not exist. Should its funding be broadcast after all, it is the
//! peer's own money that waits for the peer to close.

use std::path::{Path, PathBuf};

use bitcoin::Txid;
use lightning::ln::types::ChannelId;

use crate::secret_file;

/// One channel a line, in the node's folder: the transaction that was to fund it, and its id.
const FILE: &str = "channels.abandoned";

/// Beyond this the oldest are asked for again. Each is 130 bytes here, and its monitor some thousands on the disk.
const MAX: usize = 10_000;

/// The abandoned channels.
#[derive(Debug)]
pub(super) struct Abandoned {
    file: PathBuf,
    /// In the order in which they were abandoned.
    channels: Vec<(Txid, ChannelId)>,
}

impl Abandoned {
    /// Those of earlier runs.
    pub(super) fn read(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!("Failed to read {}: {error}", file.display());
                }
                String::new()
            }
        };
        Self {
            file,
            channels: text.lines().filter_map(line).collect(),
        }
    }

    /// Adds one, on the disk too: after a restart LDK asks for it again.
    pub(super) fn add(&mut self, funding: Txid, channel: ChannelId) {
        if self.channels.iter().any(|(known, _)| *known == funding) {
            return;
        }
        if self.channels.len() >= MAX {
            self.channels.remove(0);
        }
        self.channels.push((funding, channel));
        let text: String = self
            .channels
            .iter()
            .map(|(funding, channel)| format!("{funding} {channel}\n"))
            .collect();
        if let Err(error) = secret_file::replace(&self.file, &text) {
            tracing::warn!("Failed to write {}: {error}", self.file.display());
        }
    }

    /// The transactions that nobody waits for.
    pub(super) fn fundings(&self) -> impl Iterator<Item = Txid> {
        self.channels.iter().map(|(funding, _)| *funding)
    }
}

/// A line that cannot be read is passed over: its transaction is asked for again, which costs requests and nothing else.
fn line(text: &str) -> Option<(Txid, ChannelId)> {
    let (funding, channel) = text.split_once(' ')?;
    let channel: [u8; 32] = hex::decode(channel).ok()?.try_into().ok()?;
    Some((funding.parse().ok()?, ChannelId(channel)))
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    #[test]
    fn what_was_abandoned_stays_so_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let funding = |byte| Txid::from_byte_array([byte; 32]);
        let mut abandoned = Abandoned::read(folder.path());
        for byte in [1, 2, 1] {
            abandoned.add(funding(byte), ChannelId([byte; 32]));
        }
        let again = Abandoned::read(folder.path());
        let found: Vec<_> = again.fundings().collect();
        assert_eq!(found, [funding(1), funding(2)]);
        std::fs::write(folder.path().join(FILE), "nonsense\n\n").unwrap();
        assert_eq!(Abandoned::read(folder.path()).fundings().count(), 0);
    }
}
