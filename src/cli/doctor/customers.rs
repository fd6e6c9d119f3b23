//! Checks the public listener from outside: whether its public name resolves to it, which
//! certificate it shows and which `Date` it sends.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::ConfigBuilderExt as _;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, ClientConnection, StreamOwned};

use crate::base::clock::Clock;
use crate::config::Config;
use crate::sell::http::{Certificate, Term, TlsSource};

use super::findings::{CONNECT_TIMEOUT, Findings, Grade};

/// How long to wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest response head to read.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How far the `Date` of an answer may differ from the clock; the request itself takes part of it.
const DATE_OFF_SECS: u64 = 10;

/// The port that browsers use.
const HTTPS_PORT: u16 = 443;

/// The maximum number of names, and of addresses of a name, that are tried.
const NAMES_MAX: usize = 8;
const ADDRESSES_MAX: usize = 4;

/// The request. `OPTIONS *` concerns the server as a whole, so it is neither sold nor forwarded.
const QUESTION: &str = "OPTIONS * HTTP/1.1\r\nConnection: close\r\nHost: ";

/// Checks the certificates on disk.
pub(super) fn certificates(config: &Config, findings: &mut Findings) {
    let now_secs = Clock::system().unix_secs();
    for (key, source) in config.certificates() {
        match source.certificate() {
            Some(certificate) => {
                let (grade, found) = said_of(&certificate, now_secs);
                findings.note("certificate", grade, format!("{key}: {found}"));
            }
            None if matches!(source, TlsSource::Acme(_)) => {
                let found = format!(
                    "{key}: the authority has not issued a certificate yet: see the log for the reason"
                );
                findings.note("certificate", Grade::Look, found);
            }
            // The settings cannot be loaded without the certificate's file, so this case does not
            // occur.
            None => {}
        }
    }
}

/// Sends a request to the public listener as a customer does. The program must be running.
pub(super) fn look(config: &Config, findings: &mut Findings) {
    let listen = config.http.listen;
    match &config.http.tls {
        // With the PROXY protocol, only the proxy can connect.
        None if config.http.proxy_protocol => {}
        None => local(here(listen), findings),
        Some(source) => {
            let is_acme = matches!(source, TlsSource::Acme(_));
            let port = if is_acme { HTTPS_PORT } else { listen.port() };
            let names = match source {
                TlsSource::Acme(settings) => settings.domains.clone(),
                TlsSource::Files(_) => source.certificate().map_or_else(Vec::new, |it| it.names),
            };
            let names = names.iter().filter(|name| !name.contains('*'));
            for name in names.take(NAMES_MAX) {
                public(name, port, findings);
            }
        }
    }
}

fn said_of(certificate: &Certificate, now_secs: u64) -> (Grade, String) {
    let grade = match certificate.term(now_secs) {
        Term::Good => Grade::Good,
        Term::EndsSoon => Grade::Look,
        Term::Ended | Term::NotYet => Grade::Bad,
    };
    let days = certificate.until_secs.saturating_sub(now_secs) / 86_400;
    let good = || format!("the certificate is valid for {days} days");
    (grade, certificate.complaint(now_secs).unwrap_or_else(good))
}

/// The address at which this machine reaches its own listener.
fn here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn local(address: SocketAddr, findings: &mut Findings) {
    let what = "http.listen";
    let asked = connect(address).and_then(|mut stream| date(&mut stream, &address.to_string()));
    match asked {
        Ok(date_secs) => {
            findings.note(what, Grade::Good, format!("{address} answers"));
            clock(&address.to_string(), date_secs, findings);
        }
        Err(why) => {
            let found = format!(
                "{address} does not respond to this machine ({why}): check http.allow and http.block"
            );
            findings.note(what, Grade::Look, found);
        }
    }
}

/// Checks one public name: its addresses, its certificate and the `Date` there.
fn public(name: &str, port: u16, findings: &mut Findings) {
    let what = "public name";
    let addresses: Vec<_> = (name, port)
        .to_socket_addrs()
        .into_iter()
        .flatten()
        .collect();
    if addresses.is_empty() {
        let found = format!("the DNS has no address for {name}: customers cannot reach it");
        findings.note(what, Grade::Bad, found);
        return;
    }
    let tried = addresses.iter().take(ADDRESSES_MAX);
    let Some(stream) = tried.filter_map(|address| connect(*address).ok()).next() else {
        let found = format!(
            "{name}:{port} refuses connections from this machine: if other machines fail too, open or forward the port"
        );
        findings.note(what, Grade::Look, found);
        return;
    };
    match shaken(name, stream) {
        Err(rustls::Error::InvalidCertificate(why)) => {
            let (grade, found) = refused(name, port, &why);
            findings.note(what, grade, found);
        }
        Err(why) => {
            let found = format!("the TLS handshake with {name}:{port} failed ({why})");
            findings.note(what, Grade::Look, found);
        }
        Ok(mut stream) => {
            let shown = stream
                .conn
                .peer_certificates()
                .and_then(|chain| Certificate::read(chain.first()?));
            let (grade, said) = shown.map_or((Grade::Good, "it answers".to_owned()), |shown| {
                said_of(&shown, Clock::system().unix_secs())
            });
            findings.note(what, grade, format!("{name}:{port}: {said}"));
            if let Ok(date_secs) = date(&mut stream, name) {
                clock(name, date_secs, findings);
            }
        }
    }
}

