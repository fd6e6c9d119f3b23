//! The list of valid access tokens. A token is valid only while it is in this list, so each can be
//! revoked alone.
//!
//! The list is a file beside the operator's token, without secrets. The file is on disk before a
//! token is handed out and before a revocation is reported. Without the file no access token is
//! valid, so losing the file can only deny access.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::live::Live;
use crate::base::secret_file::{self, SecretFileError};
use crate::protocol::l402::TokenId;

use super::scope::Scope;

/// The maximum number of access tokens at once. Each takes about 300 bytes, so the file has at most
/// 600 KB. That is below the megabyte up to which a backup includes a file of the data folder, and
/// it is written quickly whenever a token is made or revoked.
const TOKENS_MAX: usize = 2_000;

/// The entry of an access token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(super) struct Made {
    /// The requests that the token allows.
    pub(super) scope: Scope,
    /// The maximum total amount that can be spent with the token, in msat.
    pub(super) spend_max_msat: Option<u64>,
    /// When the token expires, Unix seconds.
    pub(super) until_secs: Option<u64>,
    /// When the token was made, Unix seconds.
    pub(super) made_secs: u64,
    /// The id of the access token that made this one; `None` if the operator's own token made it.
    pub(super) made_with: Option<String>,
}

/// The entries by token id in hex.
pub(super) type Tokens = BTreeMap<String, Made>;

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// The fingerprint of the operator's token under which these tokens were made. With another
    /// operator's token all of them are invalid.
    under: String,
    tokens: Tokens,
}

/// The access tokens that were made and not revoked, including expired ones.
#[derive(Debug)]
pub(super) struct AccessList {
    path: PathBuf,
    under: String,
    /// Allows one change at a time. A `std` mutex: it is held while the file is written, off the
    /// threads that serve requests.
    turn: Mutex<()>,
    tokens: Live<Tokens>,
}

/// Why an access token was not made or not revoked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccessError {
    /// The list is full.
    #[error(
        "there are {TOKENS_MAX} access tokens: revoke those that nobody needs (`tollhouse access list`, `access revoke ID`)"
    )]
    Full,
    /// The access token that makes the new one was revoked meanwhile.
    #[error("the access token that asks for it was revoked meanwhile: nothing was made")]
    MakerGone,
    /// The list does not contain this token.
    #[error(
        "there is no access token {0}: it was revoked before, or never made with the admin.token that is in use"
    )]
    Unknown(TokenId),
    /// The file could not be written, so nothing has changed.
    #[error("failed to note which access tokens are good; nothing has changed")]
    File(#[from] io::Error),
}

impl AccessList {
    /// Reads the list. `under` identifies the operator's token and is not a secret.
    pub(super) fn open(path: &Path, under: String) -> Result<Self, SecretFileError> {
        let unreadable = |error: serde_json::Error| SecretFileError::Io {
            path: path.to_owned(),
            source: io::Error::other(format!(
                "{error}: put it back from a backup, or remove it, and every access token ends"
            )),
        };
        let tokens = if path.exists() {
            let kept: Kept = serde_json::from_str(&secret_file::read(path)?).map_err(unreadable)?;
            Some(kept).filter(|kept| kept.under == under)
        } else {
            None
        };
        Ok(Self {
            path: path.to_owned(),
            under,
            turn: Mutex::new(()),
            tokens: Live::new(tokens.map(|kept| kept.tokens).unwrap_or_default()),
        })
    }

    /// All entries of the list.
    pub(super) fn all(&self) -> Tokens {
        self.tokens.get().as_ref().clone()
    }

    /// Whether this token was made and not revoked.
    pub(super) fn holds(&self, token_id: &TokenId) -> bool {
        self.tokens.get().contains_key(&token_id.to_string())
    }

