//! What access tokens with a limit have spent. A few lines in a file, on the disk before anything is spent: a crash in
//! between counts too much, never too little.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::l402::TokenId;
use crate::secret_file::{self, SecretFileError};

/// Tokens whose spending is kept; each takes 80 bytes, and only who may do everything makes them. Those that were revoked or have
/// ended are among them: were the list of access tokens put back from a copy in which one is good, it must not begin anew.
const TOKENS_MAX: usize = 10_000;

/// Spent so far, by token.
#[derive(Debug)]
pub struct Spending {
    path: PathBuf,
    /// In msat, by token id in hex. A `std` mutex: held while the file is written, off the threads that serve requests.
    spent_msat: Mutex<BTreeMap<String, u64>>,
}

/// Why nothing may be spent.
#[derive(Debug, thiserror::Error)]
pub enum SpendingError {
    /// More than is left.
    #[error(
        "{asked_msat} msat, fees included, are more than the {left_msat} msat that are left to this access token"
    )]
    AboveLimit {
        /// What was asked for.
        asked_msat: u64,
        /// What is left.
        left_msat: u64,
    },
    /// There is room for no more tokens.
    #[error(
        "what is spent is kept for {TOKENS_MAX} access tokens with a limit, those included that have ended, and this would be one more. \
         Stop the program, remove access.spent and admin.token from its data folder, and start it again: all access tokens end \
         by that, and new ones can spend"
    )]
    Full,
    /// It could not be noted.
    #[error("failed to note what is spent")]
    File(#[from] io::Error),
    /// It could not be read.
    #[error(transparent)]
    Unreadable(#[from] SecretFileError),
}

impl Spending {
    /// Reads what was spent.
    pub fn open(path: &Path) -> Result<Self, SpendingError> {
        let spent_msat = if path.exists() {
            serde_json::from_str(&secret_file::read(path)?).map_err(io::Error::from)?
        } else {
            BTreeMap::new()
        };
        Ok(Self {
            path: path.to_owned(),
            spent_msat: Mutex::new(spent_msat),
        })
    }

    /// Takes an amount off what is left to this token. On return it is on the disk. Blocks.
    pub fn take(
        &self,
        token_id: &TokenId,
        max_msat: u64,
        asked_msat: u64,
    ) -> Result<(), SpendingError> {
        self.change(token_id, |spent_msat, is_new, tokens| {
            let left_msat = max_msat.saturating_sub(*spent_msat);
            if is_new && tokens >= TOKENS_MAX {
                return Err(SpendingError::Full);
            }
            if asked_msat > left_msat {
                return Err(SpendingError::AboveLimit {
                    asked_msat,
                    left_msat,
                });
            }
            *spent_msat += asked_msat;
            Ok(())
        })
    }

    /// What was spent with the token of this id, hex.
    pub(super) fn spent_msat(&self, token_id: &str) -> u64 {
        let spent = self.spent_msat.lock();
        let spent = spent.unwrap_or_else(PoisonError::into_inner);
        spent.get(token_id).copied().unwrap_or(0)
    }

    /// Gives back what was taken and not spent. Blocks.
    pub fn give_back(&self, token_id: &TokenId, unspent_msat: u64) -> Result<(), SpendingError> {
        self.change(token_id, |spent_msat, _, _| {
            *spent_msat = spent_msat.saturating_sub(unspent_msat);
            Ok(())
        })
    }

    /// Changes a figure together with its file: neither without the other.
    fn change(
        &self,
        token_id: &TokenId,
        change: impl FnOnce(&mut u64, bool, usize) -> Result<(), SpendingError>,
    ) -> Result<(), SpendingError> {
        let mut spent = self
            .spent_msat
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut after = spent.clone();
        let (key, tokens) = (token_id.to_string(), after.len());
        let is_new = !after.contains_key(&key);
        change(after.entry(key).or_default(), is_new, tokens)?;
        let text = serde_json::to_string(&after).map_err(io::Error::from)?;
        secret_file::replace(&self.path, &text)?;
        *spent = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_over_restarts_and_for_each_token_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.spent");
        let (one, other) = (TokenId([1; 32]), TokenId([2; 32]));
        let spending = Spending::open(&path).unwrap();
        spending.take(&one, 1_000, 600).unwrap();
        let error = spending.take(&one, 1_000, 401).unwrap_err();
        assert!(
            error.to_string().contains("400 msat that are left"),
            "{error}"
        );
        spending.take(&other, 1_000, 1_000).unwrap();
        spending.give_back(&one, 100).unwrap();
        let spending = Spending::open(&path).unwrap();
        spending.take(&one, 1_000, 500).unwrap();
        assert!(spending.take(&one, 1_000, 1).is_err());
    }

    #[test]
    fn when_there_is_room_for_no_more_tokens_the_others_go_on_and_the_reason_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.spent");
        let full: BTreeMap<String, u64> = (0..10_000_u32)
            .map(|number| {
                let mut id = [9; 32];
                id[..4].copy_from_slice(&number.to_be_bytes());
                (TokenId(id).to_string(), 1)
            })
            .collect();
        let one = TokenId([1; 32]);
        secret_file::replace(&path, &serde_json::to_string(&full).unwrap()).unwrap();
        let spending = Spending::open(&path).unwrap();
        let error = spending.take(&one, 1_000, 1).unwrap_err();
        assert!(matches!(error, SpendingError::Full), "{error}");
        let mut known = [9; 32];
        known[..4].copy_from_slice(&7_u32.to_be_bytes());
        spending.take(&TokenId(known), 1_000, 999).unwrap();
    }

    #[test]
    fn many_at_once_take_no_more_than_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let spending = Spending::open(&folder.path().join("access.spent")).unwrap();
        let taken = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| spending.take(&TokenId([1; 32]), 3_000, 1_000).is_ok()))
                .collect();
            let taken = takers.into_iter().map(|taker| taker.join().unwrap());
            taken.filter(|is_taken| *is_taken).count()
        });
        assert_eq!(taken, 3);
    }
}
