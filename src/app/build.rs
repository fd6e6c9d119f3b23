//! Builds every part of the program, and what each of them needs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::account::ledger::Ledger;
use crate::account::store::DataLock;
use crate::base::clock::Clock;
use crate::base::live::Live;
use crate::config::Config;
use crate::keys::NodeKeys;
use crate::node::Node;
use crate::operate::api::{self, Admin, AdminToken, Following, Reload, Reloads, Spending};
use crate::operate::backup::Backups;
use crate::protocol::invoice::Minter;
use crate::sell::gate::{Gate, Keyring, Limiter};
use crate::sell::http::{self, Entry, Limits, Public, Server, Shop, Stop, Tls};
use crate::sell::resource::Resources;
use crate::sell::route::Offer;

use super::backup_source::source;
use super::error::AppError;
use super::inbound::Inbound;
use super::reload::{Beside, Reloading};
use super::running::{Front, Running, Servers};
use super::{folder, missing_files, reload};

/// The most connections to the operator's listener: the operator is one person with a few scripts.
pub(super) const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Time for the operator's requests to finish when the program stops. None of them takes long.
pub(super) const ADMIN_GRACE: Duration = Duration::from_secs(5);

/// The whole program except its public front, built but not yet running.
pub(super) struct Built {
    pub(super) node: Arc<Node>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) admin: Server,
    pub(super) backups: Arc<Backups>,
    pub(super) reloading: Reloading,
    pub(super) beside: Beside,
    /// The data folder.
    pub(super) data_dir: PathBuf,
    pub(super) inbound: Inbound,
    pub(super) following: Following,
    /// The lock on the data folder, released when everything has ended.
    pub(super) lock: DataLock,
}

impl Built {
    /// Builds the program. `guarded` lists the offers of guards in a program that embeds the node.
    pub(super) async fn build(
        config: Config,
        file: PathBuf,
        (reload, reloads): (Reload, Reloads),
        guarded: Option<Arc<Live<Vec<Offer>>>>,
    ) -> Result<Self, AppError> {
        config.warn();
        let clock = Clock::system();
        let lock = folder::take(&config)?;
        let secrets = Secrets::open(&config, &clock)?;
        let ledger = Arc::new(books(&config, &clock).await?);
        missing_files::node_must_fit(&config, &secrets.keys, &ledger)?;
        let keys = secrets.keys.clone();
        let source = source(&config, &file, keys.clone());
        let node = Arc::new(Node::new(config.node.clone(), keys, clock.clone()));
        let gate = Arc::new(gate(&config, &secrets, &node, &ledger, &clock));
        let backups = Arc::new(Backups::new(
            config.backup.clone(),
            source,
            Arc::clone(&node),
            Arc::clone(&ledger),
            clock.clone(),
        ));
        let (resources, background) = Resources::build(config.resource, &config.routes);
        let shop = Arc::new(Live::new(Shop {
            routes: config.routes.clone(),
            resources,
            clients: config.clients.clone(),
        }));
        let routes = Arc::new(Live::new(config.routes.clone()));
        let beside = Beside {
            background,
            rates: Arc::clone(&gate.quotes().rates),
        };
        let admin = Admin {
            node: Arc::clone(&node),
            ledger: Arc::clone(&ledger),
            gate: Arc::clone(&gate),
            keyring: secrets.keyring,
            access: secrets.access,
            spending: secrets.spending,
            routes: Arc::clone(&routes),
            shop: Arc::clone(&shop),
            guarded: guarded.clone().unwrap_or_default(),
            backups: Arc::clone(&backups),
            reload,
            data_dir: config.data_dir.clone(),
            low_sales: config.node.liquidity.low_sales,
            started_secs: clock.since_boot().as_secs(),
            certificates: config.certificates(),
            clock: clock.clone(),
        };
        Ok(Self {
            following: Following::of(&admin),
            inbound: Inbound::of(&admin, config.node.liquidity.bundle.clone()),
            node,
            ledger: Arc::clone(&ledger),
            admin: operators(&config, admin).await?,
            backups,
            data_dir: config.data_dir.clone(),
            reloading: Reloading {
                file,
                started_with: config,
                shop,
                routes,
                guarded,
                gate,
                ledger,
                clock,
                reloads,
            },
            beside,
            lock,
        })
    }

