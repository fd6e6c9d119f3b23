//! Settings: what is refused, and that each refusal names the file, the key, and what would be right.

use std::time::Duration;

use crate::support::settings::CHAIN;
use crate::support::settings::Settings;
use bitcoin::Network;
use tollhouse::config::load_with;
use tollhouse::sell::route::{Access, Resource};

/// A node's id, of nobody in particular.
const NODE_ID: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

/// Everything that a route of this kind needs, with one line of it replaced (or added, if it is not there).
fn route(changed: &str) -> String {
    let key = changed.split(['=', ' ']).next().unwrap();
    let usual = [
        "path = \"/articles/*\"",
        "service = \"articles\"",
        "price = \"10 sat\"",
        "files = \"articles\"",
    ];
    let kept = usual
        .iter()
        .filter(|line| line.split(' ').next() != Some(key));
    let lines: Vec<&str> = kept.copied().chain([changed]).collect();
    format!("{CHAIN}[[route]]\n{}\n", lines.join("\n"))
}

/// Two routes, the second of them all of it written out.
fn two_routes(second: &str) -> String {
    format!("{}[[route]]\n{second}\n", route(""))
}

/// The settings, the key that is named, and words of what would be right.
type Row = (String, &'static str, &'static str);

#[rustfmt::skip]
fn refused() -> Vec<Row> {
    let with = |text: &str| format!("{text}\n{CHAIN}");
    let upstream = |value: &str| format!(
        "{CHAIN}[[route]]\npath = \"/a/*\"\nservice = \"a\"\nprice = \"1 sat\"\nupstream = {value}\n"
    );
    vec![
        // Keys that are not there.
        (with("colour = \"red\""), "colour", "data_dir"),
        (with("[http]\nlisten_on = \"127.0.0.1:1\""), "http.listen_on", "listen"),
        (with("[node]\nalis = \"a\""), "node.alis", "alias"),
        (route("prise = \"1 sat\""), "route[1].prise", "price"),
        (route("grant = { request = 5 }"), "route[1].grant.request", "requests"),
        // Types.
        (with("[http]\nlisten = 8080"), "http.listen", "string"),
        (with("[http]\nlisten = true"), "http.listen", "string"),
        (with("[http]\nconnections_max = 8080.9"), "http.connections_max", "u32"),
        (with("[http]\nconnections_max = true"), "http.connections_max", "u32"),
        (with("[http]\nconnections_max = \"4096\""), "http.connections_max", "u32"),
        (with("[http]\nconnections_max = -1"), "http.connections_max", "u32"),
        (with("[http]\nconnections_max = 4294967296"), "http.connections_max", "u32"),
        (with("[http]\nbody_bytes_max = 1.5"), "http.body_bytes_max", "u64"),
        (with("[http]\nheader_timeout = 15"), "http.header_timeout", "string"),
        (with("[node]\nlisten = \"127.0.0.1:9735\""), "node.listen", "sequence"),
        (with("http = 1"), "http", ""),
        (with("route = 1"), "route", "sequence"),
        (route("price = 10"), "route[1].price", "string"),
        (route("grant = \"5\""), "route[1].grant", "struct"),
        (route("grant = { requests = \"5\" }"), "route[1].grant.requests", "u64"),
        (route("grant = { requests = 5.5 }"), "route[1].grant.requests", "u64"),
        (route("methods = \"GET\""), "route[1].methods", "sequence"),
        (route("strip_prefix = 1"), "route[1].strip_prefix", "boolean"),
        // Values.
        (with("[http]\nlisten = \"localhost:80\""), "http.listen", "127.0.0.1:8402"),
        (with("[http]\nlisten = \"127.0.0.1\""), "http.listen", "127.0.0.1:8402"),
        (with("[http]\nlisten = \"127.0.0.1:99999\""), "http.listen", "127.0.0.1:8402"),
        (with("[http]\nconnections_max = 0"), "http.connections_max", "at least 1"),
        (with("[http]\nnetwork_share_percent = 0"), "http.network_share_percent", "from 1 to 100"),
        (with("[http]\nnetwork_share_percent = 101"), "http.network_share_percent", "from 1 to 100"),
        (with("[backup]\nkeep = 0"), "backup.keep", "at least 1"),
        (with("[backup]\nevery = \"30s\""), "backup.every", "at least 1m"),
        (with("[backup.s3]\nendpoint = \"https://a.b\"\nregion = \"r\"\nbucket = \"b\"\naccess_key = \"a\"\nsecret_key_file = \"none\""), "backup.s3.secret_key_file", "failed to read"),
        (with("[backup.s3]\nendpoint = \"https://a.b\""), "backup.s3.region", "must be given"),
        (with("[backup]\nto = \"/mnt\""), "backup.to", "folder"),
        (with("[http]\ntrusted_proxies = [\"10.0.0.1/8\"]"), "http.trusted_proxies", "10.0.0.0/8"),
        (with("[http]\ntrusted_proxies = [\"proxy\"]"), "http.trusted_proxies", "CIDR"),
        (with("[http]\nallow = [\"::/129\"]"), "http.allow", "CIDR"),
        (with("[http]\nblock = [\"1.2.3\"]"), "http.block", "CIDR"),
        (with("[http]\ncors_credentials = [\"*\"]"), "http.cors_credentials", "https://app.example"),
        (with("[http]\nforwarded_header = \"both\""), "http.forwarded_header", "either"),
        (with("[http]\nproxy_protocol = true"), "http.proxy_protocol", "http.trusted_proxies"),
        (with("[http.acme]\ndomains = []"), "http.acme.domains", "at least one"),
        (with("[http.acme]\ndomains = [\"*.shop.example\"]"), "http.acme.domains", "shop.example"),
        (with("[http.acme]\ndomains = [\"127.0.0.1\"]"), "http.acme.domains", "shop.example"),
        (with("[http.acme]\ndomains = [\"shop.example:443\"]"), "http.acme.domains", "shop.example"),
        (with("[http.acme]\ndomains = [\"a.b\"]\ncontact = \"me\""), "http.acme.contact", "mail address"),
        (with("[http.acme]\ndomains = [\"a.b\"]\ndirectory = \"http://a.b/\""), "http.acme.directory", "https"),
        (with("[http.tls]\ncert = \"a\"\nkey = \"b\"\n[http.acme]\ndomains = [\"a.b\"]"), "http.acme", "one of the two"),
        (with("[http.tls]\ncert = \"none.pem\"\nkey = \"key.pem\""), "http.tls", "failed to read"),
        (with("[http.tls]\ncert = \"cert.pem\""), "http.tls.key", "must be given"),
        (with("[http]\nheader_timeout = \"15\""), "http.header_timeout", "30s"),
        (with("[http]\nheader_timeout = \"0s\""), "http.header_timeout", "30s"),
        (with("[admin]\nlisten = \"0.0.0.0:8403\""), "admin.listen", "certificate"),
        (with("[node.withdraw]\nabove = \"9 sat\""), "node.withdraw", "where to"),
        (
            with("[node.withdraw]\nabove = \"9 sat\"\nkeep = \"9 sat\"\ninvoice_from = \"me@example.org\""),
            "node.withdraw.keep",
            "less than",
        ),
        (
            with("[node.withdraw]\nabove = \"9 sat\"\nto = \"bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mda\""),
            "node.withdraw.to",
            "no bitcoin address",
        ),
        (
            with("[node.withdraw]\nabove = \"9 sat\"\ninvoice_from = \"http://example.org/{amount_msat}\""),
            "node.withdraw.invoice_from",
            "https",
        ),
        (with("[admin]\nlisten = \"127.0.0.1:8402\""), "admin.listen", "another port"),
        (with("[node]\nnetwork = \"mainnet\""), "node.network", "bitcoin"),
        (with("[node]\nalias = \"an alias that is longer than gossip takes\""), "node.alias", "32 bytes"),
        (with("[log]\nlevel = \"loud\""), "log.level", "info"),
        (with("[log]\nformat = \"xml\""), "log.format", "json"),
        (with("[l402]\ninvoice_expiry = \"soon\""), "l402.invoice_expiry", "10m"),
        (with("data_dir = \"\""), "data_dir", "folder"),
        ("node.network = \"regtest\"".into(), "node.chain.esplora", "https://"),
        (with("[node]\nnetwork = \"testnet4\""), "node.network", "mutinynet"),
        (with("[node]\nreserve = \"some\""), "node.reserve", "25000 sat"),
        (with("[node]\nreserve = \"2500 msat\""), "node.reserve", "25000 sat"),
        (with("[node]\nreserve = \"10000001 sat\""), "node.reserve", "at most"),
        (with("[node]\nreserve = \"trusted\""), "node.reserve", "node.liquidity.provider"),
        (with("[node]\ngossip = \"all\""), "node.gossip", "p2p"),
        (with("[node]\nnetwork = \"signet\"\ngossip = \"rapid\""), "node.gossip", "p2p"),
        (with("[node.liquidity]\nprovider = \"nobody\""), "node.liquidity.provider", "megalith"),
        (with("[node.liquidity]\nprovider = \"olympus\""), "node.liquidity.provider", "megalith"),
        (with("[node.liquidity]\norder_provider = \"megalith\""), "node.liquidity.order_provider", "olympus"),
        (with("[node.liquidity]\nprovider = { node_id = \"02\", address = \"a:1\" }"), "node.liquidity.provider", "66 hex digits"),
        (with(&format!("[node.liquidity]\nprovider = {{ node_id = \"{NODE_ID}\", address = \"a\" }}")), "node.liquidity.provider", "host and port"),
        (with(&format!("[node.liquidity]\nprovider = {{ node_id = \"{NODE_ID}\", address = \"a:1\", token_file = \"none\" }}")), "node.liquidity.provider.token_file", "failed to read"),
        (with("[node.liquidity]\nprovider = { node_id = \"02\" }"), "node.liquidity.provider.address", "must be given"),
        (with("[node.liquidity]\nfee_max = \"1 percent\""), "node.liquidity.fee_max", "5000 sat"),
        (with("[node.liquidity]\nfee_max_percent = 91"), "node.liquidity.fee_max_percent", "at most 90"),
        ("[node.chain]\nesplora = \"ftp://a\"".into(), "node.chain.esplora", "http or https"),
        ("[node.chain]\nesplora = \"http://a\"\nsync_interval = \"9s\"".into(), "node.chain.sync_interval", "10s"),
        ("[node.chain]\nesplora = \"http://a\"\nsync_interval = \"31m\"".into(), "node.chain.sync_interval", "30m"),
        ("[node.chain]\nesplora = [\"http://a\", \"b\"]".into(), "node.chain.esplora", "http or https"),
        ("[node.chain]\nesplora = [\"http://a\", \"http://a/\"]".into(), "node.chain.esplora", "twice"),
        ("[node.chain]\nesplora = 5".into(), "node.chain.esplora", "a list of strings"),
        ("[node.chain]\nesplora = \"http://a\"\nrequests_per_hour = 59".into(), "node.chain.requests_per_hour", "60"),
        ("[node.chain]\nesplora = \"http://a\"\nelectrum = \"ssl://a:1\"".into(), "node.chain", "one kind"),
        ("[node.chain]\nelectrum = \"https://a:1\"".into(), "node.chain.electrum", "ssl://"),
        ("[node.chain]\nelectrum = \"ssl://a\"".into(), "node.chain.electrum", "ssl://"),
        ("[node.chain]\nbitcoind = { rpc = \"127.0.0.1\", cookie_file = \"c\" }".into(), "node.chain.bitcoind.rpc", "127.0.0.1:8332"),
        ("[node.chain]\nbitcoind = { rpc = \"a:1\" }".into(), "node.chain.bitcoind", "cookie_file"),
        ("[node.chain]\nbitcoind = { rpc = \"a:1\", user = \"u\", cookie_file = \"c\" }".into(), "node.chain.bitcoind", "password_file"),
        // Services: what would make tokens that never verify.
        (route("service = \"a:b\""), "route[1].service", "a-z, 0-9"),
        (route("service = \"a,b\""), "route[1].service", "a-z, 0-9"),
        (route("service = \"a=b\""), "route[1].service", "a-z, 0-9"),
        (route("service = \"Articles\""), "route[1].service", "a-z, 0-9"),
        (route("service = \"\""), "route[1].service", "a-z, 0-9"),
        (route("service = \"ä\""), "route[1].service", "a-z, 0-9"),
        (format!("{CHAIN}[[route]]\npath = \"/a/*\"\nprice = \"1 sat\"\nfiles = \"articles\""), "route[1].service", "name"),
        // Prices.
        (route("price = \"0 sat\""), "route[1].price", "free"),
        (route("price = \"10\""), "route[1].price", "10 sat"),
        (route("price = \"10 btc\""), "route[1].price", "10 sat"),
        (route("price = \"-1 sat\""), "route[1].price", "10 sat"),
        (route("price = \"1.5 sat\""), "route[1].price", "2500 msat"),
        (route("price = \"2100000000000001 sat\""), "route[1].price", "bitcoin"),
        (format!("{CHAIN}[[route]]\npath = \"/a/*\"\nservice = \"a\"\nfiles = \"articles\""), "route[1].price", "free"),
        (route("access = \"free\""), "route[1].service", "take this key out"),
        (route("access = \"paid\""), "route[1].access", "free"),
        (route("grant = { requests = 0 }"), "route[1].grant.requests", "at least 1"),
        (route("grant = { valid = \"1 day\" }"), "route[1].grant.valid", "7d"),
        (route("grants = [{ name = \"a b\", price = \"1 sat\" }]"), "route[1].grants[1].name", "a-z"),
        (route("grants = [{ name = \"default\", price = \"1 sat\" }]"), "route[1].grants[1].name", "taken"),
        (route("grants = [{ name = \"a\", price = \"1 sat\", services = [\"nobody\"] }]"), "route[1].grant.services", "nobody"),
        (route("price = { by = \"query:size\", values = { small = \"1 sat\", large = \"9 sat\" } }\ngrants = [{ name = \"all\", price = \"8 sat\" }]"), "route[1].grants", "dearest"),
        (route("price = { by = \"size\", values = { small = \"1 sat\" } }"), "route[1].price.by", "query:size"),
        (route("price = { by = \"query:size\" }"), "route[1].price.values", "1 to 64"),
        (route("price = { by = \"query:size\", values = { small = \"1 sat\", large = \"0.01 USD\" } }"), "route[1].price.values.large", "[[rate]]"),
        (route("price = { by = \"query:size\", values = { small = { price = \"9 sat\", tier = 0 }, large = { price = \"10 sat\", tier = 0 } } }"), "route[1].price", "higher tier"),
        (route("price = { by = \"query:size\", values = { small = \"9 sat\", large = { price = \"10 sat\", tier = 0 } } }"), "route[1].price", "tier"),
        (route("price = { by = \"hook:pricer\" }"), "route[1].price.by", "[[hook]]"),
        (route("overrun = \"stop\""), "route[1].overrun", "cut"),
        (route("count = \"some\""), "route[1].count", "delivered"),
        (route("count = \"file\"").replace("files = \"articles\"", "upstream = \"http://127.0.0.1:1\""), "route[1].count", "`files`"),
        (route("overrun = \"cut\"\nmetered_by = \"x-work\""), "route[1].overrun", "too late"),
        (route("metered_by = \"x work\""), "route[1].metered_by", "header"),
        (route("free_quota = { requests = 0, per = \"1d\" }"), "route[1].free_quota.requests", "at least 1"),
        (route("free_quota = { requests = 1, per = \"day\" }"), "route[1].free_quota.per", "7d"),
        (with("[limits]\nchallenges = { requests = 0, per = \"1m\" }"), "limits.challenges.requests", "at least 1"),
        // Paths and methods.
        (route("path = \"articles/*\""), "route[1].path", "slash"),
        (route("path = \"/articles\""), "route[1].path", "/*"),
        (route("path = \"/../*\""), "route[1].path", ".."),
        (route("path = \"/%61/*\""), "route[1].path", "%"),
        (route("methods = []"), "route[1].methods", "leave the key out"),
        (route("methods = [\"get\"]"), "route[1].methods", "capitals"),
        (route("methods = [\"CONNECT\"]"), "route[1].methods", "GET"),
        (route("methods = [\"POST\"]"), "route[1].methods", "GET and HEAD"),
        // What is sold.
        (route("files = \"nowhere\""), "route[1].files", "nowhere"),
        (route("files = \"plain.txt\""), "route[1].files", "no folder"),
        (route("upstream = \"http://127.0.0.1:1\""), "route[1]", "one thing"),
        (format!("{CHAIN}[[route]]\npath = \"/a/*\"\naccess = \"free\""), "route[1]", "upstream"),
        (route("strip_prefix = true"), "route[1].strip_prefix", "leave this key out"),
        (upstream("\"127.0.0.1:3000\""), "route[1].upstream", "http://127.0.0.1:3000"),
        (upstream("\"ftp://127.0.0.1\""), "route[1].upstream", "http://127.0.0.1:3000"),
        (upstream("\"http://user:pass@127.0.0.1\""), "route[1].upstream", "http://127.0.0.1:3000"),
        (upstream("\"http://127.0.0.1/?a=b\""), "route[1].upstream", "http://127.0.0.1:3000"),
        (upstream("\"http://\""), "route[1].upstream", "http://127.0.0.1:3000"),
        (upstream("\"http://127.0.0.1:99999\""), "route[1].upstream", "http://127.0.0.1:3000"),
        (upstream("\"\""), "route[1].upstream", "http://127.0.0.1:3000"),
        // Routes that do not go together.
        (two_routes("path = \"/articles/*\"\naccess = \"free\"\nfiles = \"other\""), "route[2].path", "shadowed by route 1"),
        (two_routes("path = \"/b/*\"\nservice = \"articles\"\nprice = \"10 sat\"\ngrant = { requests = 1 }\nfiles = \"other\""), "route[2].grant", "another service name"),
        // Seed and keys.
        (format!("data_dir = \"articles\"\n{}", route("")), "route[1].files", "for sale"),
        (format!("data_dir = \"articles/data\"\n{}", route("")), "route[1].files", "for sale"),
        (route("files = \".\""), "route[1].files", "for sale"),
    ]
}

