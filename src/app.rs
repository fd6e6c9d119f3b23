//! The composition root: everything long-lived is built here, from the store up, and stopped in reverse.

mod folder;
mod reload;
mod running;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::admin::{self, Admin, AdminToken, Reload, Reloads};
use crate::clock::Clock;
use crate::config::Config;
use crate::gate::{Gate, Keyring, KeyringError, Limiter};
use crate::http::{self, Entry, Limits, Public, Server, Shop, Stop};
use crate::invoice::Minter;
use crate::ledger::{Ledger, LedgerError};
use crate::live::Live;
use crate::node::{Node, NodeError, NodeKeys, SeedError};
use crate::resource::Resources;
use crate::secret_file::SecretFileError;
use crate::store::{DataLock, LockError};

use reload::{Beside, Reloading};
use running::{Running, Servers};

/// The operator is one person with a few scripts.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// How long the operator's requests may take to finish; none of them is long.
const ADMIN_GRACE: Duration = Duration::from_secs(5);

/// Why the program ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder.
    #[error("failed to make the data folder {path}")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Others on this machine can look into it.
    #[error("the data folder {path} is open to others (mode {mode:03o}): run `chmod 700 {path}`", path = .path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret is gone, and what was made with it is there.
    #[error(
        "{secret} is missing, and {made} was made with it: put it back from a backup (a new one would make what was sold, or \
         the channels, worthless), or move {made} away to begin anew",
        secret = .secret.display(),
        made = .made.display()
    )]
    Lost {
        /// The secret's file.
        secret: PathBuf,
        /// What was made with it.
        made: PathBuf,
    },
    /// A bug.
    #[error("a part of the program panicked")]
    Panicked(#[from] tokio::task::JoinError),
    /// Another program has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The keys of the tokens.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The seed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The account.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A listener.
    #[error("failed to listen on {address} ({key} in the settings)")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The settings' key.
        key: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] http::TlsError),
    /// The node.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Runs until `stop` says so, or until a fault that must not be passed over.
///
/// `file` is where the settings were read from, and are read again when `reloads` says so.
pub async fn run(
    config: Config,
    file: PathBuf,
    stop: Stop,
    (reload, reloads): (Reload, Reloads),
) -> Result<(), AppError> {
    let clock = Clock::system();
    folder::make(&config.data_dir)?;
    // Before anything in the folder is opened.
    let _lock = DataLock::acquire(&config.data_dir)?;
    let secrets = Secrets::open(&config)?;
    let (opening, its_clock) = (config.ledger.clone(), clock.clone());
    let opened = tokio::task::spawn_blocking(move || Ledger::open(&opening, its_clock)).await;
    let ledger = Arc::new(opened??);
    let keys = secrets.keys.clone();
    let node = Arc::new(Node::new(config.node.clone(), keys, clock.clone()));
    let gate = Arc::new(gate(&config, &secrets, &node, &ledger, &clock));
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
    let public = public(&config, &shop, &gate).await?;
    let admin = Admin {
        node: Arc::clone(&node),
        ledger: Arc::clone(&ledger),
        gate: Arc::clone(&gate),
        keyring: secrets.keyring,
        routes: Arc::clone(&routes),
        reload,
        data_dir: config.data_dir.clone(),
        started_secs: clock.unix_secs(),
        clock: clock.clone(),
    };
    let admin = Server {
        name: "operator's",
        listener: listen(config.admin_listen, "admin.listen").await?,
        router: admin::router(admin, secrets.admin_token),
        limits: Limits {
            connections_max: ADMIN_CONNECTIONS_MAX,
            grace: ADMIN_GRACE,
            ..config.http.limits()
        },
        entry: Entry::default(),
    };
    let (selling, operating) = (config.http.url(), config.admin_listen);
    tracing::info!("Selling on {selling}, the operator's listener is http://{operating}");
    let servers = Servers {
        public,
        admin,
        reloading: Reloading {
            file,
            started_with: config,
            shop,
            routes,
            gate,
            clock,
            reloads,
        },
        beside,
    };
    Running::start(servers, node, ledger, stop).await
}

/// What must never be lost, nor seen by others.
struct Secrets {
    /// The node's.
    keys: NodeKeys,
    /// The tokens'.
    keyring: Arc<Keyring>,
    /// The operator's.
    admin_token: AdminToken,
}

impl Secrets {
    /// Reads them; on a first start makes them.
    fn open(config: &Config) -> Result<Self, AppError> {
        let seed = config.data_dir.join("seed.words");
        folder::must_not_be_lost(&seed, &config.node.folder)?;
        let keys = NodeKeys::open(&seed, config.node.network)?;
        let master = config.data_dir.join("master.key");
        folder::must_not_be_lost(&master, &config.ledger.folder)?;
        Ok(Self {
            keys,
            keyring: Arc::new(Keyring::open(&master)?),
            admin_token: AdminToken::open(&config.data_dir.join("admin.token"))?,
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

async fn listen(address: std::net::SocketAddr, key: &'static str) -> Result<TcpListener, AppError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AppError::Listen {
            address,
            key,
            source,
        })
}
