//! A shop in a temporary folder: the real router on a real socket, the real gate, ledger and minter, with a throw-away seed
//! and a clock that stands still. What the node would say of its channels, the test says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::Network;
use http::{Method, header::AUTHORIZATION};

use regtest::client::{Answer, Challenge, Client};
use regtest::wait::eventually;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tollhouse::account::ledger::{self, Ledger};
use tollhouse::base::clock::Clock;
use tollhouse::base::live::Live;
use tollhouse::protocol::invoice::{Inbound, Minter, PaymentKeys, Reach};
use tollhouse::protocol::l402::{Identifier, MasterKey, RootKeys};
use tollhouse::sell::gate::{Gate, Keyring, Limiter, Limits, Quotes};
use tollhouse::sell::http::{self as public, Clients, Entry, Public, Server, Stop, Tls, router};
use tollhouse::sell::quote::{HookConfig, Hooks, RateConfig, Rates};
use tollhouse::sell::resource::{self, Resources};
use tollhouse::sell::route::{Forward, RouteTable};

use super::answers::assert_challenged;
use super::setup::{Setup, upstream_routes};
use super::{DEADLINE, INVOICE_EXPIRY, NOW_SECS, PAGE, Sold};

/// What settings say besides the routes.
#[derive(Debug, Default)]
struct Wanted {
    limits: Limits,
    rates: Vec<RateConfig>,
    hooks: Vec<HookConfig>,
}

/// The shop. It closes when it is dropped.
pub(crate) struct Shop {
    pub(crate) address: SocketAddr,
    pub(crate) clock: Clock,
    pub(crate) ledger: Arc<Ledger>,
    /// What the node would say.
    pub(crate) reach: watch::Sender<Reach>,
    /// The folder that is sold, without links in its path.
    pub(crate) folder: PathBuf,
    /// The keys of its tokens.
    pub(crate) keyring: Arc<Keyring>,
    /// Its gate.
    pub(crate) gate: Arc<Gate>,
    /// What it sells.
    pub(crate) sold_here: Arc<Live<public::Shop>>,
    keys: RootKeys,
    client: Client,
    tracker: TaskTracker,
    stop: Stop,
    dir: TempDir,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.stop.begin.cancel();
    }
}

/// The keyring of the shop in this folder, made once.
fn keyring_in(folder: &Path) -> Keyring {
    let key_file = folder.join("master.key");
    if !key_file.exists() {
        let secret = hex::encode(master_key().secret);
        tollhouse::base::secret_file::write_new(&key_file, &secret).unwrap();
    }
    Keyring::open(&key_file).unwrap()
}

impl Shop {
    pub(crate) async fn open() -> Self {
        Self::with(Setup::default()).await
    }

    /// A shop before this server.
    pub(crate) async fn before(upstream: SocketAddr) -> Self {
        Self::with(Setup::before(upstream)).await
    }

    /// A shop with these limits.
    pub(crate) async fn limited(limits: public::Limits) -> Self {
        Self::with(Setup {
            limits,
            ..Setup::default()
        })
        .await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let dir = new_folder();
        let folder = dir.path().canonicalize().unwrap().join("shop");
        let routes = RouteTable::new(setup.routes(&folder)).unwrap();
        Self::of(dir, setup, routes, Wanted::default()).await
    }

    /// A shop that sells what these settings say; `shop` is the folder with the page in it.
    pub(crate) async fn selling(settings: &str) -> Self {
        Self::selling_in(new_folder(), settings).await
    }

    /// The same in a folder that is there already.
    pub(crate) async fn selling_in(dir: TempDir, settings: &str) -> Self {
        let file = dir.path().join("tollhouse.toml");
        let chain = "node.chain.esplora = \"http://127.0.0.1:1\"\n";
        std::fs::write(&file, format!("{chain}{settings}")).unwrap();
        let config = match tollhouse::config::load_with(&file, []) {
            Ok(config) => config,
            Err(complaints) => panic!("{complaints}"),
        };
        let wanted = Wanted {
            limits: config.limits,
            rates: config.rates,
            hooks: config.hooks,
        };
        let setup = Setup {
            clients: config.clients,
            proxy_protocol: config.http.proxy_protocol,
            tls: config.http.tls.map(|source| Tls::open(source).unwrap()),
            ..Setup::default()
        };
        Self::of(dir, setup, config.routes, wanted).await
    }

