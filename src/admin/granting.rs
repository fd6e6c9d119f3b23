//! Making access tokens for others.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Admin, Fault, Granted, Scope};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    /// What may be asked for with it.
    scope: Scope,
    /// What may be spent with it in all, fees included, in msat. Left out: no limit.
    spend_max_msat: Option<u64>,
    /// How long it is good, in seconds. Left out: for ever.
    valid_secs: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantedBody {
    /// To be sent as `Authorization: Bearer …`. It is shown once and kept nowhere.
    token: String,
    scope: Scope,
    spend_max_msat: Option<u64>,
    /// Until when it is good, Unix seconds.
    until_secs: Option<u64>,
}

/// Makes an access token. All of them end with the operator's own: remove DATA_DIR/admin.token and start again.
#[utoipa::path(post, path = "/access", tag = "access", request_body = GrantBody, responses((status = 200, body = GrantedBody)))]
pub(super) async fn grant(
    State(admin): State<Arc<Admin>>,
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
    Ok(Json(GrantedBody {
        token: admin.access.grant(&granted, random),
        scope: granted.scope,
        spend_max_msat: granted.spend_max_msat,
        until_secs: granted.until_secs,
    }))
}
