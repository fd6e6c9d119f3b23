//! ldk-node's log, into ours: filtered, so that no secret of a payment is ever in it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ldk_node::logger::{LogLevel, LogRecord, LogWriter};
use tokio::sync::watch;

use crate::account::ledger::Claims;
use crate::base::sparing::Sparing;
use crate::channel_state::vss::Lost;
use crate::channel_state::vss::headers::Current;

/// What ldk-node complains about after each stateless sale: it looks for a record that was never to be.
const EXPECTED: &str = "couldn't be found in store";

/// What ldk-node complains about once an hour where it has no gossip to fetch, which is how it is told to want none.
const NO_GOSSIP: &str = "sync of RGS gossip data failed";

/// What ldk-node calls an error although it is how it should be: peers that the settings do not name get no channel with anchors
/// while coins are missing. Anybody can cause the line.
const REFUSED: &str = "Rejecting inbound Anchor channel from peer";

/// How the lines begin that LDK and ldk-node write when the node's state could not be written, whereupon they panic.
const GIVEN_UP: [&str; 2] = [
    "Failed to process events",
    "ChannelMonitor[Update] persistence failed unrecoverably",
];

/// Writes to `tracing` under the target `ldk`.
#[derive(Debug)]
pub(super) struct ToTracing {
    /// Whether gossip that cannot be fetched is a complaint.
    pub(super) wants_gossip: bool,
    /// Where it is said that LDK has given up: it panics behind that, in a task that nobody looks after.
    pub(super) lost: watch::Sender<Lost>,
    /// What it complains about.
    pub(super) said: Arc<Said>,
    /// Where it is said which payments are claimed.
    pub(super) claims: Arc<Claims>,
    /// What a server that keeps the state is asked with, and may say back.
    pub(super) headers: Option<Arc<Current>>,
    /// Much of what LDK says is what a peer does, or pretends.
    pub(super) sparing: Arc<Sparing>,
}

/// Lines that one place in LDK may write in a minute: a node with some channels writes a few.
pub(super) const LINES_MAX: u64 = 50;

/// Complaints that are kept: of one failure ldk-node speaks twice or three times, from the cause to what came of it.
const SAID_MAX: usize = 4;

/// ldk-node's last complaints, the newest first: where it fails it says in the log why. A std mutex: held to copy a few lines.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<VecDeque<String>>);

impl Said {
    fn add(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.truncate(SAID_MAX - 1);
        lines.push_front(line);
    }

    /// The lines, the newest first.
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

impl ToTracing {
    /// The line, if it may be in the log.
    fn harmless(&self, record: &LogRecord<'_>) -> Option<String> {
        let text = record.args.to_string();
        if is_telling(&text) {
            return None;
        }
        Some(match &self.headers {
            None => text,
            Some(headers) => headers.without(text),
        })
    }
}

impl LogWriter for ToTracing {
    fn log<'a>(&self, record: LogRecord<'a>) {
        let module = record.module_path;
        hear_claims(&self.claims, &record);
        let may = |level| {
            // Whoever asks for more wants it all.
            tracing::enabled!(target: "ldk", tracing::Level::DEBUG)
                || self
                    .sparing
                    .may(level, "ldk", &format!("{module}:{}", record.line))
        };
        match record.level {
            LogLevel::Gossip | LogLevel::Trace => {
                if tracing::enabled!(target: "ldk", tracing::Level::TRACE)
                    && let Some(text) = self.harmless(&record)
                {
                    tracing::trace!(target: "ldk", module, "{text}");
                }
            }
            LogLevel::Debug => {
                if tracing::enabled!(target: "ldk", tracing::Level::DEBUG)
                    && let Some(text) = self.harmless(&record)
                {
                    tracing::debug!(target: "ldk", module, "{text}");
                }
            }
            LogLevel::Info => {
                if may(tracing::Level::INFO)
                    && let Some(text) = self.harmless(&record)
                {
                    tracing::info!(target: "ldk", module, "{text}");
                }
            }
            LogLevel::Warn => {
                if may(tracing::Level::WARN) {
                    let text = self.harmless(&record).unwrap_or_else(withheld);
                    tracing::warn!(target: "ldk", module, "{text}");
                }
            }
            LogLevel::Error => {
                let text = self.harmless(&record).unwrap_or_else(withheld);
                let said = record.args.to_string();
                if has_given_up(&said) {
                    self.lost.send_replace(Lost::GivenUp);
                }
                self.said.add(said);
                let is_expected = text.starts_with(REFUSED)
                    || text.contains(EXPECTED)
                    || (!self.wants_gossip && text.contains(NO_GOSSIP));
                if !is_expected && may(tracing::Level::ERROR) {
                    tracing::error!(target: "ldk", module, "{text}");
                }
            }
        }
    }
}

