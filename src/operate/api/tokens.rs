//! Sold tokens, for the operator: searching and revoking them, and their master keys.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::account::ledger::record::{RevocationRecord, Revoked, TokenRecord};
use crate::account::ledger::{LedgerError, TOKENS_PAGE_MAX, TokenSearch};
use crate::base::error_chain::chain;
use crate::operate::backup::BackupError;
use crate::protocol::l402::TokenId;
use crate::sell::gate::Epoch;
use crate::sell::route::Access;

use super::admin::Admin;
use super::answering::{before, blocking};
use super::fault::Fault;

/// The default number of tokens on a page.
const TOKENS_PAGE: usize = 100;

/// The default time for which tokens of an older key stay valid: 30 days.
const RETIRE_AFTER_SECS: u64 = 30 * 86_400;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct TokensQuery {
    /// The number of tokens on the page.
    limit: Option<usize>,
    /// The `next` of the page before.
    before: Option<String>,
    /// Shows only tokens of this service.
    service: Option<String>,
    /// The beginning of a token id or a payment hash, in hex.
    q: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokensBody {
    tokens: Vec<TokenBody>,
    /// The value of `before` for the next page, if there is one.
    next: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TokenBody {
    #[serde(flatten)]
    token: TokenRecord,
    /// Whether the token is revoked.
    revoked: bool,
}

/// Lists the tokens that were used.
#[utoipa::path(
    get, path = "/tokens", tag = "tokens", params(TokensQuery), responses((status = 200, body = TokensBody))
)]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<TokensQuery>,
) -> Result<Json<TokensBody>, Fault> {
    let before = before(query.before)?;
    let begins_with = query.q.map(|digits| digits.to_ascii_lowercase());
    let is_hex = |digits: &String| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !begins_with.as_ref().is_none_or(is_hex) {
        return Err(Fault::Asked(
            "`q` is the beginning of a token id or a payment hash, in hex",
        ));
    }
    let search = TokenSearch {
        service: query.service,
        begins_with,
    };
    let limit = query.limit.unwrap_or(TOKENS_PAGE).clamp(1, TOKENS_PAGE_MAX);
    let body = blocking(move || {
        let page = admin.ledger.tokens(&search, before.as_deref(), limit)?;
        let tokens = page.tokens.into_iter().map(|token| TokenBody {
            revoked: admin
                .ledger
                .is_revoked(&TokenId(token.token_id), &token.service),
            token,
        });
        Ok::<_, LedgerError>(TokensBody {
            tokens: tokens.collect(),
            next: page.next.map(hex::encode),
        })
    });
    Ok(Json(body.await?))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeBody {
    /// The reason to record in the ledger; may be omitted.
    #[serde(default)]
    reason: String,
    /// Whether to accept the name of a service that is not sold now and whose tokens were never
    /// used.
    #[serde(default)]
    unknown_too: bool,
}

/// Revokes one token and all its attenuated copies.
#[utoipa::path(
    post, path = "/tokens/{token_id}/revoke", tag = "tokens",
    params(("token_id" = String, Path, description = "64 hex digits")),
    request_body = Option<RevokeBody>, responses((status = 200, body = RevocationRecord))
)]
pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    Path(token_id): Path<String>,
    body: Option<Json<RevokeBody>>,
) -> Result<Json<RevocationRecord>, Fault> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(&token_id, &mut bytes)
        .map_err(|_| Fault::Asked("a token id is 64 hex digits, as /tokens and /sales show it"))?;
    enter(admin, Revoked::Token(bytes), body).await
}

/// Revokes all tokens of a service that were minted until now.
///
/// A client that pays an older invoice after the revocation gets nothing for it.
#[utoipa::path(
    post, path = "/services/{service}/revoke", tag = "tokens",
    params(("service" = String, Path, description = "the name in its tokens")),
    request_body = Option<RevokeBody>,
    responses((status = 200, body = RevocationRecord), (status = 404, description = "nothing is or was sold as this"))
)]
pub(super) async fn revoke_service(
    State(admin): State<Arc<Admin>>,
    Path(service): Path<String>,
    body: Option<Json<RevokeBody>>,
) -> Result<Json<RevocationRecord>, Fault> {
    let may_be_unknown = body.as_ref().is_some_and(|body| body.unknown_too);
    if !may_be_unknown && !is_known(&admin, &service).await? {
        return Err(Fault::UnknownService(service));
    }
    enter(admin, Revoked::Service(service), body).await
}

/// Whether this service is sold now, or one of its tokens was used. Without this check, revoking a
/// misspelt name would do nothing and still report success.
async fn is_known(admin: &Arc<Admin>, service: &str) -> Result<bool, Fault> {
    let routes = admin.routes.get();
    let mut offers = routes.iter().filter_map(|route| match &route.access {
        Access::Free => None,
        Access::Paid(offer) => Some(&offer.service),
    });
    let guarded = admin.guarded.get();
    let is_sold = offers.any(|sold| **sold == *service)
        || guarded.iter().any(|offer| *offer.service == *service);
    if is_sold {
        return Ok(true);
    }
    let search = TokenSearch {
        service: Some(service.to_owned()),
        begins_with: None,
    };
    let admin = Arc::clone(admin);
    let page = blocking(move || admin.ledger.tokens(&search, None, 1)).await?;
    Ok(!page.tokens.is_empty())
}

