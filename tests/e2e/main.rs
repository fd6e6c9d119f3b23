//! End to end: the shipped program with real money on a regtest chain of its own. Needs a `bitcoind`; `scripts/test e2e`
//! finds or fetches one.

mod chain_source;
mod command_line;
mod crash;
mod esplora;
mod harness;
mod operator;
mod restart;
mod sale;
mod shop;
mod shutdown;
mod token;
