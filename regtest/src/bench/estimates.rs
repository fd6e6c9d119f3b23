//! What criterion measured of the parts, read from the files that it leaves.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// Medians of the parts, in µs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// Making an invoice.
    pub(super) mint_invoice_us: f64,
    /// Making a token.
    pub(super) mint_token_us: f64,
    /// Reading and verifying a credential.
    pub(super) verify_us: f64,
    /// Verifying and reserving with a million tokens in the ledger, as a multiple of the same with a thousand.
    pub(super) million_ratio: f64,
    /// A year of a thousand sales a day.
    pub(super) year: Year,
}

/// What the benchmark `year` measured.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Year {
    /// The ledger's files, MB.
    pub(super) disk_mb: f64,
    /// Opening it, ms.
    pub(super) start_ms: f64,
    /// Reading all sales out, ms.
    pub(super) export_ms: f64,
}

/// Reads the medians in this folder, or in the one beside the folder of the running program.
pub(super) fn read(folder: Option<&Path>) -> Result<Parts> {
    let folder = match folder {
        Some(folder) => folder.to_owned(),
        None => beside_us()?,
    };
    Ok(Parts {
        mint_invoice_us: median_us(&folder, "mint_invoice")?,
        mint_token_us: median_us(&folder, "mint_token")?,
        verify_us: median_us(&folder, "verify")?,
        million_ratio: median_us(&folder, "reserve_million")?
            / median_us(&folder, "reserve_thousand")?,
        year: year(&folder)?,
    })
}

/// `target/criterion`, of a program in `target/release`.
fn beside_us() -> Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find the running program")?;
    let target = own
        .ancestors()
        .nth(2)
        .context("the running program lies in no target folder: give --criterion DIR")?;
    Ok(target.join("criterion"))
}

/// What `cargo bench --bench year` left there.
fn year(folder: &Path) -> Result<Year> {
    let file = folder.join("year.json");
    let failed = || {
        format!(
            "nothing of a year in {}: run `cargo bench --bench year -- {0}` first, or scripts/bench, which does",
            file.display()
        )
    };
    let text = std::fs::read_to_string(&file).with_context(failed)?;
    serde_json::from_str(&text).with_context(failed)
}

/// The median of one benchmark; criterion writes nanoseconds.
fn median_us(folder: &Path, name: &str) -> Result<f64> {
    let file = folder.join(name).join("new/estimates.json");
    let failed = || {
        format!(
            "no estimate of {name} in {}: run `cargo bench --bench parts` first, or scripts/bench, which does",
            file.display()
        )
    };
    let text = std::fs::read_to_string(&file).with_context(failed)?;
    let estimates: Value = serde_json::from_str(&text).with_context(failed)?;
    let nanoseconds = estimates["median"]["point_estimate"]
        .as_f64()
        .with_context(failed)?;
    Ok(nanoseconds / 1e3)
}
