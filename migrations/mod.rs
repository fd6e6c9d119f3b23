//! The steps from an empty store to the newest format, forward only, each in its own file.
//!
//! The store keeps the format version under its own key, and the program checks it before it reads
//! anything else. An old program refuses a newer store. The doc comment of each file is the schema
//! after its step.

mod m0001_first_ledger;
mod m0002_metered_grants;
mod m0003_activations;
mod m0004_bundles;
mod m0005_surplus;

/// One migration step.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The format version after this step.
    pub version: u32,
    /// The name of the step's file, without the extension.
    pub file: &'static str,
    /// Performs the step. The step may run again after a crash, because the version is written
    /// last.
    pub run: fn(&sled::Db) -> sled::Result<()>,
}

/// Every step, in order.
pub const MIGRATIONS: &[Migration] = &[
    m0001_first_ledger::MIGRATION,
    m0002_metered_grants::MIGRATION,
    m0003_activations::MIGRATION,
    m0004_bundles::MIGRATION,
    m0005_surplus::MIGRATION,
];

/// Rewrites every value of record version 1 as version 2.
fn rewrite(
    tree: &sled::Tree,
    turn: impl Fn(&[u8]) -> Result<Vec<u8>, postcard::Error>,
) -> sled::Result<()> {
    rewrite_from(1, tree, turn)
}

/// Rewrites every value of this record version as the next version. A value of the next version was
/// rewritten before a crash, and is skipped.
fn rewrite_from(
    version: u8,
    tree: &sled::Tree,
    turn: impl Fn(&[u8]) -> Result<Vec<u8>, postcard::Error>,
) -> sled::Result<()> {
    for entry in tree {
        let (key, value) = entry?;
        let Some((found, rest)) = value.split_first() else {
            continue;
        };
        if *found != version {
            continue;
        }
        let rest = turn(rest).map_err(|error| {
            sled::Error::ReportableBug(format!(
                "a record of version {version} cannot be read: {error}"
            ))
        })?;
        tree.insert(key, [&[version + 1], rest.as_slice()].concat())?;
    }
    Ok(())
}
