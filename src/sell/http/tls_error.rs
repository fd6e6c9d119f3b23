//! Why TLS cannot be spoken.

use std::path::PathBuf;

use tokio_rustls::rustls;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("failed to read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// Everybody on this machine can read or change the key.
    #[error("the key {path} is open to others (mode {mode:03o}): run `chmod 600 {path}`", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others on this machine can look into the folder of the keys.
    #[error("the folder {path} is open to others (mode {mode:03o}), and keys are kept in it: run `chmod 700 {path}`", path = .path.display())]
    OpenFolder {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file holds something else.
    #[error("{path} holds no {what} in PEM", path = .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// What the parser said.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// An authority cannot be believed in.
    #[error("{path} holds a certificate that cannot be used for an authority", path = .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// They do not belong together, or are of a kind that is not spoken.
    #[error("{cert} and {key} cannot be used together", cert = .cert.display(), key = .key.display())]
    Unusable {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of its key.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
}
