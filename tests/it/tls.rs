//! TLS in front: both protocols over it, certificates that change while it runs, and clients that never shake hands.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tollhouse::sell::http::{Limits, Tls, TlsError, TlsFiles, TlsSource};

use crate::crowd;
use crate::support::http2::read;
use crate::support::raw;
use crate::support::upstream::{SOON, Upstream};
use crate::support::{DEADLINE, PAGE, Setup, Shop};

/// A folder with a certificate for `shop` and its key.
struct Files {
    dir: TempDir,
    files: TlsFiles,
    cert: CertificateDer<'static>,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
        };
        let cert = renew(&files);
        Self { dir, files, cert }
    }

    fn source(&self) -> TlsSource {
        TlsSource::Files(self.files.clone())
    }
}

fn write_key(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Writes another certificate and key into the files.
fn renew(files: &TlsFiles) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["shop".to_owned()]).unwrap();
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    write_key(&files.key, &made.signing_key.serialize_pem());
    made.cert.der().clone()
}

async fn shop_over(files: &Files, limits: Limits, upstream: Option<&Upstream>) -> Shop {
    Shop::with(Setup {
        tls: Some(Tls::open(files.source()).unwrap()),
        limits,
        upstream: upstream.map(|upstream| upstream.address),
        ..Setup::default()
    })
    .await
}

/// Shakes hands, believing in this certificate only.
async fn shake(
    shop: &Shop,
    cert: &CertificateDer<'static>,
    protocols: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let stream = shop.connect().await;
    let name = ServerName::try_from("shop").unwrap();
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(DEADLINE, shaken)
        .await
        .expect("a handshake in time")
}

async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(DEADLINE, stream.read_to_string(&mut answer)).await;
    // The end is said, not cut.
    read.expect("an answer in time").unwrap();
    answer
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

#[tokio::test]
async fn both_protocols_are_spoken_over_both_versions() {
    let upstream = Upstream::start().await;
    let files = Files::new();
    let shop = shop_over(&files, Setup::usual_limits(), Some(&upstream)).await;
    for versions in [&BOTH[..1], &BOTH[1..]] {
        for protocols in [&[&b"http/1.1"[..]][..], &[]] {
            let mut stream = shake(&shop, &files.cert, protocols, versions)
                .await
                .unwrap();
            let answer = get(&mut stream, "/articles/page.txt").await;
            assert!(answer.starts_with("HTTP/1.1 402"), "{answer}");
        }
        let stream = shake(&shop, &files.cert, &[b"h2", b"http/1.1"], versions).await;
        let stream = stream.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
            TokioExecutor::new(),
            TokioIo::new(stream),
        )
        .await
        .unwrap();
        let mut connections = tokio::task::JoinSet::new();
        connections.spawn(async move { drop(connection.await) });
        let sold = shop.sell("articles", None);
        let request = Request::get("https://shop/articles/page.txt")
            .header("authorization", sold.header())
            .body(Full::default());
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(read(answer).await.1, PAGE);
    }
    let mut stream = shake(&shop, &files.cert, &[], BOTH).await.unwrap();
    get(&mut stream, "/open/x").await;
    let seen = upstream.take_one();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn who_speaks_something_else_is_turned_away() {
    let files = Files::new();
    let shop = shop_over(&files, Setup::usual_limits(), None).await;
    let plain = b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    assert!(raw::exchange(shop.address, plain).await.is_none());
    // No protocol in common.
    assert!(shake(&shop, &files.cert, &[b"h3"], BOTH).await.is_err());
    let mut stream = shake(&shop, &files.cert, &[], BOTH).await.unwrap();
    assert!(get(&mut stream, "/free/page.txt").await.ends_with(PAGE));
}

#[tokio::test]
async fn a_handshake_has_no_more_time_than_headers_and_a_place_like_a_connection() {
    let files = Files::new();
    let limits = Limits {
        header_timeout: SOON,
        connections_max: 1,
        ..Setup::usual_limits()
    };
    let shop = shop_over(&files, limits, None).await;
    let mut silent = shop.connect().await;
    silent.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
    // It is served when the other one's time is over.
    let mut stream = shake(&shop, &files.cert, &[], BOTH).await.unwrap();
    assert!(get(&mut stream, "/free/page.txt").await.ends_with(PAGE));
    let mut rest = Vec::new();
    let read = timeout(DEADLINE, silent.read_to_end(&mut rest)).await;
    drop(read.expect("closed in time"));
}

