//! What the public listener sells.

use crate::sell::resource::Resources;
use crate::sell::route::RouteTable;

use super::clients::Clients;

/// The routes, their resources and the rules for clients. The resources belong to these routes.
#[derive(Debug)]
pub struct Shop {
    /// The routes.
    pub routes: RouteTable,
    /// The files and upstreams behind the routes.
    pub resources: Resources,
    /// The trusted proxies, and the clients that are admitted.
    pub clients: Clients,
}
