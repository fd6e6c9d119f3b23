//! End to end: the shipped program with real money on a regtest chain of its own. Needs a `bitcoind`; `scripts/test e2e`
//! finds or fetches one.

#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod backup;
mod bundle;
mod chain_source;
mod coins;
mod command_line;
mod crowded;
mod displaced;
mod drill;
mod embedded;
mod esplora;
mod first_sat;
mod full_disk;
mod gossip;
mod harness;
mod hostile;
mod init;
mod keeping;
mod limits;
mod log;
mod newcomer;
mod operations;
mod operator;
mod output;
mod program;
mod reload;
mod restart;
mod sale;
mod selling;
mod shop;
mod shutdown;
mod soak;
mod stale;
mod token;
mod torn;
mod unfunded;
mod unheard;
mod vss;
mod vss_trouble;
mod withdrawal;
mod wrong_clock;