/// How LDK begins the line that it is about to write its state, for which it has handled all that it repeats after a start.
const WRITES_STATE: &str = "Persisting ChannelManager";

/// How ldk-node begins the lines that a payment is here, and that it is claimed.
const ARRIVED: &str = "Received payment from payment hash ";
const CLAIMED: &str = "Claimed payment with ID ";

/// Hears which payments are claimed: of that ldk-node tells only in its log. Lines of its own only, by their beginning: no peer
/// has a say in them. What is not heard here is taken for what was told before, which adds nothing to the books.
fn hear_claims(claims: &Claims, record: &LogRecord<'_>) {
    match (record.level, record.module_path) {
        (LogLevel::Trace, "lightning_background_processor")
            if !claims.is_past_replays() && record.args.to_string().starts_with(WRITES_STATE) =>
        {
            claims.end_replays();
        }
        (LogLevel::Info, "ldk_node::event") => {
            let text = record.args.to_string();
            let hash = |digits: &str| {
                let mut hash = [0; 32];
                hex::decode_to_slice(digits.get(..64)?, &mut hash).ok()?;
                Some(hash)
            };
            if let Some(hash) = text.strip_prefix(ARRIVED).and_then(hash) {
                claims.arrive(hash);
            } else if let Some(hash) = text.strip_prefix(CLAIMED).and_then(hash) {
                // The id of a payment that comes in is its hash.
                claims.claim(&hash);
            }
        }
        _ => {}
    }
}

/// Whether LDK goes no further. Only by how a line begins: further on it may hold what a peer has said, who must not end the
/// program by it.
fn has_given_up(text: &str) -> bool {
    GIVEN_UP.iter().any(|said| text.starts_with(said))
}

/// What stands for a warning that may hold a secret: that there was one is worth knowing.
fn withheld() -> String {
    "(withheld: the line speaks of a preimage or a secret, or of keys that show all addresses)"
        .to_owned()
}

/// The text, or what stands for it if it may hold a secret.
pub(super) fn harmless(text: &str) -> String {
    if is_telling(text) {
        withheld()
    } else {
        text.to_owned()
    }
}

/// LDK prints preimages and payment secrets, and whole invoices, which hold such a secret, and the wallet, where it does not fit
/// the seed, its extended public keys: lines that speak of them are left out.
fn is_telling(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let tells = ["preimage", "secret", "invoice created", "xpub", "tpub"];
    tells.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_said_the_last_lines_are_kept() {
        let said = Said::default();
        for line in 0..9 {
            said.add(line.to_string());
        }
        assert_eq!(said.lines(), ["8", "7", "6", "5"]);
    }

    #[test]
    fn the_lines_that_tell_of_claims_are_heard() {
        let hash = [0xab; 32];
        let digits = hex::encode(hash);
        let claims = Claims::default();
        let hear = |level, module_path, text: String| {
            hear_claims(
                &claims,
                &LogRecord {
                    level,
                    module_path,
                    line: 1,
                    args: format_args!("{text}"),
                },
            );
        };
        let event = "ldk_node::event";
        hear(
            LogLevel::Info,
            event,
            format!("{ARRIVED}{digits} of 1000msat"),
        );
        assert!(claims.is_arriving(&hash));
        hear(
            LogLevel::Info,
            event,
            format!("{CLAIMED}{digits} from payment hash {digits} of 1000msat."),
        );
        assert!(!claims.is_new(&hash), "it may be repeated");
        let processor = "lightning_background_processor";
        hear(LogLevel::Trace, processor, format!("{WRITES_STATE}..."));
        hear(
            LogLevel::Info,
            "lightning::ln",
            format!("{ARRIVED}{digits} of 1000msat"),
        );
        hear(
            LogLevel::Info,
            event,
            format!("{CLAIMED}{digits} from payment hash {digits} of 1000msat."),
        );
        assert!(!claims.is_new(&hash));
        hear(
            LogLevel::Info,
            event,
            format!("{ARRIVED}{digits} of 1000msat"),
        );
        hear(
            LogLevel::Info,
            event,
            format!("{CLAIMED}{digits} from payment hash {digits} of 1000msat."),
        );
        assert!(claims.is_new(&hash));
    }

    #[test]
    fn no_peer_ends_the_program_by_what_it_says() {
        for said in GIVEN_UP {
            assert!(has_given_up(&format!("{said}: the disk is gone")));
            let quoted = format!("Closing channel: the peer said: {said}");
            assert!(!has_given_up(&quoted), "{quoted}");
        }
    }
}
