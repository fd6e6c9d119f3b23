//! Certificates from an ACME authority (RFC 8555). The authority checks control of the names
//! through the public listener itself (TLS-ALPN-01, RFC 8737), so no other port has to be open.

use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use rustls_acme::caches::DirCache;
use rustls_acme::{AcmeConfig, AcmeState, EventOk, ResolvesServerCertAcme, is_tls_alpn_challenge};
use tokio::time::Instant;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

use crate::base::live::Live;
use crate::base::secret_file;

use super::tls_error::TlsError;

/// How long one ACME session runs before a new one starts from the cached certificate. The library
/// waits without limit for the authority. If the authority never responds, the certificate must not
/// expire during that wait.
const ANEW_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

impl AcmeSettings {
    /// Checks that the files named in the settings can be used now.
    pub fn check(&self) -> Result<(), TlsError> {
        let client = self.directory_ca.as_ref().map(client);
        client.transpose().map(drop)
    }
}

/// The settings for certificates from an ACME authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The names in the certificate.
    pub domains: Vec<String>,
    /// The mail address at which the authority can reach the operator.
    pub contact: Option<String>,
    /// The URL of the authority's directory.
    pub directory: String,
    /// A PEM file with the CA that signed the authority's own certificate, if that CA is not
    /// public.
    pub directory_ca: Option<PathBuf>,
    /// The folder for the account and the certificates.
    pub cache: PathBuf,
}

/// The ACME client of a listener.
#[derive(Clone, Debug)]
pub(super) struct Acme {
    settings: AcmeSettings,
    /// TLS settings for the connection to the authority; `None` for the default.
    client: Option<Arc<ClientConfig>>,
    current: Arc<Current>,
}

/// The resolvers for the certificate in force and for the authority's challenge.
#[derive(Debug, Default)]
struct Current {
    /// Resolves to the certificate in force; `None` before the first one.
    in_force: Live<Option<Arc<ResolvesServerCertAcme>>>,
    /// Resolves to the proof for the authority's challenge.
    asking: Live<Option<Arc<ResolvesServerCertAcme>>>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let resolver = if is_tls_alpn_challenge(&hello) {
            &self.asking
        } else {
            &self.in_force
        };
        resolver.get().as_ref().as_ref()?.resolve(hello)
    }
}

impl Acme {
    /// Creates the cache folder. Does not contact the authority yet.
    pub(super) fn open(settings: AcmeSettings) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Read {
            path: settings.cache.clone(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&settings.cache)
            .map_err(failed)?;
        let metadata = settings.cache.metadata().map_err(failed)?;
        // The library writes keys into this folder with the default file mode, usually readable for
        // all users.
        if secret_file::is_given_to_a_group(&metadata) {
            std::fs::set_permissions(&settings.cache, Permissions::from_mode(0o700))
                .map_err(failed)?;
        } else if metadata.permissions().mode() & 0o077 != 0 {
            let mode = metadata.permissions().mode() & 0o777;
            return Err(TlsError::OpenFolder {
                path: settings.cache.clone(),
                mode,
            });
        }
        let client = settings.directory_ca.as_ref().map(client).transpose()?;
        Ok(Self {
            settings,
            client,
            current: Arc::default(),
        })
    }

    /// The resolver that TLS connections use.
    pub(super) fn certificates(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::<Current>::clone(&self.current)
    }

    fn state(&self) -> AcmeState<std::io::Error> {
        let settings = &self.settings;
        let contact = settings.contact.iter();
        let mut config = AcmeConfig::new(&settings.domains)
            .contact(contact.map(|contact| format!("mailto:{contact}")))
            .directory(&settings.directory)
            .cache(DirCache::new(settings.cache.clone()));
        if let Some(client) = &self.client {
            config = config.client_tls_config(Arc::clone(client));
        }
        config.state()
    }

    /// Orders certificates, and renews them before they expire, until `stop` is cancelled.
    pub(super) async fn run(self, stop: CancellationToken) {
        let names = self.settings.domains.join(", ");
        loop {
            let mut state = self.state();
            self.current.asking.set(Some(state.resolver()));
            let anew_at = Instant::now() + ANEW_AFTER;
            loop {
                let event = tokio::select! {
                    event = state.next() => event,
                    () = tokio::time::sleep_until(anew_at) => break,
                    () = stop.cancelled() => return,
                };
                match event {
                    Some(Ok(EventOk::DeployedCachedCert)) => {
                        self.current.in_force.set(Some(state.resolver()));
                        tracing::info!("The certificate for {names} that was kept is in force");
                    }
                    Some(Ok(EventOk::DeployedNewCert)) => {
                        self.current.in_force.set(Some(state.resolver()));
                        tracing::info!("A new certificate for {names} is in force");
                    }
                    Some(Ok(EventOk::CertCacheStore | EventOk::AccountCacheStore)) => {}
                    Some(Err(error)) => tracing::error!(
                        "Failed to get or keep a certificate for {names}, which is tried again: {error}"
                    ),
                    None => break,
                }
            }
        }
    }
}

/// TLS settings that trust only the authorities in this file.
fn client(path: &PathBuf) -> Result<Arc<ClientConfig>, TlsError> {
    let no = |source| TlsError::Pem {
        path: path.clone(),
        what: "certificate",
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(no)? {
        roots.add(certificate.map_err(no)?).map_err(|source| {
            let path = path.clone();
            TlsError::Authority { path, source }
        })?;
    }
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(client))
}
