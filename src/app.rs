//! The composition root: builds everything long-lived, from the store up, and stops it in reverse.

mod broken;
mod bundle;
mod certificates;
mod embedded;
mod error;
mod folder;
mod inbound;
mod lost;
mod reload;
mod running;

use std::path::{Path, PathBuf};
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
use crate::operate::backup::{Backups, Source};
use crate::protocol::invoice::Minter;
use crate::sell::gate::{Gate, Keyring, Limiter};
use crate::sell::http::{self, Entry, Limits, Public, Server, Shop, Stop, Tls};
use crate::sell::resource::Resources;
use crate::sell::route::Offer;

use inbound::Inbound;
use reload::{Beside, Reloading};
use running::{Front, Running, Servers};

pub use embedded::Tollhouse;
pub use error::AppError;

pub(crate) use folder::make as make_data_folder;

/// The most connections to the operator's listener: the operator is one person with a few scripts.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Time for the operator's requests to finish when the program stops. None of them takes long.
const ADMIN_GRACE: Duration = Duration::from_secs(5);

/// Runs the program until `stop` is cancelled, or until a fault ends it.
///
/// `file` is the settings file that `config` was read from. Each reload reads it again.
pub async fn run(
    config: Config,
    file: PathBuf,
    stop: Stop,
    reload: (Reload, Reloads),
) -> Result<(), AppError> {
    let config = reload::warn(config).await;
    let built = Built::build(config, file, reload, None).await?;
    let config = &built.reloading.started_with;
    let public = public(config, &built.reloading.shop, &built.reloading.gate).await?;
    let (selling, operating) = (config.http.url(), config.admin_url());
    tracing::info!("Selling on {selling}, the operator's listener is {operating}");
    built.run(Front::Listener(Box::new(public)), stop).await
}

/// The whole program except its public front, built but not yet running.
struct Built {
    node: Arc<Node>,
    ledger: Arc<Ledger>,
    admin: Server,
    backups: Arc<Backups>,
    reloading: Reloading,
    beside: Beside,
    /// The data folder.
    data_dir: PathBuf,
    inbound: Inbound,
    following: Following,
    /// The lock on the data folder, released when everything has ended.
    lock: DataLock,
}

impl Built {
    /// Builds the program. `guarded` lists the offers of guards in a program that embeds the node.
    async fn build(
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
        lost::node_must_fit(&config, &secrets.keys, &ledger)?;
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
    async fn run(self, front: Front, stop: Stop) -> Result<(), AppError> {
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
async fn books(config: &Config, clock: &Clock) -> Result<Ledger, AppError> {
    let (config, clock) = (config.ledger.clone(), clock.clone());
    let opening = tokio::task::spawn_blocking(move || Ledger::open(&config, clock));
    Ok(opening.await??)
}

/// The files, keys and settings from which backups are made.
pub(crate) fn source(config: &Config, file: &Path, keys: NodeKeys) -> Source {
    Source {
        data_dir: config.data_dir.clone(),
        settings: file.to_owned(),
        node_folder: config.node.folder.clone(),
        ledger: config.ledger.clone(),
        network: config.node.network,
        vss: config.node.vss.clone(),
        keys,
    }
}

/// The secrets: they must never be lost, and no other user may read them.
struct Secrets {
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

fn gate(
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

async fn public(
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

async fn operators(config: &Config, admin: Admin) -> Result<Server, AppError> {
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

async fn listen(address: std::net::SocketAddr, key: &'static str) -> Result<TcpListener, AppError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AppError::Listen {
            address,
            key,
            source,
        })
}