    /// Adds a token. The file is on disk when this returns. Blocks.
    pub(super) fn enter(&self, token_id: &TokenId, made: Made) -> Result<(), AccessError> {
        let now_secs = made.made_secs;
        self.change(|tokens| {
            // The check is inside the change, so the maker cannot be revoked between check and
            // entry.
            let maker = made.made_with.as_ref();
            if maker.is_some_and(|maker| !tokens.contains_key(maker)) {
                return Err(AccessError::MakerGone);
            }
            if tokens.len() >= TOKENS_MAX {
                let is_over = |made: &Made| made.until_secs.is_some_and(|until| until <= now_secs);
                tokens.retain(|_, made| !is_over(made));
            }
            if tokens.len() >= TOKENS_MAX {
                return Err(AccessError::Full);
            }
            tokens.insert(token_id.to_string(), made);
            Ok(())
        })
    }

    /// Removes a token, which also ends its narrowed copies. Returns the ids of the tokens that
    /// were made with it. The file is on disk when this returns. Blocks.
    pub(super) fn revoke(&self, token_id: &TokenId) -> Result<Vec<String>, AccessError> {
        let id = token_id.to_string();
        self.change(|tokens| {
            if tokens.remove(&id).is_none() {
                return Err(AccessError::Unknown(*token_id));
            }
            let made = tokens.iter();
            let with_it = made.filter(|(_, made)| made.made_with.as_ref() == Some(&id));
            Ok(with_it.map(|(other, _)| other.clone()).collect())
        })
    }

    /// Changes the list and its file together; if the write fails, neither changes.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Tokens) -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = self.all();
        let done = change(&mut tokens)?;
        let kept = Kept {
            under: self.under.clone(),
            tokens,
        };
        let text = serde_json::to_string(&kept).map_err(io::Error::from)?;
        secret_file::replace(&self.path, &text)?;
        self.tokens.set(kept.tokens);
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000;

    fn made(until_secs: Option<u64>) -> Made {
        Made {
            scope: Scope::Spend,
            spend_max_msat: Some(u64::MAX),
            until_secs,
            made_secs: NOW,
            made_with: None,
        }
    }

    /// An entry of the maximum length.
    fn long(until_secs: Option<u64>) -> Made {
        Made {
            made_with: Some("ab".repeat(32)),
            ..made(until_secs)
        }
    }

    fn id(number: u32) -> TokenId {
        let mut bytes = [9; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        TokenId(bytes)
    }

    #[test]
    fn the_list_is_bounded_fits_into_a_backup_and_what_is_over_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.made");
        let full: Tokens = (1..=2_000)
            .map(|number| (id(number).to_string(), long((number == 7).then_some(NOW))))
            .collect();
        let kept = Kept {
            under: "one".to_owned(),
            tokens: full,
        };
        secret_file::replace(&path, &serde_json::to_string(&kept).unwrap()).unwrap();
        assert!(path.metadata().unwrap().len() < 1_000_000);
        let list = AccessList::open(&path, "one".to_owned()).unwrap();
        list.enter(&id(0), made(None)).unwrap();
        assert!(!list.holds(&id(7)), "its time was over");
        let error = list.enter(&id(7), made(None)).unwrap_err();
        assert!(matches!(error, AccessError::Full), "{error}");
        list.revoke(&id(1)).unwrap();
        let error = list.enter(&id(7), long(None)).unwrap_err();
        assert!(matches!(error, AccessError::MakerGone), "{error}");
        list.enter(&id(7), made(None)).unwrap();
    }

    #[test]
    fn a_list_that_cannot_be_read_opens_no_door() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.made");
        let list = AccessList::open(&path, "one".to_owned()).unwrap();
        list.enter(&id(1), made(None)).unwrap();
        assert!(
            AccessList::open(&path, "one".to_owned())
                .unwrap()
                .holds(&id(1))
        );
        assert!(
            !AccessList::open(&path, "other".to_owned())
                .unwrap()
                .holds(&id(1))
        );
        secret_file::replace(&path, "{").unwrap();
        let error = AccessList::open(&path, "one".to_owned()).unwrap_err();
        let said = crate::base::error_chain::chain(&error);
        assert!(said.contains("remove it"), "{said}");
    }
}
