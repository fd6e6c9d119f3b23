//! The operator's token and access tokens. The operator's token allows everything and can make
//! access tokens that allow less.
//!
//! Access tokens are macaroons in the same form as the tokens that are sold, under a separate key.
//! Holders can narrow them further but not widen them. An access token with an unknown caveat is
//! refused, whereas a sold token may carry one.

use std::path::Path;
use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::base::clock::Clock;
use crate::base::secret_file::{self, SecretFileError};
use crate::operate::backup::ACCESS_LIST;
use crate::protocol::l402::base64::{decode_base64, encode_base64};
use crate::protocol::l402::{Identifier, MasterKey, RootKeys, TokenId, macaroon, signed};

use super::access_list::{AccessError, AccessList, Made, Tokens};
use super::scope::Scope;

/// Separates the key of access tokens from everything else that is derived from the operator's
/// token.
const ACCESS_LABEL: &[u8] = b"tollhouse-access-v1";

/// Separates the fingerprint of the operator's token from the keys derived from it. The fingerprint
/// is written to a file.
const UNDER_LABEL: &[u8] = b"tollhouse-access-under-v1";

/// The length of the fingerprint in bytes. Two operator's tokens will not share 16 bytes by chance.
const UNDER_BYTES: usize = 16;

/// The value in an access token at the place where a sold token has its payment hash.
const NO_PAYMENT: [u8; 32] = *b"tollhouse access, not a payment\0";

/// The rights of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The requests that the caller may make.
    pub scope: Scope,
    /// The id of the access token; `None` for the operator's own token.
    pub token_id: Option<TokenId>,
    /// The token whose limit applies, and its total limit in msat; `None` if spending has no limit.
    pub limit: Option<(TokenId, u64)>,
    /// When the token expires, Unix seconds; `None` if it does not expire.
    pub until_secs: Option<u64>,
}

/// The rights that a new access token gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The requests that the token allows.
    pub scope: Scope,
    /// The maximum total amount that the token can spend, in msat.
    pub spend_max_msat: Option<u64>,
    /// When the token expires, Unix seconds.
    pub until_secs: Option<u64>,
}

/// A new access token.
pub(super) struct Grant {
    /// The id by which the token is revoked.
    pub(super) token_id: TokenId,
    /// The text that the holder presents.
    pub(super) token: String,
    /// When the token expires, which is never later than the token that made it.
    pub(super) until_secs: Option<u64>,
}

/// The operator's token, random, in a file of mode 0600; the keys derived from it; and the list of
/// valid access tokens.
#[derive(Clone)]
pub struct AdminToken {
    token: String,
    keys: RootKeys,
    list: Arc<AccessList>,
    clock: Clock,
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl AdminToken {
    /// Reads the token from this file; on the first start, draws a token and writes it. The list of
    /// access tokens is in the same folder.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, SecretFileError> {
        let draw = || {
            let mut token = [0; 32];
            getrandom::fill(&mut token)?;
            Ok(hex::encode(token))
        };
        let token = secret_file::read_or_make(path, draw)?;
        let token = token.trim().to_owned();
        let current = MasterKey {
            epoch: 0,
            secret: derived(&token, ACCESS_LABEL),
            until_secs: None,
        };
        let under = hex::encode(&derived(&token, UNDER_LABEL)[..UNDER_BYTES]);
        let list = AccessList::open(&path.with_file_name(ACCESS_LIST), under)?;
        Ok(Self {
            token,
            list: Arc::new(list),
            keys: RootKeys::new(&current, &[]),
            clock,
        })
    }

