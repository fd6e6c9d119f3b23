//! The settings of what pricing asks.

use std::time::Duration;

use tollhouse::base::price::Rate;
use tollhouse::config::{Complaint, Config};
use tollhouse::sell::quote::{OnFailure, RateOrigin};

use crate::support::settings::{CHAIN, Settings};

fn load(text: &str) -> Result<Config, Vec<Complaint>> {
    Settings::new().load(&format!("{CHAIN}{text}"), &[])
}

fn assert_refused(rows: &[Row]) {
    for (text, key, right) in rows {
        let Err(complaints) = load(text) else {
            panic!("accepted: {text}");
        };
        let is_named =
            |complaint: &Complaint| complaint.key == *key && complaint.to_string().contains(right);
        assert!(complaints.iter().any(is_named), "{text}: {complaints:?}");
        let shown = format!("{complaints:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}

/// What the defaults file describes in this section, as it would be written.
fn described(heading: &str) -> String {
    let defaults = include_str!("../../../config/default.toml");
    let section = defaults.split(heading).nth(1).unwrap();
    let lines = section.lines().skip(1);
    let tables = lines.take_while(|line| !line.ends_with(':'));
    let tables: Vec<_> = tables.filter_map(|line| line.strip_prefix('#')).collect();
    tables.join("\n")
}

#[test]
fn the_rates_that_the_defaults_file_describes_are_good() {
    let config = load(&described("# What a bitcoin costs, one table a currency:")).unwrap();
    let [usd, eur] = &config.rates[..] else {
        panic!("{:?}", config.rates);
    };
    let RateOrigin::Watched(watched) = &usd.origin else {
        panic!("{usd:?}");
    };
    assert_eq!((watched.sources.len(), watched.quorum), (3, 2));
    let fixed = Rate::read(eur.currency, "90000").unwrap();
    assert_eq!(eur.origin, RateOrigin::Fixed(fixed));
}

#[test]
fn what_the_defaults_file_says_of_a_rate_is_what_holds_without_it() {
    for (sources, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (9, 5)] {
        let sources: Vec<String> = (0..sources)
            .map(|n| format!("{{ url = \"https://a.example/{n}\", pointer = \"\" }}"))
            .collect();
        let text = format!(
            "[[rate]]\ncurrency = \"USD\"\nsources = [{}]",
            sources.join(", ")
        );
        let config = load(&text).unwrap();
        let RateOrigin::Watched(watched) = &config.rates[0].origin else {
            panic!("{config:?}");
        };
        assert_eq!(watched.quorum, majority);
        assert_eq!(watched.refresh, Duration::from_secs(60));
        assert_eq!(watched.max_age, Duration::from_secs(600));
        let usual = |units| Rate::read("USD".parse().unwrap(), units).ok();
        let bounds = (watched.at_least, watched.at_most);
        assert_eq!(bounds, (usual("5000"), usual("2000000")));
    }
}

/// The settings, the key that is named, and words of what would be right.
type Row = (String, &'static str, &'static str);

#[rustfmt::skip]
fn refused_rates() -> Vec<Row> {
    const ONE: &str = "{ url = \"https://a.example/\", pointer = \"\" }";
    let rate = |lines: &str| format!("[[rate]]\ncurrency = \"USD\"\n{lines}\n");
    let sources = |sources: &[&str]| rate(&format!("sources = [{}]", sources.join(", ")));
    let source = |url: &str, pointer: &str| {
        sources(&[&format!("{{ url = \"{url}\", pointer = \"{pointer}\" }}")])
    };
    let with = |line: &str| rate(&format!("sources = [{ONE}]\n{line}"));
    let of = |currency: &str| format!("[[rate]]\ncurrency = \"{currency}\"\nfixed = \"1\"");
    vec![
        (rate(""), "rate[1]", "sources"),
        (with("fixed = \"90000\""), "rate[1]", "either"),
        (rate("fixed = 90000"), "rate[1].fixed", "string"),
        (rate("fixed = \"0\""), "rate[1].fixed", "less than one"),
        (rate("fixed = \"-1\""), "rate[1].fixed", "97123.45"),
        (rate("fixed = \"90000 USD\""), "rate[1].fixed", "97123.45"),
        (rate("fixed = \"90000\"\nmax_age = \"1h\""), "rate[1].max_age", "leave this key out"),
        (of("usd"), "rate[1].currency", "\"USD\""),
        (of("BTC"), "rate[1].currency", "\"USD\""),
        (rate("fixed = \"1\"") + &rate("fixed = \"2\""), "rate[2].currency", "one table"),
        (sources(&[]), "rate[1].sources", "from 1 to 9"),
        (sources(&[ONE; 10]), "rate[1].sources", "from 1 to 9"),
        (sources(&[ONE; 2]), "rate[1].sources[2]", "twice"),
        (source("a.example?key=secret", ""), "rate[1].sources[1].url", "https://"),
        (source("ftp://a.example/secret", ""), "rate[1].sources[1].url", "https://"),
        (source("http://a.example/secret", ""), "rate[1].sources[1].url", "use https"),
        (source("https://a.example/", "data.rate"), "rate[1].sources[1].pointer", "/data/rate"),
        (sources(&["{ url = \"https://a.example/\" }"]), "rate[1].sources[1].pointer", "must be given"),
        (with("quorum = 0"), "rate[1].quorum", "from 1 to 1"),
        (with("quorum = 2"), "rate[1].quorum", "from 1 to 1"),
        (with("refresh = \"soon\""), "rate[1].refresh", "30s"),
        (with("max_age = \"119s\""), "rate[1].max_age", "twice"),
        (with("at_least = \"a\""), "rate[1].at_least", "97123.45"),
        (with("at_least = \"2\"\nat_most = \"2\""), "rate[1].at_most", "above"),
        (with("inverted = true"), "rate[1].inverted", "quorum"),
    ]
}

#[test]
fn a_currency_without_usual_bounds_needs_bounds_or_more_than_one_server() {
    let xof = |sources: &[&str], lines: &str| {
        let source = |url: &&str| format!("{{ url = \"https://{url}\", pointer = \"\" }}");
        let sources: Vec<String> = sources.iter().map(source).collect();
        let sources = sources.join(", ");
        load(&format!(
            "[[rate]]\ncurrency = \"XOF\"\nsources = [{sources}]\n{lines}"
        ))
    };
    let bounds = "at_least = \"1000000\"\nat_most = \"1000000000\"";
    for (sources, lines, is_good) in [
        (&["a.example"][..], "", false),
        (&["a.example"], "at_least = \"1000000\"", false),
        (&["a.example"], "at_most = \"1000000000\"", false),
        (&["a.example"], bounds, true),
        (&["a.example", "b.example"], "", true),
        (&["a.example", "b.example"], "quorum = 1", false),
        (
            &["a.example", "b.example"],
            &format!("quorum = 1\n{bounds}"),
            true,
        ),
        // Two addresses of one server do not confirm each other.
        (&["a.example/1", "A.example:443/2"], "", false),
        (&["a.example/1", "a.example/2", "b.example"], "", false),
        (
            &["a.example/1", "a.example/2", "b.example"],
            "quorum = 3",
            true,
        ),
    ] {
        let loaded = xof(sources, lines);
        assert_eq!(loaded.is_ok(), is_good, "{sources:?} {lines}: {loaded:?}");
        if let Err(complaints) = loaded {
            assert_eq!(complaints[0].key, "rate[1].at_least");
            assert!(complaints[0].what.contains("quorum = 2"));
        }
    }
    // Bounds in the settings override the usual ones.
    let loaded = load(
        "[[rate]]\ncurrency = \"USD\"\nsources = [{ url = \"https://a.example\", pointer = \"\" }]\nat_most = \"4000000\"",
    );
    let RateOrigin::Watched(watched) = &loaded.unwrap().rates[0].origin else {
        panic!("watched");
    };
    let usd = |units| Rate::read("USD".parse().unwrap(), units).ok();
    assert_eq!(
        (watched.at_least, watched.at_most),
        (usd("5000"), usd("4000000"))
    );
}

#[test]
fn a_rate_that_could_go_wrong_is_refused_with_what_would_be_right() {
    assert_refused(&refused_rates());
}

#[test]
fn the_hook_that_the_defaults_file_describes_is_good() {
    let config = load(&described(
        "# Servers of yours that set the price of a request, one table a server:",
    ))
    .unwrap();
    let [hook] = &config.hooks[..] else {
        panic!("{:?}", config.hooks);
    };
    assert_eq!((&*hook.name, hook.price_max.msat()), ("pricer", 1_000_000));
    // What it says of the defaults holds without it.
    let short = "[[hook]]\nname = \"pricer\"\nurl = \"http://127.0.0.1:9000/price\"\nprice_max = \"1000 sat\"";
    let least = &load(short).unwrap().hooks[0];
    assert_eq!(least.timeout, hook.timeout);
    assert_eq!(least.timeout, Duration::from_millis(500));
    assert_eq!(
        (least.cache, least.on_failure),
        (hook.cache, hook.on_failure)
    );
    assert_eq!((hook.headers.len(), least.headers.len()), (1, 0));
}

#[test]
fn what_a_hook_does_without_an_answer_is_said_in_the_settings() {
    let hook = |lines: &str| {
        let text = format!(
            "[[hook]]\nname = \"a\"\nurl = \"https://a.example\"\nprice_max = \"10 sat\"\n{lines}"
        );
        load(&text).unwrap().hooks.remove(0)
    };
    assert_eq!(
        hook("on_failure = \"refuse\"").on_failure,
        OnFailure::Refuse
    );
    let OnFailure::Price(price) = hook("on_failure = \"2500 msat\"").on_failure else {
        panic!("a price");
    };
    assert_eq!(price.msat(), 2_500);
    assert_eq!(hook("cache = \"0s\"").cache, Duration::ZERO);
    assert_eq!(hook("timeout = \"5s\"").timeout, Duration::from_secs(5));
}

#[rustfmt::skip]
fn refused_hooks() -> Vec<Row> {
    let hook = |name: &str, url: &str, price_max: &str, line: &str| format!(
        "[[hook]]\nname = \"{name}\"\nurl = \"{url}\"\nprice_max = \"{price_max}\"\n{line}\n"
    );
    let url = "https://a.example/";
    let with = |line: &str| hook("a", url, "10 sat", line);
    let seventeen = ["\"accept\""; 17].join(", ");
    vec![
        ("[[hook]]\nname = \"a\"\nurl = \"https://a.example\"".into(), "hook[1].price_max", "must be given"),
        (hook("", url, "10 sat", ""), "hook[1].name", "a-z"),
        (hook("A b", url, "10 sat", ""), "hook[1].name", "a-z"),
        (with("") + &with(""), "hook[2].name", "of its own"),
        (hook("a", "a.example?key=secret", "10 sat", ""), "hook[1].url", "https://"),
        (hook("a", "http://a:secret@a.example", "10 sat", ""), "hook[1].url", "https://"),
        (hook("a", url, "0 sat", ""), "hook[1].price_max", "zero"),
        (hook("a", url, "10", ""), "hook[1].price_max", "10 sat"),
        (hook("a", url, "1 USD", ""), "hook[1].price_max", "in bitcoin"),
        (with("on_failure = \"ignore\""), "hook[1].on_failure", "10 sat"),
        (with("on_failure = \"free\""), "hook[1].on_failure", "10 sat"),
        (with("on_failure = \"0 sat\""), "hook[1].on_failure", "zero"),
        (with("on_failure = \"11 sat\""), "hook[1].on_failure", "price_max"),
        (with("on_failure = \"0.01 USD\""), "hook[1].on_failure", "in bitcoin"),
        (with("timeout = \"0ms\""), "hook[1].timeout", "at most 5s"),
        (with("timeout = \"0s\""), "hook[1].timeout", "at most 5s"),
        (with("timeout = \"5001ms\""), "hook[1].timeout", "at most 5s"),
        (with("timeout = \"+5ms\""), "hook[1].timeout", "500ms"),
        (with("timeout = \"ms\""), "hook[1].timeout", "500ms"),
        (with("timeout = \"soon\""), "hook[1].timeout", "30s"),
        (with("cache = \"none\""), "hook[1].cache", "30s"),
        (with("headers = [\"a b\"]"), "hook[1].headers", "accept-language"),
        (with(&format!("headers = [{seventeen}]")), "hook[1].headers", "at most 16"),
        (with("header = []"), "hook[1].header", "headers"),
    ]
}

#[test]
fn a_hook_that_could_go_wrong_is_refused_with_what_would_be_right() {
    assert_refused(&refused_hooks());
}
