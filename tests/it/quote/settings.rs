//! The settings of what pricing asks.

use std::time::Duration;

use tollhouse::config::{Complaint, Config, load_with};
use tollhouse::price::Rate;
use tollhouse::quote::RateOrigin;

const CHAIN: &str = "[node.chain]\nesplora = \"http://127.0.0.1:3002\"\n";

fn load(text: &str) -> Result<Config, Vec<Complaint>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("settings.toml");
    std::fs::write(&file, format!("{CHAIN}{text}")).unwrap();
    load_with(&file, []).map_err(|complaints| complaints.0)
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
    let tables: Vec<_> = tables.map(|line| line.trim_start_matches(['#'])).collect();
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
        assert_eq!((watched.at_least, watched.at_most), (None, None));
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
fn a_rate_that_could_go_wrong_is_refused_with_what_would_be_right() {
    assert_refused(&refused_rates());
}
