//! Settings of upstreams: what they mean, what is refused, and that no key of an upstream is ever shown.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use tollhouse::base::secret_file;
use tollhouse::sell::route::{Forward, Health, Protocol, Resource};

use crate::support::settings::{CHAIN, Settings};

/// What only the upstream may read.
const KEY: &str = "sk-upstream-0123456789";

/// A folder with an upstream's key, a key that others can read, one of several lines, and a certificate.
fn settings() -> Settings {
    let settings = Settings::new();
    let file = |name: &str| settings.dir.path().join(name);
    secret_file::write_new(&file("upstream.key"), KEY).unwrap();
    secret_file::write_new(&file("lines.key"), "two\nlines").unwrap();
    std::fs::write(file("open.key"), KEY).unwrap();
    std::fs::set_permissions(file("open.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let ca = rcgen::generate_simple_self_signed(["upstream".to_owned()]).unwrap();
    std::fs::write(file("ca.pem"), ca.cert.pem()).unwrap();
    settings
}

/// A free route in front of an upstream, with these further lines.
fn route(upstream: &str, more: &str) -> String {
    format!("{CHAIN}[[route]]\npath = \"/a/*\"\naccess = \"free\"\nupstream = {upstream}\n{more}\n")
}

fn forward(settings: &Settings, text: &str) -> Arc<Forward> {
    let config = settings.load(text, &[]).unwrap();
    let route = config.routes.iter().next().unwrap();
    match &route.resource {
        Resource::Upstream(forward) => Arc::clone(forward),
        Resource::Files { .. } => panic!("a folder"),
    }
}

#[test]
fn a_url_alone_is_a_whole_upstream() {
    let settings = settings();
    let base = "http://127.0.0.1:3000/base";
    let alone = forward(&settings, &route(&format!("\"{base}/\""), ""));
    assert_eq!(*alone, Forward::to(base.parse().unwrap()));
    let table = forward(&settings, &route(&format!("{{ url = \"{base}\" }}"), ""));
    assert_eq!(alone, table);
}

#[test]
fn every_key_means_what_it_says() {
    let settings = settings();
    let upstream = r#"{ urls = ["https://a", "https://b:1/base"], protocol = "http2", connect_timeout = "1s", first_byte_timeout = "2s",
        idle_timeout = "3s", connection_age_max = "5s", ca = "ca.pem", health = { path = "/health?a", every = "4s" } }"#
        .replace('\n', " ");
    let more = r#"
strip_prefix = true
add_prefix = "/v2"
forward_credential = true
upgrades = []
redirects = "keep"
request_headers = { set = { "X-Api-Key" = { file = "upstream.key" }, "x-a" = "b" }, remove = ["cookie"] }
response_headers = { set = { "x-b" = "c" }, remove = ["server"] }"#;
    let forward = forward(&settings, &route(&upstream, more));
    assert!(forward.strip_prefix && forward.forward_credential && forward.upgrades.is_empty());
    assert_eq!(forward.add_prefix, "/v2");
    let upstream = &forward.upstream;
    assert_eq!(upstream.servers.len(), 2);
    assert_eq!(upstream.protocol, Protocol::Http2);
    assert_eq!(upstream.connect_timeout, Duration::from_secs(1));
    assert_eq!(upstream.first_byte_timeout, Some(Duration::from_secs(2)));
    assert_eq!(upstream.idle_timeout, Some(Duration::from_secs(3)));
    assert_eq!(upstream.connection_age_max, Duration::from_secs(5));
    assert!(forward.keeps_redirects);
    assert_eq!(upstream.authorities.len(), 1);
    let health = Health {
        path: "/health?a".to_owned(),
        every: Duration::from_secs(4),
    };
    assert_eq!(upstream.health, Some(health));
    let set = &forward.request_headers.set;
    assert_eq!(set[0].0, "x-api-key");
    assert_eq!(set[0].1, KEY);
    assert_eq!(set[1].1, "b");
    assert_eq!(forward.request_headers.remove, ["cookie"]);
    assert_eq!(forward.response_headers.remove, ["server"]);
    let printed = format!("{forward:?}");
    assert!(
        !printed.contains(KEY) && printed.contains("Sensitive"),
        "{printed}"
    );
}

#[test]
fn a_virtual_host_can_be_meant() {
    let headers = "request_headers = { set = { host = \"shop.example\" } }";
    let forward = forward(&settings(), &route("\"http://127.0.0.1:1\"", headers));
    assert_eq!(forward.request_headers.set[0].1, "shop.example");
}

/// Upstream, further lines, the key that is named, and words of what would be right.
type Row = (&'static str, &'static str, &'static str, &'static str);

const ONE: &str = "\"http://127.0.0.1:1\"";

#[rustfmt::skip]
const REFUSED: &[Row] = &[
    // The upstream.
    ("1", "", "route[1].upstream", "a string or a table"),
    ("{}", "", "route[1].upstream", "url"),
    ("{ url = \"http://a\", urls = [\"http://b\"] }", "", "route[1].upstream", "url"),
    ("{ urls = [] }", "", "route[1].upstream.urls", "1 to 32"),
    ("{ urls = [\"http://a\", \"b\"] }", "", "route[1].upstream.urls[2]", "http://127.0.0.1:3000"),
    ("{ urls = [\"http://a\", \"http://a/\"] }", "", "route[1].upstream.urls[2]", "twice"),
    ("{ url = \"ftp://a\" }", "", "route[1].upstream.url", "http://127.0.0.1:3000"),
    ("{ url = 1 }", "", "route[1].upstream.url", "string"),
    ("{ uri = \"http://a\" }", "", "route[1].upstream.uri", "url"),
    ("{ url = \"http://a\", protocol = \"grpc\" }", "", "route[1].upstream.protocol", "http2"),
    ("{ url = \"http://a\", connect_timeout = \"0s\" }", "", "route[1].upstream.connect_timeout", "30s"),
    ("{ url = \"http://a\", first_byte_timeout = \"1\" }", "", "route[1].upstream.first_byte_timeout", "30s"),
    ("{ url = \"http://a\", idle_timeout = \"-1s\" }", "", "route[1].upstream.idle_timeout", "30s"),
    ("{ url = \"http://a\", health = \"/health\" }", "", "route[1].upstream.health", "struct"),
    ("{ url = \"http://a\", health = { every = \"1s\" } }", "", "route[1].upstream.health.path", "must be given"),
    ("{ url = \"http://a\", health = { path = \"health\" } }", "", "route[1].upstream.health.path", "/health"),
    ("{ url = \"http://a\", health = { path = \"/a b\" } }", "", "route[1].upstream.health.path", "/health"),
    ("{ url = \"http://a\", health = { path = \"/a\", every = \"often\" } }", "", "route[1].upstream.health.every", "30s"),
    ("{ url = \"https://a\", ca = \"none.pem\" }", "", "route[1].upstream.ca", "PEM"),
    ("{ url = \"https://a\", ca = \"upstream.key\" }", "", "route[1].upstream.ca", "PEM"),
    ("{ url = \"http://a\", ca = \"ca.pem\" }", "", "route[1].upstream.ca", "https://"),
    ("{ url = \"https://a\", verify = false }", "", "route[1].upstream.verify", "there is no such key"),
    // The path.
    (ONE, "add_prefix = \"v2\"", "route[1].add_prefix", "/v2"),
    (ONE, "add_prefix = \"/v2/\"", "route[1].add_prefix", "/v2"),
    (ONE, "add_prefix = \"/\"", "route[1].add_prefix", "/v2"),
    (ONE, "add_prefix = \"/a/../b\"", "route[1].add_prefix", "/v2"),
    (ONE, "add_prefix = \"/a?b\"", "route[1].add_prefix", "/v2"),
    (ONE, "encoded_slashes = \"keep\"", "route[1].encoded_slashes", "\"pass\""),
    (ONE, "encoded_slashes = true", "route[1].encoded_slashes", "string"),
    // Headers.
    (ONE, "request_headers = { add = {} }", "route[1].request_headers.add", "set"),
    (ONE, "request_headers = { set = { \"a b\" = \"c\" } }", "route[1].request_headers.set.a b", "no header's name"),
    (ONE, "request_headers = { set = { a = \"b\\nc: d\" } }", "route[1].request_headers.set.a", "one line"),
    (ONE, "request_headers = { set = { a = 1 } }", "route[1].request_headers.set.a", "a string or a table"),
    (ONE, "request_headers = { set = { a = { fil = \"x\" } } }", "route[1].request_headers.set.a.fil", "file"),
    (ONE, "request_headers = { set = { a = { file = \"none.key\" } } }", "route[1].request_headers.set.a", "none.key"),
    (ONE, "request_headers = { set = { a = { file = \"open.key\" } } }", "route[1].request_headers.set.a", "chmod 600"),
    (ONE, "request_headers = { set = { a = { file = \"lines.key\" } } }", "route[1].request_headers.set.a", "one line"),
    (ONE, "request_headers = { set = { content-length = \"1\" } }", "route[1].request_headers.set.content-length", "frames"),
    (ONE, "request_headers = { set = { Transfer-Encoding = \"chunked\" } }", "route[1].request_headers.set.Transfer-Encoding", "frames"),
    (ONE, "request_headers = { set = { connection = \"close\" } }", "route[1].request_headers.set.connection", "connection"),
    (ONE, "request_headers = { set = { upgrade = \"h2c\" } }", "route[1].request_headers.set.upgrade", "connection"),
    (ONE, "request_headers = { set = { te = \"trailers\" } }", "route[1].request_headers.set.te", "connection"),
    (ONE, "request_headers = { set = { expect = \"100-continue\" } }", "route[1].request_headers.set.expect", "connection"),
    (ONE, "request_headers = { set = { x-forwarded-for = \"192.0.2.1\" } }", "route[1].request_headers.set.x-forwarded-for", "we say"),
    (ONE, "request_headers = { set = { l402_token_id = \"1\" } }", "route[1].request_headers.set.l402_token_id", "we say"),
    (ONE, "request_headers = { remove = [\"content-length\"] }", "route[1].request_headers.remove[1]", "frames"),
    (ONE, "response_headers = { set = { content-length = \"1\" } }", "route[1].response_headers.set.content-length", "frames"),
    (ONE, "response_headers = { set = { host = \"a\" } }", "route[1].response_headers.set.host", "an answer has none"),
    (ONE, "response_headers = { set = { l402-remaining-requests = \"9\" } }", "route[1].response_headers.set.l402-remaining-requests", "we say"),
    ("{ url = \"http://a\", protocol = \"http2\" }", "request_headers = { set = { host = \"b\" } }", "route[1].request_headers.set.host", "URL"),
    // What a connection may be switched to.
    (ONE, "upgrades = [\"h2c\"]", "route[1].upgrades", "websocket"),
    (ONE, "upgrades = [\"TLS\"]", "route[1].upgrades", "websocket"),
    (ONE, "upgrades = [\"TLS/1.2\"]", "route[1].upgrades", "websocket"),
    (ONE, "upgrades = [\"a, h2c\"]", "route[1].upgrades", "websocket"),
    ("{ url = \"http://a\", protocol = \"http2\" }", "upgrades = [\"websocket\"]", "route[1].upgrades", "http1"),
];

#[test]
fn every_refusal_names_the_key_and_what_would_be_right() {
    let settings = settings();
    let mut wrong = Vec::new();
    for (upstream, more, key, right) in REFUSED {
        let text = route(upstream, more);
        let Err(complaints) = settings.load(&text, &[]) else {
            wrong.push(format!("accepted: {text}"));
            continue;
        };
        let is_named = complaints
            .iter()
            .any(|complaint| complaint.key == *key && complaint.to_string().contains(right));
        let shown = format!("{complaints:?}");
        if !is_named || shown.contains(KEY) {
            wrong.push(format!("{key}, {right}: {shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_folder_forwards_nothing() {
    let settings = settings();
    for key in [
        "add_prefix = \"/v2\"",
        "encoded_slashes = \"pass\"",
        "request_headers = {}",
        "response_headers = {}",
        "forward_credential = false",
        "upgrades = []",
    ] {
        let text = format!(
            "{CHAIN}[[route]]\npath = \"/a/*\"\naccess = \"free\"\nfiles = \"articles\"\n{key}\n"
        );
        let complaints = settings.load(&text, &[]).unwrap_err();
        let name = key.split(' ').next().unwrap();
        assert_eq!(complaints[0].key, format!("route[1].{name}"));
    }
}
