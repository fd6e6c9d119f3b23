//! The public listener (`[http]`) and the operator's listener (`[admin]`).

use std::net::SocketAddr;
use std::path::Path;

use crate::base::error_chain::chain;
use crate::sell::http::{
    AcmeSettings, Clients, Config, ForwardedHeader, Networks, Origins, TlsFiles, TlsSource,
};

use super::meaning::Meaning;
use super::raw::{RawAcme, RawAdmin, RawHttp, RawTls};
use super::web_address::is_web_address;

/// The directory URL of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Let's Encrypt's test authority. Browsers do not trust its certificates, and they do not count
/// towards the rate limits of the real one.
const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// The smallest share of a network, in connections. A browser opens six to one server.
const SHARE_MIN: usize = 8;

impl Meaning<'_> {
    pub(super) fn front(&mut self, raw: &RawHttp, listen: SocketAddr, data_dir: &Path) -> Config {
        if raw.proxy_protocol && raw.trusted_proxies.is_empty() {
            self.complain(
                "http.proxy_protocol",
                "nobody may speak it: name the proxies in `http.trusted_proxies`",
            );
        }
        Config {
            listen,
            connections_max: self.at_least_one("http.connections_max", raw.connections_max),
            connections_of_network: self.share(raw),
            header_timeout: self.span("http.header_timeout", &raw.header_timeout),
            write_timeout: self.span("http.write_timeout", &raw.write_timeout),
            grace: self.span("http.shutdown_grace", &raw.shutdown_grace),
            proxy_protocol: raw.proxy_protocol,
            tls: self.tls(raw, data_dir),
        }
    }

    /// The most connections that one network may hold.
    fn share(&mut self, raw: &RawHttp) -> usize {
        let percent = raw.network_share_percent;
        if !(1..=100).contains(&percent) {
            self.complain("http.network_share_percent", "from 1 to 100");
        }
        let max = raw.connections_max as usize;
        if percent == 100 {
            return max;
        }
        // At least one connection remains for other networks.
        let share = max * percent as usize / 100;
        share.max(SHARE_MIN).min(max.saturating_sub(1)).max(1)
    }

    /// The address and the certificate of the operator's listener.
    pub(super) fn operators(&mut self, raw: &RawAdmin) -> (SocketAddr, Option<TlsSource>) {
        let listen = self.address("admin.listen", &raw.listen);
        let tls = raw.tls.as_ref();
        let tls = tls.map(|tls| self.tls_files("admin.tls", tls));
        if !listen.ip().is_loopback() && tls.is_none() {
            self.complain(
                "admin.listen",
                "money can be spent here: beyond loopback (127.0.0.1 or [::1]) it takes a certificate in `[admin.tls]`",
            );
        }
        (listen, tls)
    }

    /// Reads a certificate and its key, which must exist and match.
    pub(super) fn tls_files(&mut self, key: &str, tls: &RawTls) -> TlsSource {
        let files = TlsFiles {
            cert: self.folder.join(&tls.cert),
            key: self.secret(&format!("{key}.key"), &tls.key),
        };
        if let Err(error) = files.check() {
            self.complain(key, chain(&error));
        }
        TlsSource::Files(files)
    }

    fn tls(&mut self, raw: &RawHttp, data_dir: &Path) -> Option<TlsSource> {
        if raw.tls.is_some() && raw.acme.is_some() {
            self.complain(
                "http.acme",
                "there is a certificate in `http.tls` already: give one of the two",
            );
        }
        let Some(tls) = &raw.tls else {
            let acme = raw.acme.as_ref()?;
            return Some(TlsSource::Acme(self.acme(acme, data_dir)));
        };
        Some(self.tls_files("http.tls", tls))
    }

    fn acme(&mut self, raw: &RawAcme, data_dir: &Path) -> AcmeSettings {
        if raw.domains.is_empty() {
            self.complain(
                "http.acme.domains",
                "at least one name, as in \"shop.example\"",
            );
        }
        for name in raw.domains.iter().filter(|name| !is_domain(name)) {
            self.complain(
                "http.acme.domains",
                format!(
                    "`{name}` is no name: small letters, digits, dots and -, as in \"shop.example\""
                ),
            );
        }
        let contact = raw.contact.as_deref();
        if contact.is_some_and(|contact| !contact.contains('@') || contact.contains(':')) {
            self.complain(
                "http.acme.contact",
                "a mail address, as in \"me@shop.example\"",
            );
        }
        let directory = match raw.directory.as_deref().unwrap_or("letsencrypt") {
            "letsencrypt" => LETS_ENCRYPT,
            "letsencrypt-staging" => LETS_ENCRYPT_STAGING,
            url if url.starts_with("https://") && is_web_address(url) => url,
            other => {
                self.complain(
                    "http.acme.directory",
                    format!(
                        "`{other}` is no authority; there are letsencrypt, letsencrypt-staging and any https URL"
                    ),
                );
                LETS_ENCRYPT_STAGING
            }
        };
        let ca = raw.directory_ca.as_ref();
        AcmeSettings {
            domains: raw.domains.clone(),
            contact: raw.contact.clone(),
            directory: directory.to_owned(),
            directory_ca: ca.map(|path| self.folder.join(path)),
            cache: match &raw.cache {
                None => data_dir.join("acme"),
                Some(cache) => self.secret("http.acme.cache", cache),
            },
        }
    }

    pub(super) fn clients(&mut self, raw: &RawHttp) -> Clients {
        Clients {
            trusted_proxies: self.networks("http.trusted_proxies", &raw.trusted_proxies),
            forwarded_header: self.forwarded_header(&raw.forwarded_header),
            allow: self.networks("http.allow", &raw.allow),
            block: self.networks("http.block", &raw.block),
            origins: Origins::parse(&raw.cors_credentials).unwrap_or_else(|error| {
                self.complain("http.cors_credentials", error.to_string());
                Origins::default()
            }),
        }
    }

    fn forwarded_header(&mut self, text: &str) -> ForwardedHeader {
        match text {
            "either" => ForwardedHeader::Either,
            "x-forwarded-for" => ForwardedHeader::XForwardedFor,
            "forwarded" => ForwardedHeader::Forwarded,
            other => {
                self.complain(
                    "http.forwarded_header",
                    format!(
                        "`{other}` is not read; there are either, x-forwarded-for and forwarded"
                    ),
                );
                ForwardedHeader::Either
            }
        }
    }

    fn networks(&mut self, key: &str, list: &[String]) -> Networks {
        Networks::parse(list).unwrap_or_else(|error| {
            self.complain(key, error.to_string());
            Networks::default()
        })
    }
}

/// Whether an authority can certify this name: not an address, a port, or a wildcard, which needs
/// another kind of proof.
fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(is_good)
    };
    name.split('.').all(is_label) && name.parse::<std::net::IpAddr>().is_err()
}