#[test]
fn every_refusal_names_the_file_the_key_and_what_would_be_right() {
    let settings = Settings::new();
    let file = settings.file().display().to_string();
    let mut wrong = Vec::new();
    for (text, key, right) in refused() {
        let Err(complaints) = settings.load(&text, &[]) else {
            wrong.push(format!("accepted: {text}"));
            continue;
        };
        let is_named = complaints.iter().any(|complaint| {
            let shown = complaint.to_string();
            // What is missing in the file stands in the built-in defaults.
            let has_origin = complaint.origin == file || complaint.origin.contains("built-in");
            has_origin && complaint.key == key && shown.contains(right)
        });
        if !is_named {
            wrong.push(format!("{key}, {right}: {complaints:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_refused_with_its_place() {
    let settings = Settings::new();
    let complaints = settings.load("[http\nlisten = 1", &[]).unwrap_err();
    let shown = complaints[0].to_string();
    assert!(
        shown.contains("settings.toml") && shown.contains("line 1"),
        "{shown}"
    );
    let missing = settings.dir.path().join("none.toml");
    let complaints = load_with(&missing, []).unwrap_err();
    assert!(complaints.to_string().contains("none.toml"), "{complaints}");
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let settings = Settings::new();
    let text = "[http]\nlisten = \"x\"\nheader_timeout = \"y\"\n[log]\nlevel = \"z\"\n[node]\nnetwork = \"regtest\"\n";
    let complaints = settings.load(text, &[]).unwrap_err();
    let keys: Vec<_> = complaints
        .iter()
        .map(|complaint| complaint.key.as_str())
        .collect();
    for key in [
        "http.listen",
        "http.header_timeout",
        "log.level",
        "node.chain.esplora",
    ] {
        assert!(keys.contains(&key), "{keys:?}");
    }
}

#[test]
fn the_environment_overrides_the_file() {
    let settings = Settings::new();
    let text = format!("[http]\nlisten = \"127.0.0.1:1\"\nconnections_max = 7\n{CHAIN}");
    let environment = [
        ("TOLLHOUSE__HTTP__LISTEN", "127.0.0.1:2"),
        ("TOLLHOUSE__NODE__LISTEN", "127.0.0.1:3,127.0.0.1:4"),
        ("TOLLHOUSE__NODE__NETWORK", "regtest"),
        ("TOLLHOUSE__HTTP__CONNECTIONS_MAX", "9"),
        ("TOLLHOUSES_OTHER", "somebody else's"),
        ("PATH", "/bin"),
    ];
    let config = settings.load(&text, &environment).unwrap();
    assert_eq!(config.http.listen.port(), 2);
    assert_eq!(config.http.connections_max, 9);
    assert_eq!(config.node.listen.len(), 2);
    assert_eq!(config.node.network, Network::Regtest);
    assert_eq!(settings.load(&text, &[]).unwrap().http.connections_max, 7);
}

#[test]
fn a_misspelt_or_wrong_variable_is_refused_by_its_name() {
    let settings = Settings::new();
    for (name, value, key) in [
        (
            "TOLLHOUSE_HTTP__LISTEN",
            "127.0.0.1:1",
            "TOLLHOUSE_HTTP__LISTEN",
        ),
        ("TOLLHOUSE_LISTEN", "127.0.0.1:1", "TOLLHOUSE_LISTEN"),
        ("TOLLHOUSE__HTTP__LISTN", "127.0.0.1:1", "http.listn"),
        ("TOLLHOUSE__HTPP__LISTEN", "127.0.0.1:1", "htpp"),
        ("TOLLHOUSE__COLOUR", "red", "colour"),
        (
            "TOLLHOUSE__HTTP__CONNECTIONS_MAX",
            "8080.9",
            "http.connections_max",
        ),
        (
            "TOLLHOUSE__HTTP__CONNECTIONS_MAX",
            "true",
            "http.connections_max",
        ),
        (
            "TOLLHOUSE__HTTP__CONNECTIONS_MAX",
            "",
            "http.connections_max",
        ),
        ("TOLLHOUSE__HTTP__LISTEN", "nowhere", "http.listen"),
    ] {
        let complaints = settings.load(CHAIN, &[(name, value)]).unwrap_err();
        let is_named = complaints
            .iter()
            .any(|complaint| complaint.origin.contains("environment") && complaint.key == key);
        assert!(is_named, "{name}: {complaints:?}");
    }
}

#[test]
fn the_chain_is_read_from_one_kind_of_source() {
    use tollhouse::chain::{Bitcoind, ChainSource, Login};
    let settings = Settings::new();
    let source = |text: &str, environment: &[(&str, &str)]| {
        let text = format!("[node.chain]\n{text}\n");
        settings.load(&text, environment).unwrap().node.chain.source
    };
    let urls = |source| match source {
        ChainSource::Esplora { urls, .. } => urls,
        ChainSource::Electrum(_) | ChainSource::Bitcoind(_) => vec![],
    };
    let one = source("esplora = \"http://a/api/\"", &[]);
    assert_eq!(urls(one), ["http://a/api"]);
    let two = source("esplora = [\"http://a\", \"https://b\"]", &[]);
    assert_eq!(two.to_string(), "http://a, https://b");
    let variable = ("TOLLHOUSE__NODE__CHAIN__ESPLORA", "http://c, http://d");
    assert_eq!(
        urls(source("esplora = \"http://a\"", &[variable])),
        ["http://c", "http://d"]
    );
    let electrum = source("electrum = \"ssl://a.example:50002\"", &[]);
    assert_eq!(
        electrum,
        ChainSource::Electrum("ssl://a.example:50002".to_owned())
    );
    let text = "bitcoind = { rpc = \"[::1]:8332\", user = \"u\", password_file = \"secret\" }";
    let file = settings.dir.path().join("secret");
    let user = "u".to_owned();
    let wanted = ChainSource::Bitcoind(Bitcoind {
        host: "[::1]".to_owned(),
        port: 8332,
        login: Login::Password { user, file },
    });
    assert_eq!(source(text, &[]), wanted);
}

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// What a file of its own says is what stands there without it, but for the one key that must be given.
#[test]
fn the_defaults_file_is_the_built_in_default() {
    let settings = Settings::new();
    let given = DEFAULTS.replace("esplora = \"\"", "esplora = \"http://127.0.0.1:3002\"");
    let written = settings.load(&given, &[]).unwrap();
    let built_in = settings.load(CHAIN, &[]).unwrap();
    assert_eq!(format!("{written:?}"), format!("{built_in:?}"));
    // And what the program would do without a file is what the issue promises.
    assert_eq!(built_in.http.listen.to_string(), "127.0.0.1:8402");
    assert_eq!(built_in.invoice_expiry, Duration::from_secs(600));
    assert_eq!(built_in.routes.iter().count(), 0);
    assert_eq!(built_in.data_dir.file_name().unwrap(), "tollhouse-data");
}

#[test]
fn every_default_has_its_line_of_why() {
    let mut before = "";
    let mut keys = 0;
    for line in DEFAULTS.lines() {
        if !line.starts_with(['#', '[']) && line.contains('=') {
            assert!(before.starts_with("# "), "{line}");
            keys += 1;
        }
        before = line;
    }
    assert!(keys > 15, "{keys}");
}

#[test]
fn the_routes_that_the_defaults_file_describes_are_good() {
    let settings = Settings::new();
    for folder in ["about", "videos"] {
        std::fs::create_dir(settings.dir.path().join(folder)).unwrap();
    }
    let upstream_key = settings.dir.path().join("upstream.key");
    tollhouse::base::secret_file::write_new(&upstream_key, "a key").unwrap();
    let ca = rcgen::generate_simple_self_signed(["upstream".to_owned()]).unwrap();
    std::fs::write(settings.dir.path().join("upstream-ca.pem"), ca.cert.pem()).unwrap();
    let described = DEFAULTS
        .split("# What is sold, one table a route:")
        .nth(1)
        .unwrap();
    // Nor is a sentence between two tables.
    let is_setting = |line: &&str| {
        let text = line.trim_start_matches("# ");
        text.starts_with('[')
            || text
                .split_once(" = ")
                .is_some_and(|(key, _)| !key.contains(' '))
    };
    let described: String = described
        .lines()
        .filter(is_setting)
        .map(|line| format!("{line}\n"))
        .collect();
    let routes = format!("\n{described}").replace("\n# ", "\n");
    let config = settings.load(&format!("{CHAIN}{routes}"), &[]).unwrap();
    let routes: Vec<_> = config.routes.iter().collect();
    assert_eq!(routes.len(), 5);
    let paid = routes
        .iter()
        .filter(|route| matches!(route.access, Access::Paid(_)));
    assert_eq!(paid.count(), 3);
    let files = routes
        .iter()
        .filter(|route| matches!(route.resource, Resource::Files { .. }));
    assert_eq!(files.count(), 3);
}

/// A key that nobody reads about does not exist for anybody.
#[test]
fn every_key_that_exists_is_in_the_defaults_file() {
    let raw = include_str!("../../src/config/raw.rs");
    let keys: Vec<_> = raw
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub(super) ")?.split_once(": "))
        .map(|(key, _)| key)
        .collect();
    assert!(keys.len() > 80, "{}", keys.len());
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let words: std::collections::HashSet<_> = DEFAULTS.split(|char| !is_word(char)).collect();
    for key in keys {
        assert!(words.contains(key), "{key} is not in config/default.toml");
    }
}
