//! The steps from an empty store to the newest format, forward only, each in a file of its own.
//!
//! The format version stands under its own key and is checked before anything is read; an old program refuses a newer
//! store. Each file's doc comment is the schema that the step leaves behind.

mod m0001_first_ledger;
mod m0002_metered_grants;
mod m0003_activations;
mod m0004_bundles;
mod m0005_surplus;

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The format version that the step leaves behind.
    pub version: u32,
    /// The file it stands in, without the ending.
    pub file: &'static str,
    /// Does it; may be repeated after a crash, because the version is written behind it.
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

/// Turns every value of version 1 into one of version 2.
fn rewrite(
    tree: &sled::Tree,
    turn: impl Fn(&[u8]) -> Result<Vec<u8>, postcard::Error>,
) -> sled::Result<()> {
    rewrite_from(1, tree, turn)
}

/// Turns every value of this version into one of the next. One that is of that already was rewritten before a crash.
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
