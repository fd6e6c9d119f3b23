//! The operator's HTTP API. It has its own listener on a loopback address and its own access
//! tokens. The public listener serves none of it.

mod access;
mod access_list;
mod admin;
mod answering;
mod backup;
mod bundle;
mod bundle_error;
mod channels;
mod door;
mod fault;
mod following;
mod granting;
mod in_json;
pub mod liquidity;
mod openapi;
mod outlook;
mod payments;
mod peers;
mod reload;
mod reloading;
mod sales;
mod scope;
mod spending;
mod state;
mod tokens;
mod wallet;

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, middleware};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use door::Door;

pub use access::{AdminToken, Granted};
pub use admin::Admin;
pub use bundle::Bundles;
pub use bundle_error::BundleError;
pub use following::Following;
pub use outlook::{Outlook, Turn, Watch, dearest};
pub use reloading::{Ahead, Broken, Reload, Reloaded, Reloads, Wish};
pub use scope::Scope;
pub use spending::{Spending, SpendingError};

/// Builds the operator's router. Every path requires a token whose scope allows it.
pub fn router(admin: Admin) -> Router {
    let door = |scope| Door {
        token: Arc::clone(&admin.access),
        scope,
    };
    let behind = |scope, part: OpenApiRouter<Arc<Admin>>| {
        part.route_layer(middleware::from_fn_with_state(door(scope), door::require))
    };
    let (router, document) = OpenApiRouter::with_openapi(openapi::document())
        .merge(behind(Scope::Read, looking()))
        .merge(behind(Scope::Invoices, receiving()))
        .merge(behind(Scope::Spend, spending()))
        .merge(behind(Scope::Admin, deciding()))
        .split_for_parts();
    let document = Json(document);
    let described = Router::new()
        .route(
            "/openapi.json",
            get(move || std::future::ready(document.clone())),
        )
        .route_layer(middleware::from_fn_with_state(
            door(Scope::Read),
            door::require,
        ));
    router
        .merge(described)
        .layer(middleware::map_response(in_json::in_json))
        .with_state(Arc::new(admin))
}

/// The endpoints that change nothing.
fn looking() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(state::health))
        .routes(routes!(state::ready))
        .routes(routes!(state::status))
        .routes(routes!(sales::sales))
        .routes(routes!(tokens::list))
        .routes(routes!(tokens::revocations))
        .routes(routes!(tokens::keys))
        .routes(routes!(wallet::balance))
        .routes(routes!(channels::list))
        .routes(routes!(channels::force_close_cost))
        .routes(routes!(peers::list))
        .routes(routes!(payments::list))
        .routes(routes!(payments::one))
        .routes(routes!(liquidity::terms))
        .routes(routes!(liquidity::order_status))
        .routes(routes!(liquidity::activations))
}

/// The endpoints that bring money in.
fn receiving() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(wallet::new_address))
        .routes(routes!(payments::make_invoice))
}

/// The endpoints that spend money, within the limit of the caller's token.
fn spending() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(payments::pay))
        .routes(routes!(wallet::send))
}

/// The endpoints that only the scope `admin` may use.
fn deciding() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(backup::create))
        .routes(routes!(backup::leave))
        .routes(routes!(reload::look, reload::reload))
        .routes(routes!(state::sync))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::revoke_service))
        .routes(routes!(tokens::rotate))
        .routes(routes!(channels::open))
        .routes(routes!(channels::close))
        .routes(routes!(channels::force_close))
        .routes(routes!(channels::splice_in))
        .routes(routes!(channels::splice_out))
        .routes(routes!(peers::connect))
        .routes(routes!(peers::disconnect))
        .routes(routes!(wallet::withdraw))
        .routes(routes!(liquidity::activate))
        .routes(routes!(liquidity::order))
        .routes(routes!(liquidity::fetch_map))
        .routes(routes!(granting::grant))
        .routes(routes!(granting::list))
        .routes(routes!(granting::revoke))
}
