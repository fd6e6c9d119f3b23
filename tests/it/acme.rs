//! A certificate from an authority: a real ACME server (pebble), which looks for the proof on the shop's own listener.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use regtest::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tollhouse::sell::http::{AcmeSettings, Tls, TlsSource};

use crate::support::{PAGE, Setup, Shop};

const NAME: &str = "shop.example";

/// Longer than an authority's first attempts take: it is not there yet at the very first.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(command: &mut Command) -> Running {
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Running(
        started.expect("pebble is installed, as by scripts/test (Debian's package of that name)"),
    )
}

/// The authority, and what says that every name is this machine.
struct Authority {
    management: SocketAddr,
    _running: [Running; 2],
}

/// Where the authority will be found.
struct Place {
    directory: SocketAddr,
    certified: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: regtest::port::free().unwrap(),
            certified: rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap(),
        }
    }

    /// Starts it; it looks for proofs at the port of this shop.
    fn start(&self, folder: &Path, shop: SocketAddr) -> Authority {
        let (dns, management) = (
            regtest::port::free().unwrap(),
            regtest::port::free().unwrap(),
        );
        let names = start(Command::new("pebble-challtestsrv").args([
            "-dns01",
            &dns.to_string(),
            "-http01=",
            "-https01=",
            "-tlsalpn01=",
            "-management=",
            "-defaultIPv4=127.0.0.1",
            "-defaultIPv6=",
        ]));
        let file = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).unwrap();
            folder.join(name)
        };
        let settings = serde_json::json!({ "pebble": {
            "listenAddress": self.directory.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": file("pebble.pem", &self.certified.cert.pem()),
            "privateKey": file("pebble-key.pem", &self.certified.signing_key.serialize_pem()),
            "httpPort": 1,
            "tlsPort": shop.port(),
        }});
        let settings = file("pebble.json", &settings.to_string());
        let pebble = start(
            Command::new("pebble")
                .arg("-config")
                .arg(settings)
                .args(["-dnsserver", &dns.to_string()])
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_WFE_NONCEREJECT", "0"),
        );
        Authority {
            management,
            _running: [pebble, names],
        }
    }
}

async fn shake(
    address: SocketAddr,
    name: &'static str,
    root: CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn get(
    address: SocketAddr,
    name: &'static str,
    root: CertificateDer<'static>,
    path: &str,
) -> std::io::Result<String> {
    let mut stream = shake(address, name, root).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

impl Authority {
    /// What it signs certificates with.
    async fn root(&self, place: &Place) -> CertificateDer<'static> {
        let theirs = place.certified.cert.der();
        let pem = eventually("the authority's root", PATIENCE, || async {
            get(self.management, "localhost", theirs.clone(), "/roots/0")
                .await
                .map(|answer| answer.contains("BEGIN CERTIFICATE").then_some(answer))
        })
        .await
        .unwrap();
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }
}

async fn shop_with(settings: &AcmeSettings) -> Shop {
    Shop::with(Setup {
        tls: Some(Tls::open(TlsSource::Acme(settings.clone())).unwrap()),
        ..Setup::default()
    })
    .await
}

async fn is_served(shop: &Shop, root: &CertificateDer<'static>) {
    eventually(
        "a page with the authority's certificate",
        PATIENCE,
        || async {
            let answer = get(shop.address, NAME, root.clone(), "/free/page.txt").await;
            answer.map(|answer| answer.ends_with(PAGE).then_some(()))
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn an_authority_gives_a_certificate_and_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, place.certified.cert.pem()).unwrap();
    let settings = AcmeSettings {
        domains: vec![NAME.to_owned()],
        contact: Some("me@shop.example".to_owned()),
        directory: format!("https://localhost:{}/dir", place.directory.port()),
        directory_ca: Some(ca),
        cache: dir.path().join("acme"),
    };
    let shop = shop_with(&settings).await;
    let authority = place.start(dir.path(), shop.address);
    let root = authority.root(&place).await;
    is_served(&shop, &root).await;
    // The next start needs no authority.
    eventually("the certificate in the folder", PATIENCE, || async {
        let kept = std::fs::read_dir(&settings.cache)?.count();
        Ok::<_, std::io::Error>((kept == 2).then_some(()))
    })
    .await
    .unwrap();
    drop((shop, authority));
    is_served(&shop_with(&settings).await, &root).await;
}
