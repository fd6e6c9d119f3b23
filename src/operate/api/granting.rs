//! Making, listing and revoking access tokens.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::protocol::l402::TokenId;

use super::access::{Caller, Granted};
use super::access_list::Made;
use super::admin::Admin;
use super::fault::Fault;
use super::scope::Scope;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    /// The requests that the token allows.
    scope: Scope,
    /// The maximum total amount that the token can spend, fees included, in msat. If omitted: no
    /// limit.
    spend_max_msat: Option<u64>,
    /// How long the token is valid, in seconds. The token never outlives the token that makes it.
    /// If omitted, both expire at the same time.
    valid_secs: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantedBody {
    /// The id by which the token is revoked. It is not a secret.
    id: String,
    /// The token, to be sent as `Authorization: Bearer …`. The server shows it once and does not
    /// store it.
    token: String,
    scope: Scope,
    spend_max_msat: Option<u64>,
    /// When the token expires, Unix seconds.
    until_secs: Option<u64>,
}

/// Makes an access token.
///
/// To end all access tokens at once, delete DATA_DIR/admin.token and restart the program.
#[utoipa::path(
    post, path = "/access", tag = "access", request_body = GrantBody,
    responses((status = 200, body = GrantedBody), (status = 409, description = "there are too many"))
)]
pub(super) async fn grant(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<GrantBody>,
) -> Result<Json<GrantedBody>, Fault> {
    let limits_something = matches!(body.scope, Scope::Spend);
    if body.spend_max_msat.is_some() && !limits_something {
        return Err(Fault::Asked("a limit goes with the scope `spend`"));
    }
    let now_secs = admin.clock.unix_secs();
    let granted = Granted {
        scope: body.scope,
        spend_max_msat: body.spend_max_msat,
        until_secs: body.valid_secs.map(|secs| now_secs.saturating_add(secs)),
    };
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|_| Fault::NoRandomness)?;
    let granting = move || admin.access.grant(&granted, &caller, random);
    let grant = tokio::task::spawn_blocking(granting)
        .await
        .expect("writing a file does not panic")?;
    tracing::info!(
        "Made access token {} with the scope `{}`",
        grant.token_id,
        granted.scope.name()
    );
    Ok(Json(GrantedBody {
        id: grant.token_id.to_string(),
        token: grant.token,
        scope: granted.scope,
        spend_max_msat: granted.spend_max_msat,
        until_secs: grant.until_secs,
    }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccessBody {
    tokens: Vec<TokenBody>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TokenBody {
    /// The id by which the token is revoked.
    id: String,
    #[serde(flatten)]
    made: Made,
    /// The amount spent with the token, in msat, if it has a limit.
    spent_msat: Option<u64>,
    /// The most that its payments under way can cost, fees included, in msat. It counts against the
    /// limit until they end.
    pending_msat: Option<u64>,
}

/// Lists the access tokens without their secrets, the oldest first.
#[utoipa::path(get, path = "/access", tag = "access", responses((status = 200, body = AccessBody)))]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Json<AccessBody> {
    let body = |(id, made): (String, Made)| {
        let figures = made.spend_max_msat.map(|_| admin.spending.of(&id));
        TokenBody {
            spent_msat: figures.map(|(spent_msat, _)| spent_msat),
            pending_msat: figures.map(|(_, pending_msat)| pending_msat),
            id,
            made,
        }
    };
    let mut tokens: Vec<_> = admin.access.made().into_iter().map(body).collect();
    tokens.sort_by_key(|token| token.made.made_secs);
    Json(AccessBody { tokens })
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevokedBody {
    id: String,
    /// Access tokens that were made with it and are still valid.
    made_with_it: Vec<String>,
}

/// Revokes one access token and all its narrowed copies at once.
#[utoipa::path(
    post, path = "/access/{token_id}/revoke", tag = "access",
    params(("token_id" = String, Path, description = "64 hex digits")),
    responses((status = 200, body = RevokedBody), (status = 404, description = "there is none, or no more"))
)]
pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    Path(token_id): Path<String>,
) -> Result<Json<RevokedBody>, Fault> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(&token_id, &mut bytes).map_err(|_| {
        Fault::Asked(
            "the id of an access token is 64 hex digits, as `tollhouse access list` shows it",
        )
    })?;
    let token_id = TokenId(bytes);
    let revoking = move || admin.access.revoke(&token_id);
    let made_with_it = tokio::task::spawn_blocking(revoking)
        .await
        .expect("writing a file does not panic")?;
    tracing::info!("Revoked access token {token_id}");
    Ok(Json(RevokedBody {
        id: token_id.to_string(),
        made_with_it,
    }))
}
