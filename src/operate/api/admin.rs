//! The parts of the program that the API works with.

use std::path::PathBuf;
use std::sync::Arc;

use crate::account::ledger::Ledger;
use crate::base::clock::Clock;
use crate::base::live::Live;
use crate::node::Node;
use crate::operate::backup::Backups;
use crate::sell::gate::{Gate, Keyring};
use crate::sell::http::{Shop, TlsSource};
use crate::sell::route::{Offer, RouteTable};

use super::access::AdminToken;
use super::reloading::Reload;
use super::spending::Spending;

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