/// Why clients refuse the certificate. A private authority may be intended.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls may know more reasons later"
)]
fn refused(name: &str, port: u16, why: &CertificateError) -> (Grade, String) {
    let reason = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is not for this name"
        }
        CertificateError::Revoked => "it was revoked",
        _ => {
            let found = format!(
                "the certificate of {name}:{port} comes from a private authority: only clients that trust that authority accept it"
            );
            return (Grade::Look, found);
        }
    };
    let found = format!("clients reject the certificate of {name}:{port}: {reason}");
    (Grade::Bad, found)
}

/// Compares the `Date` of an answer with the clock.
fn clock(whose: &str, date_secs: Option<u64>, findings: &mut Findings) {
    let Some(date_secs) = date_secs else {
        return;
    };
    let off_secs = date_secs.abs_diff(Clock::system().unix_secs());
    if off_secs > DATE_OFF_SECS {
        let found = format!(
            "the `Date` that {whose} sends is {off_secs} seconds off the clock of this machine: clients that use it treat invoices and \
             tokens for expired"
        );
        findings.note("date", Grade::Bad, found);
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
    let limited = stream.and_then(|stream| {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(stream)
    });
    limited.map_err(|error| error.to_string())
}

/// Does a TLS handshake as a client that trusts the public authorities.
fn shaken(
    name: &str,
    mut stream: TcpStream,
) -> Result<StreamOwned<ClientConnection, TcpStream>, rustls::Error> {
    let config = ClientConfig::builder()
        .with_webpki_roots()
        .with_no_client_auth();
    let other = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
    let server = name
        .to_owned()
        .try_into()
        .map_err(|error: rustls::pki_types::InvalidDnsNameError| other(&error))?;
    let mut connection = ClientConnection::new(Arc::new(config), server)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| {
            let inner = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>());
            inner.cloned().unwrap_or_else(|| other(&error))
        })?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// Sends the request and reads the `Date` of the answer.
fn date(stream: &mut (impl std::io::Read + Write), host: &str) -> Result<Option<u64>, String> {
    let mut ask = || {
        stream.write_all(format!("{QUESTION}{host}\r\n\r\n").as_bytes())?;
        stream.flush()?;
        let mut head = Vec::new();
        let mut part = [0; 1024];
        while head.len() < HEAD_BYTES_MAX && !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut part)? {
                0 => break,
                count => head.extend_from_slice(&part[..count]),
            }
        }
        Ok(head)
    };
    let head = ask().map_err(|error: std::io::Error| error.to_string())?;
    let head = String::from_utf8_lossy(&head);
    if !head.starts_with("HTTP/1.") {
        return Err("the response is not HTTP".to_owned());
    }
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    });
    let date = value.and_then(|value| httpdate::parse_http_date(value).ok());
    let since = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(since.map(|since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    /// A server that sends this answer on each connection.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut asked = [0; 512];
                assert!(stream.read(&mut asked).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    fn found(address: SocketAddr) -> Vec<(&'static str, Grade)> {
        let mut findings = Findings::default();
        local(address, &mut findings);
        findings.0.iter().map(|it| (it.what, it.grade)).collect()
    }

    #[test]
    fn an_answer_with_a_wrong_date_is_bad() {
        let good = ("http.listen", Grade::Good);
        let stale =
            server("HTTP/1.1 400 Bad Request\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n");
        assert_eq!(found(stale), [good, ("date", Grade::Bad)]);
        assert_eq!(found(server("HTTP/1.1 400 Bad Request\r\n\r\n")), [good]);
        let now = httpdate::fmt_http_date(
            std::time::UNIX_EPOCH + Duration::from_secs(Clock::system().unix_secs()),
        );
        let now = format!("HTTP/1.1 200 OK\r\nDate: {now}\r\n\r\n");
        assert_eq!(found(server(now.leak())), [good]);
        assert_eq!(
            found(server("220 mail\r\n\r\n")),
            [("http.listen", Grade::Look)]
        );
    }

    #[test]
    fn a_name_without_an_address_is_bad() {
        let mut findings = Findings::default();
        public("nowhere.invalid", 443, &mut findings);
        assert_eq!(findings.0[0].grade, Grade::Bad);
        assert!(findings.0[0].found.contains("the DNS has no address for"));
    }
}
