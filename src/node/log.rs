//! Writes ldk-node's log to the program's log, without lines that may contain a payment's secret.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ldk_node::logger::{LogLevel, LogRecord, LogWriter};
use tokio::sync::watch;

use crate::account::ledger::Claims;
use crate::base::sparing::Sparing;
use crate::channel_state::vss::Lost;
use crate::channel_state::vss::headers::Current;

/// An error that ldk-node logs after each stateless sale, because it looks for a record that by
/// design does not exist.
const EXPECTED: &str = "couldn't be found in store";

/// An error that ldk-node logs once an hour if gossip is switched off, because its gossip URL then
/// does not work.
const NO_GOSSIP: &str = "sync of RGS gossip data failed";

/// A line that ldk-node logs as an error although it is expected. While coins are missing, a peer
/// that the settings do not name gets no channel with anchors. Any peer can cause this line.
const REFUSED: &str = "Rejecting inbound Anchor channel from peer";

/// The beginnings of the lines that LDK and ldk-node log before they panic, because the node's
/// state could not be written.
const GIVEN_UP: [&str; 2] = [
    "Failed to process events",
    "ChannelMonitor[Update] persistence failed unrecoverably",
];

/// Writes ldk-node's log to `tracing` under the target `ldk`.
#[derive(Debug)]
pub(super) struct ToTracing {
    /// Whether a failed fetch of gossip is logged as an error.
    pub(super) wants_gossip: bool,
    /// Receives the report that LDK has given up. LDK then panics in a task that nothing
    /// supervises.
    pub(super) lost: watch::Sender<Lost>,
    /// The last errors of ldk-node.
    pub(super) said: Arc<Said>,
    /// Receives the payments that the node claims.
    pub(super) claims: Arc<Claims>,
    /// The request headers for the server that keeps the state. They are removed from the lines,
    /// because the server may repeat them.
    pub(super) headers: Option<Arc<Current>>,
    /// Limits the number of lines, because peers cause many of LDK's lines and could flood the log.
    pub(super) sparing: Arc<Sparing>,
}

/// The maximum number of lines in a minute from one place in LDK. A node with some channels writes
/// a few.
pub(super) const LINES_MAX: u64 = 50;

/// The maximum number of errors that are kept. ldk-node logs two or three for one failure, from the
/// cause to the result.
const SAID_MAX: usize = 4;

/// The last errors of ldk-node, the newest first. They tell why an operation failed. A `std` mutex:
/// held to copy a few lines.
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
    /// The line without request headers; `None` if it may contain a secret.
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
            // At debug level, the number of lines is not limited.
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

/// The beginning of LDK's line before it writes its state. At that time LDK has repeated all
/// payments from before the start.
const WRITES_STATE: &str = "Persisting ChannelManager";

/// The beginnings of ldk-node's lines for a payment that arrived, and for a payment that it claims.
const ARRIVED: &str = "Received payment from payment hash ";
const CLAIMED: &str = "Claimed payment with ID ";

/// Finds claimed payments in the log, because ldk-node reports them nowhere else. Only the
/// beginnings of ldk-node's own lines count, which no peer can influence. A claim that is missed
/// here counts as a repeated one, which adds nothing to the ledger.
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
                // The id of an incoming payment is its payment hash.
                claims.claim(&hash);
            }
        }
        _ => {}
    }
}

/// Whether LDK has given up. Only the beginning of the line counts. The rest may quote a peer, who
/// must not be able to end the program.
fn has_given_up(text: &str) -> bool {
    GIVEN_UP.iter().any(|said| text.starts_with(said))
}

/// The replacement for a warning or error that may contain a secret, so that the log shows that it
/// happened.
fn withheld() -> String {
    "(withheld: the line speaks of a preimage or a secret, or of keys that show all addresses)"
        .to_owned()
}

/// The text, or a replacement if it may contain a secret.
pub(super) fn harmless(text: &str) -> String {
    if is_telling(text) {
        withheld()
    } else {
        text.to_owned()
    }
}

/// Whether a line may contain a secret, so that it must be left out. LDK prints preimages, payment
/// secrets, and whole invoices, which contain such a secret. If the wallet does not match the seed,
/// its extended public keys are printed.
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
