//! Who may ask for what: whoever holds the operator's token may do everything, and can make tokens that may do less.
//!
//! Those are macaroons in the form of the tokens that are sold, under a key of their own: their holders can narrow them
//! further, and nobody can widen them. Unlike in a token that is sold, a caveat that is not understood closes the door.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hmac::{Hmac, Mac as _};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;

use crate::clock::Clock;
use crate::l402::credential::{decode_base64, encode_base64};
use crate::l402::{Identifier, MasterKey, RootKeys, TokenId, macaroon, signed};
use crate::secret_file::{self, SecretFileError};

use super::Fault;

/// Keeps the key of access tokens apart from anything else that is ever derived from the operator's token.
const ACCESS_LABEL: &[u8] = b"tollhouse-access-v1";

/// What stands in an access token where one that is sold has its payment hash.
const NO_PAYMENT: [u8; 32] = *b"tollhouse access, not a payment\0";

/// What may be asked for; each includes those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Looking at everything, changing nothing.
    Read,
    /// Making invoices and addresses: money comes in.
    Invoices,
    /// Paying, within the token's limit: money goes out.
    Spend,
    /// Everything.
    Admin,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Invoices => "invoices",
            Self::Spend => "spend",
            Self::Admin => "admin",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let all = [Self::Read, Self::Invoices, Self::Spend, Self::Admin];
        all.into_iter().find(|scope| scope.name() == name)
    }
}

/// Who asks, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// What may be asked for.
    pub scope: Scope,
    /// Where spending has a limit: of which token, and how much in all, in msat.
    pub limit: Option<(TokenId, u64)>,
}

/// What an access token is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// What may be asked for.
    pub scope: Scope,
    /// What may be spent with it in all, in msat.
    pub spend_max_msat: Option<u64>,
    /// Until when, Unix seconds.
    pub until_secs: Option<u64>,
}

/// The operator's token, random, in a file of mode 0600; and what is derived from it.
#[derive(Clone)]
pub struct AdminToken {
    token: String,
    keys: RootKeys,
    clock: Clock,
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl AdminToken {
    /// Reads the token from this file; on a first start draws one and writes it.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, SecretFileError> {
        let draw = || {
            let mut token = [0; 32];
            getrandom::fill(&mut token)?;
            Ok(hex::encode(token))
        };
        let token = secret_file::read_or_make(path, draw)?;
        let token = token.trim().to_owned();
        let mut state = Hmac::<Sha256>::new_from_slice(token.as_bytes())
            .expect("HMAC takes keys of every length");
        state.update(ACCESS_LABEL);
        let current = MasterKey {
            epoch: 0,
            secret: state.finalize().into_bytes().into(),
            until_secs: None,
        };
        Ok(Self {
            token,
            keys: RootKeys::new(&current, &[]),
            clock,
        })
    }

    /// Makes an access token out of fresh random bytes.
    pub fn grant(&self, granted: &Granted, random: [u8; 32]) -> String {
        let identifier = Identifier {
            payment_hash: NO_PAYMENT,
            token_id: TokenId::new(self.keys.epoch(), self.clock.unix_secs(), random),
        };
        let mut caveats = vec![format!("scope={}", granted.scope.name())];
        caveats.extend(
            granted
                .spend_max_msat
                .map(|max| format!("spend_max_msat={max}")),
        );
        caveats.extend(
            granted
                .until_secs
                .map(|until| format!("valid_until={until}")),
        );
        let token = macaroon::mint(&self.keys, &identifier, &caveats);
        encode_base64(&token.expect("the current key mints"))
    }

    /// Who presents these headers. `None` if nobody whom we know.
    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let presented = headers.get(AUTHORIZATION)?.as_bytes();
        let presented = presented.strip_prefix(b"Bearer ")?;
        // An empty file must not open the door to an empty token.
        if !self.token.is_empty() && bool::from(self.token.as_bytes().ct_eq(presented)) {
            return Some(Caller {
                scope: Scope::Admin,
                limit: None,
            });
        }
        self.holder(&decode_base64(presented)?)
    }

    /// Who holds this access token: all that its caveats leave.
    fn holder(&self, token: &[u8]) -> Option<Caller> {
        let now_secs = self.clock.unix_secs();
        let (identifier, token) = signed(&self.keys, token, now_secs).ok()?;
        if identifier.payment_hash != NO_PAYMENT {
            return None;
        }
        let (mut scope, mut spend_max_msat) = (None::<Scope>, None::<u64>);
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
                "valid_until" if now_secs < value.parse().ok()? => {}
                _ => return None,
            }
        }
        Some(Caller {
            scope: scope?,
            limit: spend_max_msat.map(|max| (identifier.token_id, max)),
        })
    }
}

/// Who is let in to a part of the listener.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// Who is known.
    pub(super) token: Arc<AdminToken>,
    /// What one must be allowed.
    pub(super) scope: Scope,
}

/// Lets a request through if it carries a token that allows it, and tells the handler who asks.
pub(super) async fn require(
    State(door): State<Door>,
    mut request: Request,
    next: Next,
) -> Response {
    match door.token.caller(request.headers()) {
        Some(caller) if caller.scope >= door.scope => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Some(_) => Fault::Forbidden(door.scope.name()).into_response(),
        None => unknown(),
    }
}

fn unknown() -> Response {
    let error = "send the content of DATA_DIR/admin.token, or an access token that is good, as `Authorization: Bearer <token>`";
    let body = Json(serde_json::json!({ "error": error }));
    (
        StatusCode::UNAUTHORIZED,
        [(WWW_AUTHENTICATE, "Bearer")],
        body,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_SECS: u64 = 1_760_000_000;

    fn token() -> AdminToken {
        let folder = tempfile::tempdir().unwrap();
        AdminToken::open(&folder.path().join("admin.token"), Clock::fixed(NOW_SECS)).unwrap()
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

    /// A copy that its holder has narrowed.
    fn with_caveat(token: &str, caveat: &str) -> String {
        let bytes = decode_base64(token.as_bytes()).unwrap();
        let mut copy = ::macaroon::Macaroon::deserialize(encode_base64(&bytes)).unwrap();
        copy.add_first_party_caveat(::macaroon::ByteString(caveat.as_bytes().to_vec()));
        copy.serialize(::macaroon::Format::V2).unwrap()
    }

    #[test]
    fn the_operators_own_token_may_do_everything_and_no_other_secret_may() {
        let token = token();
        let caller = token.caller(&headers(&token.token)).unwrap();
        assert_eq!(caller.scope, Scope::Admin);
        assert_eq!(caller.limit, None);
        for other in ["", "a", &"0".repeat(64), &token.token[1..]] {
            assert_eq!(token.caller(&headers(other)), None, "{other}");
        }
        let elsewhere = self::token().grant(&granted(Scope::Admin), [7; 32]);
        assert_eq!(token.caller(&headers(&elsewhere)), None);
    }

    #[test]
    fn a_holder_can_narrow_an_access_token_and_not_widen_it() {
        let token = token();
        let spend = token.grant(
            &Granted {
                spend_max_msat: Some(5_000),
                ..granted(Scope::Spend)
            },
            [7; 32],
        );
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
    fn a_token_that_was_sold_opens_nothing_here() {
        let token = token();
        let sold = Identifier {
            payment_hash: [3; 32],
            token_id: TokenId::new(0, NOW_SECS, [7; 32]),
        };
        let sold = macaroon::mint(&token.keys, &sold, &["scope=admin".to_owned()]).unwrap();
        assert_eq!(token.caller(&headers(&encode_base64(&sold))), None);
    }
}
