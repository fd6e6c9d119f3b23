//! `[http]`: the public listener.

use std::net::SocketAddr;

use crate::http::{Clients, Config, ForwardedHeader, Networks, TlsFiles};

use super::Meaning;
use super::raw::RawHttp;

impl Meaning<'_> {
    pub(super) fn front(&mut self, raw: &RawHttp, listen: SocketAddr) -> Config {
        if raw.proxy_protocol && raw.trusted_proxies.is_empty() {
            self.complain(
                "http.proxy_protocol",
                "nobody may speak it: name the proxies in `http.trusted_proxies`",
            );
        }
        Config {
            listen,
            connections_max: self.at_least_one("http.connections_max", raw.connections_max),
            header_timeout: self.span("http.header_timeout", &raw.header_timeout),
            write_timeout: self.span("http.write_timeout", &raw.write_timeout),
            grace: self.span("http.shutdown_grace", &raw.shutdown_grace),
            proxy_protocol: raw.proxy_protocol,
            tls: raw.tls.as_ref().map(|tls| TlsFiles {
                cert: self.folder.join(&tls.cert),
                key: self.folder.join(&tls.key),
            }),
        }
    }

    pub(super) fn clients(&mut self, raw: &RawHttp) -> Clients {
        Clients {
            trusted_proxies: self.networks("http.trusted_proxies", &raw.trusted_proxies),
            forwarded_header: self.forwarded_header(&raw.forwarded_header),
            allow: self.networks("http.allow", &raw.allow),
            block: self.networks("http.block", &raw.block),
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
