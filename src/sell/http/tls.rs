//! TLS with a certificate from an ACME authority, or from files that are read again when they
//! change.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_acme::acme::ACME_TLS_ALPN_NAME;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::base::error_chain::chain;
use crate::base::live::Live;
use crate::base::secret_file::is_read_only;

use super::acme::{Acme, AcmeSettings};
use super::tls_error::TlsError;

/// How often the files are checked. Certificates are renewed weeks before they expire.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The protocols that a client can choose, the preferred first. The last one is only for the
/// handshake of an ACME authority.
const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", ACME_TLS_ALPN_NAME];

/// The byte order mark in UTF-8.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The PEM file with the certificate and its intermediates.
    pub cert: PathBuf,
    /// The PEM file with the private key.
    pub key: PathBuf,
}

/// The source of the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSource {
    /// Certificate and key files.
    Files(TlsFiles),
    /// An ACME authority.
    Acme(AcmeSettings),
}

/// The content of both files.
struct Content {
    cert: Vec<u8>,
    key: Vec<u8>,
    /// The digest of both files, by which a change is detected.
    digest: [u8; 32],
}

impl TlsFiles {
    fn read(&self) -> Result<Content, TlsError> {
        let cert = read(&self.cert)?;
        let failed = |source| TlsError::Read {
            path: self.key.clone(),
            source,
        };
        let file = std::fs::File::open(&self.key).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mode = metadata.permissions().mode() & 0o777;
        // A group may read such a key. A key that all users can read is rejected, unless the file
        // is read-only.
        if mode & 0o022 != 0 || mode & 0o007 != 0 && !is_read_only(&file, &metadata) {
            return Err(TlsError::Exposed {
                path: self.key.clone(),
                mode,
            });
        }
        let key = read(&self.key)?;
        let digest = Sha256::new()
            .chain_update(Sha256::digest(&cert))
            .chain_update(Sha256::digest(&key))
            .finalize();
        Ok(Content {
            cert,
            key,
            digest: digest.into(),
        })
    }

    /// Checks that the files can be used now.
    pub fn check(&self) -> Result<(), TlsError> {
        self.understand(&self.read()?).map(drop)
    }

    /// Parses the files, and checks that the key belongs to the certificate.
    fn understand(&self, content: &Content) -> Result<CertifiedKey, TlsError> {
        let no = |path: &Path, what| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, what, source }
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&content.cert)
            .collect::<Result<_, _>>()
            .map_err(no(&self.cert, "certificate"))?;
        let key =
            PrivateKeyDer::from_pem_slice(&content.key).map_err(no(&self.key, "private key"))?;
        CertifiedKey::from_der(chain, key, &default_provider()).map_err(|source| {
            TlsError::Unusable {
                cert: self.cert.clone(),
                key: self.key.clone(),
                source,
            }
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    });
    // Some editors add a byte order mark, which would hide the first PEM line.
    read.map(|pem| pem.strip_prefix(MARK).map(<[u8]>::to_vec).unwrap_or(pem))
}

/// TLS with the certificate in force.
#[derive(Clone, Debug)]
pub struct Tls {
    certificates: Certificates,
    acceptor: Acceptor,
}

#[derive(Clone, Debug)]
enum Certificates {
    Files(Watched),
    Acme(Acme),
}

/// Certificate files and the digest of their last content.
#[derive(Clone, Debug)]
struct Watched {
    files: TlsFiles,
    /// The digest of the files at the last check, valid or not.
    digest: [u8; 32],
    current: Arc<Current>,
}

/// The certificate in force.
#[derive(Debug)]
struct Current(Live<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }
}

impl Tls {
    /// Opens the certificate source. Reads the files, but does not contact an authority yet.
    pub fn open(source: TlsSource) -> Result<Self, TlsError> {
        match source {
            TlsSource::Files(files) => {
                let watched = Watched::open(files)?;
                Ok(Self {
                    acceptor: Acceptor::new(Arc::<Current>::clone(&watched.current)),
                    certificates: Certificates::Files(watched),
                })
            }
            TlsSource::Acme(settings) => {
                let acme = Acme::open(settings)?;
                Ok(Self {
                    acceptor: Acceptor::new(acme.certificates()),
                    certificates: Certificates::Acme(acme),
                })
            }
        }
    }

    /// The acceptor for new connections.
    pub(super) fn acceptor(&self) -> Acceptor {
        self.acceptor.clone()
    }

    /// Checks the files now. An ACME authority follows its own schedule.
    pub fn look_again(&mut self) {
        match &mut self.certificates {
            Certificates::Files(watched) => watched.look_again(),
            Certificates::Acme(_) => {}
        }
    }

    /// Keeps the certificate current until told to stop.
    pub(super) async fn keep(self, stop: CancellationToken) {
        match self.certificates {
            Certificates::Files(watched) => watched.watch(stop).await,
            Certificates::Acme(acme) => acme.run(stop).await,
        }
    }
}

impl Watched {
    fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let content = files.read()?;
        let current = Arc::new(Current(Live::new(files.understand(&content)?)));
        Ok(Self {
            files,
            digest: content.digest,
            current,
        })
    }

    /// Reads the files again if they have changed. Files that cannot be used do not replace the
    /// certificate in force, and are logged once.
    fn look_again(&mut self) {
        let read = self.files.read();
        // All unreadable states have the same digest.
        let digest = read.as_ref().map_or([0; 32], |content| content.digest);
        if std::mem::replace(&mut self.digest, digest) == digest {
            return;
        }
        match read.and_then(|content| self.files.understand(&content)) {
            Ok(key) => {
                self.current.0.set(key);
                let cert = self.files.cert.display();
                tracing::info!("The certificate in {cert} is in force");
            }
            Err(error) => tracing::error!("The certificate in force is kept: {}", chain(&error)),
        }
    }

    /// Checks the files regularly until told to stop.
    async fn watch(mut self, stop: CancellationToken) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            self = tokio::task::spawn_blocking(move || {
                self.look_again();
                self
            })
            .await
            .expect("looking at files does not panic");
        }
    }
}

/// Accepts TLS connections.
#[derive(Clone)]
pub(super) struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    fn new(certificates: Arc<dyn ResolvesServerCert>) -> Self {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Self(Arc::new(config).into())
    }

    /// Performs the TLS handshake.
    pub(super) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: T,
    ) -> std::io::Result<TlsStream<T>> {
        self.0.accept(stream).await
    }
}