async fn enter(
    admin: Arc<Admin>,
    what: Revoked,
    body: Option<Json<RevokeBody>>,
) -> Result<Json<RevocationRecord>, Fault> {
    let reason = body.unwrap_or_default().0.reason;
    let backups = Arc::clone(&admin.backups);
    let revoked = blocking(move || admin.ledger.revoke(what, &reason)).await?;
    // Request a backup, because earlier backups lack the revocation.
    backups.follow();
    match &revoked.what {
        Revoked::Token(token_id) => tracing::info!("Revoked token {}", TokenId(*token_id)),
        Revoked::Service(service) => tracing::info!("Revoked all tokens of service {service}"),
    }
    Ok(Json(revoked))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevocationsBody {
    revocations: Vec<RevocationRecord>,
}

/// Lists all revocations.
#[utoipa::path(get, path = "/revocations", tag = "tokens", responses((status = 200, body = RevocationsBody)))]
pub(super) async fn revocations(
    State(admin): State<Arc<Admin>>,
) -> Result<Json<RevocationsBody>, Fault> {
    let revocations = blocking(move || admin.ledger.revocations()).await?;
    Ok(Json(RevocationsBody { revocations }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeysBody {
    keys: Vec<KeyBody>,
}

#[derive(Debug, Serialize, ToSchema)]
struct KeyBody {
    epoch: u16,
    /// Whether new tokens are minted with this key.
    mints: bool,
    /// When tokens of this key expire, Unix seconds; `null` while the key mints. The rotation that
    /// replaces the key sets the time.
    until_secs: Option<u64>,
}

impl From<Vec<Epoch>> for KeysBody {
    fn from(epochs: Vec<Epoch>) -> Self {
        let key = |epoch: Epoch| KeyBody {
            epoch: epoch.number,
            mints: epoch.until_secs.is_none(),
            until_secs: epoch.until_secs,
        };
        Self {
            keys: epochs.into_iter().map(key).collect(),
        }
    }
}

/// Lists the master keys without their secrets.
#[utoipa::path(get, path = "/keys", tag = "tokens", responses((status = 200, body = KeysBody)))]
pub(super) async fn keys(State(admin): State<Arc<Admin>>) -> Json<KeysBody> {
    Json(admin.keyring.epochs().into())
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    /// How long tokens of the earlier keys stay valid; 30 days by default. 0 ends these tokens and
    /// the responses in progress for them now.
    retire_after_secs: Option<u64>,
    /// Whether to rotate even if no backup of the new key can be made. Until there is a backup,
    /// losing the disk loses the new key's tokens.
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RotatedBody {
    #[serde(flatten)]
    keys: KeysBody,
    /// The backup that contains the new key; `null` without a backup, which only `force` allows.
    #[schema(value_type = Option<String>)]
    backup: Option<PathBuf>,
}

/// Mints with a new master key from now on.
///
/// The key is in a backup before the first token is minted, and also in the store if backups are
/// sent to a store. Tokens of a lost key open nothing. If the backup fails, the key does not
/// change.
#[utoipa::path(
    post, path = "/keys/rotate", tag = "tokens", request_body = Option<RotateBody>,
    responses(
        (status = 200, body = RotatedBody),
        (status = 409, description = "failed to back up the new key; `force` rotates without a backup")
    )
)]
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    body: Option<Json<RotateBody>>,
) -> Result<Json<RotatedBody>, Fault> {
    let RotateBody {
        retire_after_secs: after_secs,
        force,
    } = body.unwrap_or_default().0;
    let until_secs = admin
        .clock
        .unix_secs()
        .saturating_add(after_secs.unwrap_or(RETIRE_AFTER_SECS));
    let runtime = tokio::runtime::Handle::current();
    let rotating = move || {
        let mut backup = None;
        let rotated = admin.keyring.rotate_behind(until_secs, || {
            match runtime.block_on(admin.backups.create_and_send()) {
                Ok(created) => backup = Some(created.file),
                Err(error) if force => {
                    tracing::error!(
                        "Failed to make a backup of the new master key: {}",
                        chain(&error)
                    );
                    admin.backups.follow();
                }
                Err(error) => return Err(Fault::NotBackedUp(error)),
            }
            Ok(())
        });
        // The backup that could not be sent lists the old keys as retired, so a newer backup must
        // replace it.
        if matches!(rotated, Err(Fault::NotBackedUp(BackupError::NotSent(_))))
            && let Err(error) = admin.backups.create()
        {
            tracing::error!(
                "Failed to make a backup of the keys in force: {}",
                chain(&error)
            );
        }
        Ok::<_, Fault>((rotated?, backup))
    };
    let (epochs, backup) = tokio::task::spawn_blocking(rotating)
        .await
        .expect("writing a file does not panic")?;
    tracing::info!("Tokens are made with a new master key from now on");
    Ok(Json(RotatedBody {
        keys: epochs.into(),
        backup,
    }))
}
