//! `regtest soak`: the merchant killed again and again, as a command.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Args;
use regtest::soak::{SoakOptions, random_seed, soak};
use regtest::{environment, folder};

use crate::stop::Signals;
use crate::tell;

/// Kill the merchant at random moments with payments in flight, and look for every payment and every satoshi.
///
/// Ends well only if nothing was lost. The last line on standard output is a JSON object; progress goes to standard error. At
/// the first Ctrl-C it ends after the cycle under way, at the second at once. Takes some three seconds a cycle, and ten more
/// when a channel was closed.
#[derive(Debug, Args)]
pub(crate) struct Soaking {
    /// How often.
    #[arg(long, value_name = "N", default_value_t = 20)]
    cycles: u32,
    /// Buyers at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=48))]
    in_flight: u16,
    /// What the moments are drawn from; printed, to draw the same ones again. Without it: a random one.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// For comparison: tell the merchant to stop (SIGTERM) at these moments instead of killing it.
    #[arg(long)]
    without_kills: bool,
    /// Let a hostile peer bother the merchant all the while: channels that are never funded or given up at once, payments of 1 msat
    /// without an invoice, idle sockets.
    #[arg(long)]
    hostile: bool,
}

impl Soaking {
    /// Soaks, and prints what came of it.
    pub(crate) async fn run(
        self,
        tollhouse_exe: Option<PathBuf>,
        signals: &mut Signals,
    ) -> Result<()> {
        let exe = tollhouse_exe.map_or_else(environment::tollhouse_exe, Ok)?;
        // A copy: what is built meanwhile must not be what is started after the next kill.
        let dir = folder::temporary()?;
        let copy = dir.path().join("tollhouse");
        std::fs::copy(&exe, &copy).with_context(|| format!("failed to copy {}", exe.display()))?;
        let stop = AtomicBool::new(false);
        let options = SoakOptions {
            tollhouse_exe: copy,
            cycles: self.cycles,
            in_flight: usize::from(self.in_flight),
            seed: self.seed.unwrap_or_else(random_seed),
            kills: !self.without_kills,
            hostile: self.hostile,
            tell: |line| eprintln!("{line}"),
        };
        let soaking = soak(options, &stop);
        tokio::pin!(soaking);
        let outcome = loop {
            tokio::select! {
                outcome = &mut soaking => break outcome?,
                () = signals.recv() => {
                    if stop.swap(true, Ordering::AcqRel) {
                        bail!("told to stop twice: it ends without a result");
                    }
                    eprintln!("this cycle is the last one; Ctrl-C again to end at once");
                }
            }
        };
        tell::line(&serde_json::to_string(&outcome).context("failed to write JSON")?);
        if !outcome.is_clean() {
            bail!("something was lost, or is there that should not be: see above");
        }
        Ok(())
    }
}