    /// Runs the program behind this front.
    pub(super) async fn run(self, front: Front, stop: Stop) -> Result<(), AppError> {
        let _lock = self.lock;
        let servers = Servers {
            front,
            admin: self.admin,
            backups: self.backups,
            reloading: self.reloading,
            beside: self.beside,
            inbound: self.inbound,
            following: self.following,
        };
        Running::start(servers, self.node, self.ledger, stop).await?;
        folder::note_clean_stop(&self.data_dir);
        Ok(())
    }
}

/// Opens the ledger on a blocking thread, because opening reads the disk.
pub(super) async fn books(config: &Config, clock: &Clock) -> Result<Ledger, AppError> {
    let (config, clock) = (config.ledger.clone(), clock.clone());
    let opening = tokio::task::spawn_blocking(move || Ledger::open(&config, clock));
    Ok(opening.await??)
}

/// The secrets: they must never be lost, and no other user may read them.
pub(super) struct Secrets {
    /// The keys of the node.
    keys: NodeKeys,
    /// The root keys of the tokens.
    keyring: Arc<Keyring>,
    /// The access tokens of the operator API.
    access: Arc<AdminToken>,
    /// The amounts that access tokens have spent.
    spending: Arc<Spending>,
}

impl Secrets {
    /// Reads the secrets, and creates them on the first start.
    fn open(config: &Config, clock: &Clock) -> Result<Self, AppError> {
        let seed = config.data_dir.join("seed.words");
        folder::must_not_be_lost(&seed, &config.node.folder)?;
        let keys = NodeKeys::open(&seed, config.node.network)?;
        let master = config.data_dir.join("master.key");
        folder::must_not_be_lost(&master, &config.ledger.folder)?;
        let access = AdminToken::open(&config.data_dir.join("admin.token"), clock.clone())?;
        let spending = Spending::open(&config.data_dir.join("access.spent"))?;
        Ok(Self {
            keys,
            keyring: Arc::new(Keyring::open(&master)?),
            access: Arc::new(access),
            spending: Arc::new(spending),
        })
    }
}

pub(super) fn gate(
    config: &Config,
    secrets: &Secrets,
    node: &Node,
    ledger: &Arc<Ledger>,
    clock: &Clock,
) -> Gate {
    let minter = Minter::new(
        secrets.keys.payment_keys(),
        config.node.network,
        config.invoice_expiry,
        node.reach(),
    );
    Gate::new(
        Arc::clone(&secrets.keyring),
        minter,
        Arc::clone(ledger),
        Limiter::new(config.limits, clock.clone()),
        reload::quotes(config, None, clock),
        clock.clone(),
    )
}

pub(super) async fn public(
    config: &Config,
    shop: &Arc<Live<Shop>>,
    gate: &Arc<Gate>,
) -> Result<Server, AppError> {
    Ok(Server {
        name: "public",
        listener: listen(config.http.listen, "http.listen").await?,
        router: http::router(Public {
            shop: Arc::clone(shop),
            gate: Arc::clone(gate),
        }),
        limits: config.http.limits(),
        entry: config.http.entry(shop)?,
    })
}

pub(super) async fn operators(config: &Config, admin: Admin) -> Result<Server, AppError> {
    Ok(Server {
        name: "operator's",
        listener: listen(config.admin_listen, "admin.listen").await?,
        router: api::router(admin),
        limits: Limits {
            connections_max: ADMIN_CONNECTIONS_MAX,
            connections_of_network: ADMIN_CONNECTIONS_MAX,
            grace: ADMIN_GRACE,
            ..config.http.limits()
        },
        entry: Entry {
            tls: config.admin_tls.clone().map(Tls::open).transpose()?,
            ..Entry::default()
        },
    })
}

pub(super) async fn listen(
    address: std::net::SocketAddr,
    key: &'static str,
) -> Result<TcpListener, AppError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AppError::Listen {
            address,
            key,
            source,
        })
}
