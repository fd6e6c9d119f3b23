//! The operator's HTTP API. It has its own listener on a loopback address and its own access
//! tokens. The public listener serves none of it.

mod access;
mod access_list;
mod backup;
mod bundle;
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
mod sales;
mod spending;
mod state;
mod tokens;
mod wallet;

use std::path::PathBuf;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, middleware};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use access::{AdminToken, Granted, Scope};
pub use bundle::{BundleError, Bundles};
pub use following::Following;
pub use outlook::{Outlook, Turn, Watch, dearest};
pub use reload::{Ahead, Broken, Reload, Reloaded, Reloads, Wish};
pub use spending::{Spending, SpendingError};

use crate::account::ledger::{Ledger, LedgerError};
use crate::base::clock::Clock;
use crate::base::live::Live;
use crate::node::Node;
use crate::operate::backup::Backups;
use crate::sell::gate::{Gate, Keyring};
use crate::sell::http::{Shop, TlsSource};
use crate::sell::route::{Offer, RouteTable};

use access::Caller;
use door::Door;
use fault::Fault;

/// The parts of the program that the operator API reads and changes.
#[derive(Debug)]
pub struct Admin {
    /// The Lightning node.
    pub node: Arc<Node>,
    /// The account of sales and payments.
    pub ledger: Arc<Ledger>,
    /// The gate, which decides on each paid request.
    pub gate: Arc<Gate>,
    /// The master keys of the tokens.
    pub keyring: Arc<Keyring>,
    /// The routes that are sold.
    pub routes: Arc<Live<RouteTable>>,
    /// The server of the public routes.
    pub shop: Arc<Live<Shop>>,
    /// The offers of handlers in the same program.
    pub guarded: Arc<Live<Vec<Offer>>>,
    /// The operator's token and the list of access tokens.
    pub access: Arc<AdminToken>,
    /// The amounts that access tokens with a limit have spent.
    pub spending: Arc<Spending>,
    /// Backups of the node and the ledger.
    pub backups: Arc<Backups>,
    /// The sender of reload requests.
    pub reload: Reload,
    /// The data folder.
    pub data_dir: PathBuf,
    /// The number of sales below which the status warns that little can be received.
    pub low_sales: u32,
    /// The source of the time.
    pub clock: Clock,
    /// When the program started, Unix seconds.
    pub started_secs: u64,
    /// The listeners' certificates, each with the settings key that names it.
    pub certificates: Vec<(&'static str, TlsSource)>,
}

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

/// Runs work that reads the ledger's store on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("what the operator asks of the books does not panic")
}

/// Decodes the start of a page, which is the `next` of the page before.
fn before(next: Option<String>) -> Result<Option<Vec<u8>>, Fault> {
    let before = next.map(hex::decode).transpose();
    before.map_err(|_| Fault::Asked("`before` is the `next` of the page before"))
}