    async fn of(dir: TempDir, setup: Setup, routes: RouteTable, wanted: Wanted) -> Self {
        let folder = dir.path().canonicalize().unwrap().join("shop");
        let clock = Clock::fixed(NOW_SECS);
        let ledger = Arc::new(Ledger::open(&ledger_in(dir.path()), clock.clone()).unwrap());
        let (reach, said) = watch::channel(Reach::Ready(Inbound {
            capacity_msat: 1_000_000_000,
            ..Inbound::default()
        }));
        let keys = RootKeys::new(&master_key(), &[]);
        let keyring = Arc::new(keyring_in(dir.path()));
        let minter = Minter::new(
            PaymentKeys::from_seed(&[7; 64], Network::Regtest).unwrap(),
            Network::Regtest,
            INVOICE_EXPIRY,
            said,
        );
        let rates = Arc::new(Rates::new(wanted.rates, clock.clone()));
        let gate = Arc::new(Gate::new(
            Arc::clone(&keyring),
            minter,
            Arc::clone(&ledger),
            Limiter::new(wanted.limits, clock.clone()),
            Quotes {
                rates: Arc::clone(&rates),
                hooks: Hooks::new(wanted.hooks, &clock),
            },
            clock.clone(),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (resources, background) = Resources::build(setup.resource, &routes);
        let shop = sold_here(routes, resources, setup.clients);
        let server = Server {
            name: "test",
            listener,
            router: router(Public {
                shop: Arc::clone(&shop),
                gate: Arc::clone(&gate),
            }),
            limits: setup.limits,
            entry: Entry {
                shop: Some(Arc::clone(&shop)),
                proxy_protocol: setup.proxy_protocol,
                tls: setup.tls,
            },
        };
        let (tracker, stop) = (TaskTracker::new(), Stop::default());
        tracker.spawn(server.run(tracker.clone(), stop.clone()));
        tracker.spawn(background.run(stop.begin.clone(), ending(&stop, &setup.limits)));
        tracker.spawn(rates.run(stop.begin.clone()));
        Self {
            address,
            clock,
            ledger,
            reach,
            folder,
            keyring,
            gate,
            sold_here: shop,
            keys,
            client: Client::new().unwrap(),
            tracker,
            stop,
            dir,
        }
    }

    /// Makes `/up/*`, `/stripped/*` and `/open/*` lead elsewhere from now on, as after a reload.
    pub(crate) fn lead_to(&self, forward: Forward) {
        let routes = RouteTable::new(upstream_routes(forward).into()).unwrap();
        let before = self.sold_here.get();
        let (resources, _background) = before.resources.after(Setup::default().resource, &routes);
        self.sold_here.set(public::Shop {
            routes,
            resources,
            clients: before.clients.clone(),
        });
    }

    /// Tells the server to stop; [`Shop::is_closed`] waits until it has.
    pub(crate) fn close(&self) {
        self.stop.begin.cancel();
        self.tracker.close();
    }

    /// Waits until the server and all its connections have ended.
    pub(crate) async fn is_closed(&self) {
        let ended = tokio::time::timeout(DEADLINE, self.tracker.wait()).await;
        ended.expect("the server ends in time");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request to fill in and to give to [`Shop::send`].
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, &self.url(path))
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.client.send(request).await.unwrap()
    }

    /// GET without a credential.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// GET with this credential.
    pub(crate) async fn get_with(&self, path: &str, sold: &Sold) -> Answer {
        self.send(
            self.request(Method::GET, path)
                .header(AUTHORIZATION, sold.header()),
        )
        .await
    }

    /// A connection without a request on it.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What the gate would sell for this service: the usual caveats, and a preimage that is known.
    pub(crate) fn sell(&self, service: &str, requests: Option<u64>) -> Sold {
        let until = NOW_SECS + 3_600;
        let mut caveats = vec![
            format!("services={service}:0"),
            format!("{service}_valid_until={until}"),
        ];
        caveats.extend(requests.map(|requests| format!("{service}_requests={requests}")));
        Sold::mint(&self.keys, &caveats)
    }

    /// A token of this shop with these caveats.
    pub(crate) fn minted(&self, caveats: &[&str]) -> Sold {
        let caveats: Vec<String> = caveats.iter().map(|caveat| (*caveat).to_owned()).collect();
        Sold::mint(&self.keys, &caveats)
    }

    /// What paying this challenge would have bought: a token of the same id with the same caveats, for a payment whose
    /// preimage is known.
    pub(crate) fn pay(&self, challenge: &Challenge) -> Sold {
        let bytes = STANDARD.decode(&challenge.macaroon).unwrap();
        let parsed = tollhouse::protocol::l402::macaroon::Parsed::read(&bytes).unwrap();
        let caveats: Vec<String> = parsed
            .caveats()
            .map(|caveat| String::from_utf8(caveat.to_vec()).unwrap())
            .collect();
        let token_id = Identifier::from_bytes(parsed.identifier).unwrap().token_id;
        Sold::of(&self.keys, token_id, &caveats)
    }

    /// The challenge to a GET of this path.
    pub(crate) async fn challenge(&self, path: &str) -> Challenge {
        assert_challenged(&self.get(path).await)
    }

    /// What paying for this path would have bought.
    pub(crate) async fn buy(&self, path: &str) -> Sold {
        self.pay(&self.challenge(path).await)
    }

    /// How many requests the ledger has counted on this token; waits until it is as many as `expected`.
    pub(crate) async fn is_counted(&self, sold: &Sold, expected: u64) {
        let token_id = hex::encode(sold.identifier().token_id.0);
        let journal = self.dir.path().join("ledger/journal.log");
        eventually("the count in the journal", DEADLINE, || async {
            self.ledger.write_behind().unwrap();
            let text = std::fs::read_to_string(&journal).unwrap();
            let last = text.lines().rfind(|line| line.contains(&token_id));
            let requests = last.map_or(0, |line| {
                let line: serde_json::Value = serde_json::from_str(&line[9..]).unwrap();
                line["token"]["requests"].as_u64().unwrap()
            });
            if requests == expected {
                Ok(Some(()))
            } else {
                Err(format!("{requests} requests"))
            }
        })
        .await
        .unwrap();
    }

    /// Waits until a second of somebody's time stands in the journal, where a crash would find it before the request's end.
    pub(crate) async fn has_counted_a_second(&self) {
        eventually("a second in the journal", DEADLINE, || async {
            self.ledger.write_behind().unwrap();
            let journal = self.journal();
            let last = journal.lines().rfind(|line| line.contains("metered_ms"));
            let metered_ms = last.and_then(|line| {
                let line: serde_json::Value = serde_json::from_str(&line[9..]).unwrap();
                line["token"]["metered_ms"].as_u64()
            });
            Ok::<_, String>(metered_ms.filter(|ms| *ms >= 1_000))
        })
        .await
        .unwrap();
    }

    /// Where the ledger is.
    pub(crate) fn ledger_folder(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    /// The ledger's journal as it is on the disk.
    pub(crate) fn journal(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("ledger/journal.log")).unwrap()
    }
}

fn ending(stop: &Stop, limits: &public::Limits) -> resource::Ending {
    resource::Ending {
        begin: stop.begin.clone(),
        hurry: stop.hurry.clone(),
        grace: limits.grace,
    }
}

/// A port at which nobody listens, and that nobody else is given meanwhile.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) address: SocketAddr,
    _socket: tokio::net::TcpSocket,
}

impl Closed {
    pub(crate) fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self {
            address: socket.local_addr().unwrap(),
            _socket: socket,
        }
    }
}

/// A folder with something to sell in it.
pub(crate) fn new_folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let shop = dir.path().join("shop");
    std::fs::create_dir(&shop).unwrap();
    std::fs::write(shop.join("page.txt"), PAGE).unwrap();
    dir
}

fn sold_here(
    routes: RouteTable,
    resources: Resources,
    clients: Clients,
) -> Arc<Live<public::Shop>> {
    Arc::new(Live::new(public::Shop {
        routes,
        resources,
        clients,
    }))
}

/// The key of every token that these tests mint.
pub(crate) fn master_key() -> MasterKey {
    MasterKey {
        epoch: 0,
        secret: [0x5e; 32],
        until_secs: None,
    }
}

/// A ledger below this folder.
pub(crate) fn ledger_in(folder: &Path) -> ledger::Config {
    ledger::Config {
        folder: folder.join("ledger"),
        challenges_max: 1_000,
        quotas_max: 1_000,
    }
}