    /// Makes an access token from fresh random bytes, for this caller. Blocks on the disk.
    pub(super) fn grant(
        &self,
        granted: &Granted,
        by: &Caller,
        random: [u8; 32],
    ) -> Result<Grant, AccessError> {
        let now_secs = self.clock.unix_secs();
        let token_id = TokenId::new(self.keys.epoch(), now_secs, random);
        let identifier = Identifier {
            payment_hash: NO_PAYMENT,
            token_id,
        };
        // Without this minimum, the holder of a one-day token could make a token that never
        // expires.
        let ends = [granted.until_secs, by.until_secs];
        let until_secs = ends.into_iter().flatten().min();
        let mut caveats = vec![format!("scope={}", granted.scope.name())];
        caveats.extend(
            granted
                .spend_max_msat
                .map(|max| format!("spend_max_msat={max}")),
        );
        caveats.extend(until_secs.map(|until| format!("valid_until={until}")));
        let token = macaroon::mint_by_crate(&self.keys, &identifier, &caveats);
        let token = encode_base64(&token.expect("the current key mints"));
        let made = Made {
            scope: granted.scope,
            spend_max_msat: granted.spend_max_msat,
            until_secs,
            made_secs: now_secs,
            made_with: by.token_id.map(|token_id| token_id.to_string()),
        };
        self.list.enter(&token_id, made)?;
        Ok(Grant {
            token_id,
            token,
            until_secs,
        })
    }

    /// All access tokens in the list.
    pub(super) fn made(&self) -> Tokens {
        self.list.all()
    }

    /// Revokes an access token and all its narrowed copies. Returns the ids of the tokens that were
    /// made with it. Blocks on the disk.
    pub(super) fn revoke(&self, token_id: &TokenId) -> Result<Vec<String>, AccessError> {
        self.list.revoke(token_id)
    }

    /// Identifies the caller by these headers; `None` if the token is not valid.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let presented = headers.get(AUTHORIZATION)?.as_bytes();
        let presented = presented.strip_prefix(b"Bearer ")?;
        // With an empty token file, an empty token must not be accepted.
        if !self.token.is_empty() && bool::from(self.token.as_bytes().ct_eq(presented)) {
            return Some(Caller {
                scope: Scope::Admin,
                token_id: None,
                limit: None,
                until_secs: None,
            });
        }
        self.holder(&decode_base64(presented)?)
    }

    /// The rights of this access token's holder, as restricted by all its caveats.
    fn holder(&self, token: &[u8]) -> Option<Caller> {
        let now_secs = self.clock.unix_secs();
        let (identifier, token) = signed(&self.keys, token, now_secs).ok()?;
        if identifier.payment_hash != NO_PAYMENT || !self.list.holds(&identifier.token_id) {
            return None;
        }
        let (mut scope, mut spend_max_msat) = (None::<Scope>, None::<u64>);
        let mut until_secs = None::<u64>;
        for caveat in token.caveats() {
            let (condition, value) = str::from_utf8(caveat).ok()?.split_once('=')?;
            match condition {
                "scope" => {
                    let given = Scope::named(value)?;
                    scope = Some(scope.map_or(given, |scope| scope.min(given)));
                }
                "spend_max_msat" => {
                    let given = value.parse().ok()?;
                    spend_max_msat = Some(spend_max_msat.map_or(given, |max| max.min(given)));
                }
                "valid_until" => {
                    let given = value.parse().ok()?;
                    until_secs = Some(until_secs.map_or(given, |until| until.min(given)));
                }
                _ => return None,
            }
        }
        if until_secs.is_some_and(|until| until <= now_secs) {
            return None;
        }
        // The spending limit covers Lightning payments only, so a limited token gets no wider scope
        // than `Spend`.
        let most = match spend_max_msat {
            Some(_) => Scope::Spend,
            None => Scope::Admin,
        };
        Some(Caller {
            scope: scope?.min(most),
            token_id: Some(identifier.token_id),
            limit: spend_max_msat.map(|max| (identifier.token_id, max)),
            until_secs,
        })
    }
}