#[tokio::test]
async fn handshakes_that_never_end_keep_nobody_out() {
    let files = Files::new();
    let shop = shop_over(&files, crowd::limits(), None).await;
    let mut silent = Vec::new();
    for address in ["127.0.1.1", "127.0.2.1"] {
        for _ in 0..8 {
            let mut stream = raw::connect_from(address, shop.address).await;
            stream.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
            silent.push(stream);
        }
    }
    for _ in 0..12 {
        let mut stream = shake(&shop, &files.cert, &[], BOTH).await.unwrap();
        assert!(get(&mut stream, "/free/page.txt").await.ends_with(PAGE));
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_given_up() {
    let files = Files::new();
    let limits = Limits {
        connections_max: 1,
        write_timeout: SOON,
        ..Setup::usual_limits()
    };
    let shop = shop_over(&files, limits, None).await;
    let large = std::fs::File::create(shop.folder.join("large.bin")).unwrap();
    large.set_len(256 * 1024 * 1024).unwrap();
    let mut first = shake(&shop, &files.cert, &[], BOTH).await.unwrap();
    let request = b"GET /free/large.bin HTTP/1.1\r\nHost: shop\r\n\r\n";
    first.write_all(request).await.unwrap();
    let mut second = shake(&shop, &files.cert, &[], BOTH).await.unwrap();
    assert!(get(&mut second, "/free/page.txt").await.ends_with(PAGE));
    drop(first);
}

#[tokio::test]
async fn a_certificate_that_changes_is_in_force_and_a_broken_one_is_not() {
    let files = Files::new();
    let mut tls = Tls::open(files.source()).unwrap();
    let shop = Shop::with(Setup {
        tls: Some(tls.clone()),
        ..Setup::default()
    })
    .await;
    let is_shown =
        async |cert: &CertificateDer<'static>| shake(&shop, cert, &[], BOTH).await.is_ok();
    assert!(is_shown(&files.cert).await);
    let second = renew(&files.files);
    tls.look_again();
    assert!(is_shown(&second).await && !is_shown(&files.cert).await);
    // A new certificate without its key, no key, no file: the old pair stays.
    let key = std::fs::read_to_string(&files.files.key).unwrap();
    renew(&files.files);
    write_key(&files.files.key, &key);
    tls.look_again();
    assert!(is_shown(&second).await);
    write_key(&files.files.key, "nothing");
    tls.look_again();
    std::fs::remove_file(&files.files.key).unwrap();
    tls.look_again();
    tls.look_again();
    assert!(is_shown(&second).await);
    let third = renew(&files.files);
    tls.look_again();
    assert!(is_shown(&third).await && !is_shown(&second).await);
    drop(files.dir);
}

#[tokio::test]
async fn settings_name_the_files() {
    let dir = crate::support::new_folder();
    let files = TlsFiles {
        cert: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    let cert = renew(&files);
    let settings = "[http.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n\
        [[route]]\npath = \"/free/*\"\naccess = \"free\"\nfiles = \"shop\"\n";
    let shop = Shop::selling_in(dir, settings).await;
    let mut stream = shake(&shop, &cert, &[], BOTH).await.unwrap();
    assert!(get(&mut stream, "/free/page.txt").await.ends_with(PAGE));
}

#[test]
fn a_key_is_accepted_as_handed_over_and_with_a_byte_order_mark() {
    let files = Files::new();
    for path in [&files.files.cert, &files.files.key] {
        let pem = std::fs::read_to_string(path).unwrap();
        let written = format!("\u{feff}{}", pem.replace('\n', "\r\n"));
        std::fs::write(path, written).unwrap();
    }
    for mode in [0o600, 0o400, 0o640, 0o440, 0o444] {
        std::fs::set_permissions(&files.files.key, std::fs::Permissions::from_mode(mode)).unwrap();
        Tls::open(files.source()).unwrap();
    }
    for mode in [0o660, 0o446] {
        std::fs::set_permissions(&files.files.key, std::fs::Permissions::from_mode(mode)).unwrap();
        Tls::open(files.source()).unwrap_err();
    }
}

#[test]
fn what_cannot_be_used_is_said_at_the_start() {
    let files = Files::new();
    let open = || Tls::open(files.source()).unwrap_err();
    std::fs::set_permissions(&files.files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open().to_string().contains("chmod 600"));
    let key = std::fs::read_to_string(&files.files.key).unwrap();
    renew(&files.files);
    write_key(&files.files.key, &key);
    assert!(matches!(open(), TlsError::Unusable { .. }));
    std::fs::write(&files.files.cert, "nothing").unwrap();
    assert!(matches!(
        open(),
        TlsError::Unusable { .. } | TlsError::Pem { .. }
    ));
    write_key(&files.files.key, "nothing");
    assert!(matches!(open(), TlsError::Pem { .. }));
    std::fs::remove_file(&files.files.key).unwrap();
    assert!(matches!(open(), TlsError::Read { .. }));
}
