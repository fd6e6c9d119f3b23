//! The numbers of a run: as a table with their targets, and as a JSON object.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::estimates::Parts;
use crate::tell;

/// Everything that is measured. The fields' names are an interface: they are the keys of the JSON object.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Making an invoice with one route hint, µs.
    pub(super) mint_invoice_us: f64,
    /// Making a token with three caveats, µs.
    pub(super) mint_token_us: f64,
    /// From the request's headers to a verified credential with three caveats, µs.
    pub(super) verify_us: f64,
    /// Verifying and reserving with a million tokens in the ledger, as a multiple of the same with a thousand.
    pub(super) million_ratio: f64,
    /// 402 answers a second.
    pub(super) challenges_per_sec: f64,
    /// Flushes to the disk for each of them.
    pub(super) fsyncs_per_challenge: f64,
    /// Requests a second of a guarded file of 10 KB, as a part of those of the same file unguarded.
    pub(super) guarded_ratio_files: f64,
    /// The same of an upstream.
    pub(super) guarded_ratio_upstream: f64,
    /// The same of a file of 20 bytes.
    pub(super) guarded_ratio_small: f64,
    /// Requests per second of a guarded 10 KB file, divided by those of nginx for the same file unguarded.
    pub(super) files_vs_nginx: f64,
    /// The same for a 20-byte file.
    pub(super) files_small_vs_nginx: f64,
    /// The same for an upstream.
    pub(super) proxy_vs_nginx: f64,
    /// From the start of the process to its first 402, ms.
    pub(super) first_402_ms: f64,
    /// From a 402 to the paid answer, ms, median.
    pub(super) pay_ms_p50: f64,
    /// Memory at rest after a few sales, MB.
    pub(super) rss_idle_mb: f64,
    /// Memory after a million unpaid challenges from ten thousand addresses, MB.
    pub(super) rss_after_flood_mb: f64,
    /// What the data folder has grown by after that, MB.
    pub(super) disk_growth_mb: f64,
    /// Requests that failed while the settings were read again and again.
    pub(super) reload_failed: f64,
    /// From the start of the process until it can be paid, with one channel, ms.
    pub(super) ready_1_channel_ms: f64,
    /// The same with fifty channels.
    pub(super) ready_50_channels_ms: f64,
    /// Bytes written to the disk for a sale.
    pub(super) disk_bytes_per_sale: f64,
    /// Requests to the chain source in an hour without a sale.
    pub(super) esplora_per_idle_hour: f64,
    /// What is written to the disk in an hour without a sale, MB.
    pub(super) disk_mb_per_idle_hour: f64,
    /// Memory at rest with fifty channels and no map of the network, MB.
    pub(super) rss_gossip_off_mb: f64,
    /// The same with a map as large as mainnet's, MB.
    pub(super) rss_gossip_on_mb: f64,
    /// The ledger after a year of a thousand sales a day, MB.
    pub(super) year_disk_mb: f64,
    /// Opening it, ms.
    pub(super) year_start_ms: f64,
    /// Reading all its sales out, ms.
    pub(super) year_export_ms: f64,
    /// The shipped file, MB.
    pub(super) binary_mb: f64,
}

impl Default for Report {
    /// Nothing measured yet.
    fn default() -> Self {
        Self {
            mint_invoice_us: f64::NAN,
            mint_token_us: f64::NAN,
            verify_us: f64::NAN,
            million_ratio: f64::NAN,
            challenges_per_sec: f64::NAN,
            fsyncs_per_challenge: f64::NAN,
            guarded_ratio_files: f64::NAN,
            guarded_ratio_upstream: f64::NAN,
            guarded_ratio_small: f64::NAN,
            files_vs_nginx: f64::NAN,
            files_small_vs_nginx: f64::NAN,
            proxy_vs_nginx: f64::NAN,
            first_402_ms: f64::NAN,
            pay_ms_p50: f64::NAN,
            rss_idle_mb: f64::NAN,
            rss_after_flood_mb: f64::NAN,
            disk_growth_mb: f64::NAN,
            reload_failed: f64::NAN,
            ready_1_channel_ms: f64::NAN,
            ready_50_channels_ms: f64::NAN,
            disk_bytes_per_sale: f64::NAN,
            esplora_per_idle_hour: f64::NAN,
            disk_mb_per_idle_hour: f64::NAN,
            rss_gossip_off_mb: f64::NAN,
            rss_gossip_on_mb: f64::NAN,
            year_disk_mb: f64::NAN,
            year_start_ms: f64::NAN,
            year_export_ms: f64::NAN,
            binary_mb: f64::NAN,
        }
    }
}

/// What a number should be.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// Whatever it is.
    Report,
    /// Less than this.
    Below(f64),
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Target {
    /// How the target is written.
    fn text(self, digits: usize) -> String {
        match self {
            Self::Report => String::new(),
            Self::Below(limit) => format!("< {limit:.digits$}"),
            Self::AtMost(limit) => format!("≤ {limit:.digits$}"),
            Self::AtLeast(limit) => format!("≥ {limit:.digits$}"),
        }
    }

    /// Whether the number is what it should be.
    fn verdict(self, value: f64) -> &'static str {
        if value.is_nan() {
            return "not measured";
        }
        let is_met = match self {
            Self::Report => return "",
            Self::Below(limit) => value < limit,
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        };
        if is_met { "met" } else { "MISSED" }
    }
}