/// Derives a separate secret for each label.
fn derived(token: &str, label: &[u8]) -> [u8; 32] {
    let mut state =
        Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("HMAC takes keys of every length");
    state.update(label);
    state.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_SECS: u64 = 1_760_000_000;

    /// The operator's token in this folder.
    fn token_in(folder: &tempfile::TempDir) -> AdminToken {
        AdminToken::open(&folder.path().join("admin.token"), Clock::fixed(NOW_SECS)).unwrap()
    }

    const OPERATOR: Caller = Caller {
        scope: Scope::Admin,
        token_id: None,
        limit: None,
        until_secs: None,
    };

    /// Makes a token as the operator.
    fn made(token: &AdminToken, granted: &Granted, random: u8) -> Grant {
        token.grant(granted, &OPERATOR, [random; 32]).unwrap()
    }

    fn headers(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers
    }

    fn granted(scope: Scope) -> Granted {
        Granted {
            scope,
            spend_max_msat: None,
            until_secs: None,
        }
    }

    /// A copy of the token that its holder has narrowed.
    fn with_caveat(token: &str, caveat: &str) -> String {
        let bytes = decode_base64(token.as_bytes()).unwrap();
        let mut copy = ::macaroon::Macaroon::deserialize(encode_base64(&bytes)).unwrap();
        copy.add_first_party_caveat(::macaroon::ByteString(caveat.as_bytes().to_vec()));
        copy.serialize(::macaroon::Format::V2).unwrap()
    }

    #[test]
    fn the_operators_own_token_may_do_everything_and_no_other_secret_may() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let token = token_in(&folders[0]);
        let caller = token.caller(&headers(&token.token)).unwrap();
        assert_eq!(caller, OPERATOR);
        for other in ["", "a", &"0".repeat(64), &token.token[1..]] {
            assert_eq!(token.caller(&headers(other)), None, "{other}");
        }
        let elsewhere = made(&token_in(&folders[1]), &granted(Scope::Admin), 7);
        assert_eq!(token.caller(&headers(&elsewhere.token)), None);
    }

    #[test]
    fn a_holder_can_narrow_an_access_token_and_not_widen_it() {
        let folder = tempfile::tempdir().unwrap();
        let token = token_in(&folder);
        let limited = Granted {
            spend_max_msat: Some(5_000),
            ..granted(Scope::Spend)
        };
        let spend = made(&token, &limited, 7).token;
        let scope_of = |token_text: &str| {
            let caller = token.caller(&headers(token_text));
            caller.map(|caller| (caller.scope, caller.limit.map(|(_, max)| max)))
        };
        assert_eq!(scope_of(&spend), Some((Scope::Spend, Some(5_000))));
        for (caveat, left) in [
            ("scope=read", Some((Scope::Read, Some(5_000)))),
            ("scope=admin", Some((Scope::Spend, Some(5_000)))),
            ("spend_max_msat=100", Some((Scope::Spend, Some(100)))),
            ("spend_max_msat=9000", Some((Scope::Spend, Some(5_000)))),
            ("valid_until=1760000001", Some((Scope::Spend, Some(5_000)))),
            ("valid_until=1760000000", None),
            ("colour=blue", None),
            ("scope=everything", None),
            ("spend_max_msat=-1", None),
            ("scope", None),
        ] {
            assert_eq!(scope_of(&with_caveat(&spend, caveat)), left, "{caveat}");
        }
    }

    #[test]
    fn a_limit_leaves_of_an_admins_token_what_keeps_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let token = token_in(&folder);
        let admin = made(&token, &granted(Scope::Admin), 7).token;
        let limited = with_caveat(&admin, "spend_max_msat=1000");
        let caller = token.caller(&headers(&limited)).unwrap();
        assert_eq!(caller.scope, Scope::Spend);
        assert_eq!(caller.limit.map(|(_, max)| max), Some(1_000));
    }

    #[test]
    fn what_is_made_with_a_token_lasts_no_longer_than_that() {
        let folder = tempfile::tempdir().unwrap();
        let token = token_in(&folder);
        let admin = made(&token, &granted(Scope::Admin), 7).token;
        let short = with_caveat(&admin, &format!("valid_until={}", NOW_SECS + 60));
        let caller = token.caller(&headers(&short)).unwrap();
        for (asked, until_secs) in [
            (None, NOW_SECS + 60),
            (Some(NOW_SECS + 3_600), NOW_SECS + 60),
            (Some(NOW_SECS + 1), NOW_SECS + 1),
        ] {
            let granted = Granted {
                until_secs: asked,
                ..granted(Scope::Admin)
            };
            let random = [u8::try_from(until_secs % 251).unwrap(); 32];
            let child = token.grant(&granted, &caller, random).unwrap();
            assert_eq!(child.until_secs, Some(until_secs), "{asked:?}");
            let holder = token.caller(&headers(&child.token)).unwrap();
            assert_eq!(holder.until_secs, Some(until_secs), "{asked:?}");
            let listed = &token.made()[&child.token_id.to_string()];
            assert_eq!(listed.until_secs, Some(until_secs));
        }
    }

    #[test]
    fn nothing_is_made_with_a_token_that_was_revoked_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let token = token_in(&folder);
        let admin = made(&token, &granted(Scope::Admin), 7);
        let caller = token.caller(&headers(&admin.token)).unwrap();
        token.revoke(&admin.token_id).unwrap();
        let made = token.grant(&granted(Scope::Read), &caller, [8; 32]);
        assert!(matches!(made.map(|_| ()), Err(AccessError::MakerGone)));
        assert_eq!(token.made().len(), 0);
    }

    #[test]
    fn a_revoked_token_and_its_narrowed_copies_open_nothing_at_once_and_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let token = token_in(&folder);
        let (one, other) = (
            made(&token, &granted(Scope::Admin), 7),
            made(&token, &granted(Scope::Read), 8),
        );
        let caller = token.caller(&headers(&one.token)).unwrap();
        let child = token
            .grant(&granted(Scope::Read), &caller, [9; 32])
            .unwrap();
        let copy = with_caveat(&one.token, "scope=read");
        assert!(token.caller(&headers(&copy)).is_some());
        let with_it = token.revoke(&one.token_id).unwrap();
        assert_eq!(
            with_it,
            [child.token_id.to_string()],
            "they are told, and still good"
        );
        let restarted = token_in(&folder);
        for token in [&token, &restarted] {
            for gone in [
                &one.token,
                &copy,
                &with_caveat(&copy, "valid_until=1760000001"),
            ] {
                assert_eq!(token.caller(&headers(gone)), None);
            }
            assert!(token.caller(&headers(&other.token)).is_some());
            assert!(token.caller(&headers(&child.token)).is_some());
            assert_eq!(token.made().len(), 2);
            // A token that is already revoked, and one that was never made.
            for unknown in [one.token_id, TokenId([3; 32])] {
                let error = token.revoke(&unknown).unwrap_err();
                assert!(matches!(error, AccessError::Unknown(_)), "{error}");
            }
        }
        // With a new operator's token all access tokens are invalid, and none takes up room.
        std::fs::remove_file(folder.path().join("admin.token")).unwrap();
        assert_eq!(token_in(&folder).made().len(), 0);
    }

    #[test]
    fn a_token_that_is_well_signed_and_not_in_the_list_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let token = token_in(&folder);
        let grant = made(&token, &granted(Scope::Admin), 7);
        std::fs::remove_file(folder.path().join("access.made")).unwrap();
        assert_eq!(token_in(&folder).caller(&headers(&grant.token)), None);
    }

    #[test]
    fn a_token_that_was_sold_opens_nothing_here() {
        let folder = tempfile::tempdir().unwrap();
        let token = token_in(&folder);
        let sold = Identifier {
            payment_hash: [3; 32],
            token_id: TokenId::new(0, NOW_SECS, [7; 32]),
        };
        let sold = macaroon::mint(&token.keys, &sold, &["scope=admin".to_owned()]).unwrap();
        assert_eq!(token.caller(&headers(&encode_base64(&sold))), None);
    }
}
