//! The composition root: everything long-lived is built here, from the store up, and stopped in reverse.

mod folder;
mod running;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::admin::{self, Admin, AdminToken};
use crate::clock::Clock;
use crate::config::Config;
use crate::gate::{Gate, Keyring, KeyringError, Limiter};
use crate::http::{self, Limits, Public, Server, Stop};
use crate::invoice::Minter;
use crate::ledger::{Ledger, LedgerError};
use crate::node::{Node, NodeError, NodeKeys, SeedError};
use crate::resource::Resources;
use crate::secret_file::SecretFileError;
use crate::store::{DataLock, LockError};

use running::Running;

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
    /// The node.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Runs until `stop` says so, or until a fault that must not be passed over.
pub async fn run(config: Config, stop: Stop) -> Result<(), AppError> {
    let clock = Clock::system();
    let data_dir = &config.data_dir;
    folder::make(data_dir)?;
    // Before anything in the folder is opened.
    let _lock = DataLock::acquire(data_dir)?;
    let seed = data_dir.join("seed.words");
    folder::must_not_be_lost(&seed, &config.node.folder)?;
    let keys = NodeKeys::open(&seed, config.node.network)?;
    let master = data_dir.join("master.key");
    folder::must_not_be_lost(&master, &config.ledger.folder)?;
    let keyring = Arc::new(Keyring::open(&master)?);
    let admin_token = AdminToken::open(&data_dir.join("admin.token"))?;
    let opening = (config.ledger.clone(), clock.clone());
    let opened = tokio::task::spawn_blocking(move || Ledger::open(&opening.0, opening.1)).await;
    let ledger = Arc::new(opened??);

    let node = Arc::new(Node::new(config.node.clone(), keys.clone(), clock.clone()));
    let minter = Minter::new(
        keys.payment_keys(),
        config.node.network,
        config.invoice_expiry,
        node.reach(),
    );
    let gate = Arc::new(Gate::new(
        Arc::clone(&keyring),
        minter,
        Arc::clone(&ledger),
        Limiter::new(config.limits, clock.clone()),
        clock.clone(),
    ));

    let (resources, background) = Resources::build(config.resource, &config.routes);
    let public = Server {
        name: "public",
        listener: listen(config.http.listen, "http.listen").await?,
        router: http::router(Public {
            routes: config.routes.clone(),
            gate,
            resources,
        }),
        limits: config.http.limits(),
    };
    let admin = Admin {
        node: Arc::clone(&node),
        ledger: Arc::clone(&ledger),
        routes: config.routes,
        data_dir: data_dir.clone(),
        started_secs: clock.unix_secs(),
        clock,
    };
    let admin = Server {
        name: "operator's",
        listener: listen(config.admin_listen, "admin.listen").await?,
        router: admin::router(admin, admin_token),
        limits: Limits {
            connections_max: ADMIN_CONNECTIONS_MAX,
            grace: ADMIN_GRACE,
            ..config.http.limits()
        },
    };
    tracing::info!(
        "Selling on http://{}, the operator's listener is http://{}",
        config.http.listen,
        config.admin_listen
    );
    Running::start(public, background, admin, node, ledger, stop).await
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