/// A line of the table.
struct Row {
    /// The key.
    key: &'static str,
    /// The number.
    value: f64,
    /// Digits behind the point.
    digits: usize,
    /// What it should be.
    target: Target,
}

impl Report {
    /// Enters what criterion measured.
    pub(super) fn set_parts(&mut self, parts: Parts) {
        self.mint_invoice_us = rounded(parts.mint_invoice_us);
        self.mint_token_us = rounded(parts.mint_token_us);
        self.verify_us = rounded(parts.verify_us);
        self.million_ratio = rounded(parts.million_ratio);
        self.year_disk_mb = rounded(parts.year.disk_mb);
        self.year_start_ms = rounded(parts.year.start_ms);
        self.year_export_ms = rounded(parts.year.export_ms);
    }

    /// Shows the table.
    pub(super) fn tell(&self) {
        tell::line(&format!("  {:24}{:>12}   {:14}", "", "measured", "target"));
        for row in self.rows() {
            let Row {
                key,
                value,
                digits,
                target,
            } = row;
            let line = format!(
                "  {key:24}{value:>12.digits$}   {:14}{}",
                target.text(digits),
                target.verdict(value)
            );
            tell::line(line.trim_end());
        }
    }

    /// Writes the JSON object.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("failed to write JSON")?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
    }

    /// Every number with its target.
    #[rustfmt::skip] // A table reads best as one.
    fn rows(&self) -> [Row; 29] {
        use Target::{AtLeast, AtMost, Below, Report};
        let row = |key, value, digits, target| Row { key, value, digits, target };
        [
            row("mint_invoice_us", self.mint_invoice_us, 2, Report),
            row("mint_token_us", self.mint_token_us, 2, Report),
            row("verify_us", self.verify_us, 2, Below(3.0)),
            row("million_ratio", self.million_ratio, 3, AtMost(1.05)),
            row("challenges_per_sec", self.challenges_per_sec, 0, AtLeast(22_000.0)),
            row("fsyncs_per_challenge", self.fsyncs_per_challenge, 5, Below(0.01)),
            row("guarded_ratio_files", self.guarded_ratio_files, 3, AtLeast(0.95)),
            row("guarded_ratio_upstream", self.guarded_ratio_upstream, 3, AtLeast(0.95)),
            row("guarded_ratio_small", self.guarded_ratio_small, 3, AtLeast(0.85)),
            row("files_vs_nginx", self.files_vs_nginx, 3, AtLeast(0.6)),
            row("files_small_vs_nginx", self.files_small_vs_nginx, 3, AtLeast(0.6)),
            row("proxy_vs_nginx", self.proxy_vs_nginx, 3, AtLeast(0.85)),
            row("first_402_ms", self.first_402_ms, 0, Below(1_000.0)),
            row("pay_ms_p50", self.pay_ms_p50, 1, Below(150.0)),
            row("rss_idle_mb", self.rss_idle_mb, 1, Below(40.0)),
            row("rss_after_flood_mb", self.rss_after_flood_mb, 1, AtMost(1.25 * self.rss_idle_mb)),
            row("disk_growth_mb", self.disk_growth_mb, 1, Below(20.0)),
            row("reload_failed", self.reload_failed, 0, AtMost(0.0)),
            row("ready_1_channel_ms", self.ready_1_channel_ms, 0, Report),
            row("ready_50_channels_ms", self.ready_50_channels_ms, 0, Report),
            row("disk_bytes_per_sale", self.disk_bytes_per_sale, 0, Report),
            row("esplora_per_idle_hour", self.esplora_per_idle_hour, 0, Below(700.0)),
            row("disk_mb_per_idle_hour", self.disk_mb_per_idle_hour, 2, Report),
            row("rss_gossip_off_mb", self.rss_gossip_off_mb, 1, Report),
            row("rss_gossip_on_mb", self.rss_gossip_on_mb, 1, Report),
            row("year_disk_mb", self.year_disk_mb, 1, Report),
            row("year_start_ms", self.year_start_ms, 0, Report),
            row("year_export_ms", self.year_export_ms, 0, Report),
            row("binary_mb", self.binary_mb, 1, Below(30.0)),
        ]
    }
}

/// Six digits behind the point: more than any of these measurements has.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_table_are_those_of_the_object() {
        let report = Report::default();
        let object = serde_json::to_value(&report).unwrap();
        let mut keys: Vec<_> = report.rows().iter().map(|row| row.key.to_owned()).collect();
        keys.sort();
        let mut fields: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        assert_eq!(keys, fields);
    }

    #[test]
    fn a_number_on_the_limit_is_judged_as_the_target_says() {
        assert_eq!(Target::Below(3.0).verdict(3.0), "MISSED");
        assert_eq!(Target::AtMost(3.0).verdict(3.0), "met");
        assert_eq!(Target::AtLeast(3.0).verdict(3.0), "met");
        assert_eq!(Target::AtLeast(3.0).verdict(f64::NAN), "not measured");
        assert_eq!(Target::Report.verdict(3.0), "");
    }
}
