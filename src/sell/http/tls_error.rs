//! The errors of setting up TLS.

use std::path::PathBuf;

use tokio_rustls::rustls;

/// The reason why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// Other users of this machine can change the key, or all of them can read it.
    #[error("the key {path} is open to others (mode {mode:03o}): run `chmod 600 {path}`", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Other users of this machine can access the folder that contains the keys.
    #[error("the folder {path} is open to others (mode {mode:03o}), and keys are kept in it: run `chmod 700 {path}`", path = .path.display())]
    OpenFolder {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not contain the expected PEM.
    #[error("{path} holds no {what} in PEM", path = .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The kind of content that was expected.
        what: &'static str,
        /// The error of the parser.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate cannot serve as an authority.
    #[error("{path} holds a certificate that cannot be used for an authority", path = .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: rustls::Error,
    },
    /// The certificate and the key do not match, or are of an unsupported kind.
    #[error("{cert} and {key} cannot be used together", cert = .cert.display(), key = .key.display())]
    Unusable {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of its key.
        key: PathBuf,
        /// The reason.
        #[source]
        source: rustls::Error,
    },
}
