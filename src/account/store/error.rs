//! Why the store failed.

use std::io;

/// An error of the store, sorted by the possible reaction.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// sled found damage; the store must be set aside and rebuilt.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// A newer program wrote the store; it stays untouched.
    #[error(
        "the store has format {found}, this program knows formats up to {known}: start the newer program"
    )]
    Newer {
        /// The format of the store.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The operating system reported an error: missing permissions, a full disk or a held lock.
    #[error("failed to use the store")]
    Io(#[source] io::Error),
    /// sled refused the operation for another reason.
    #[error("the database refused: {0}")]
    Refused(String),
    /// An earlier flush failed, so the state on disk is unknown.
    #[error("an earlier write failed, nothing more is written until a restart")]
    Poisoned,
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Corruption { at, .. } => {
                Self::Corrupt(format!("sled reports corruption at {at:?}"))
            }
            sled::Error::Io(error) => Self::Io(error),
            sled::Error::Unsupported(why) => Self::Refused(why),
            sled::Error::ReportableBug(why) => Self::Refused(why),
            sled::Error::CollectionNotFound(name) => Self::Corrupt(format!(
                "a tree is missing: {}",
                String::from_utf8_lossy(&name)
            )),
        }
    }
}
