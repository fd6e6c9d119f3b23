//! Findings about exchange rates, their sources, and price hooks.

use std::net::{TcpStream, ToSocketAddrs as _};

use serde_json::Value;

use crate::base::clock::Clock;
use crate::config::Config;
use crate::sell::quote::{HookConfig, OnFailure, Rates};

use super::super::show::{list, number, text};
use super::super::units::grouped;
use super::findings::{CONNECT_TIMEOUT, Findings, Grade};

/// How long the last failure of a hook is reported, in seconds.
const FAILURE_SECS: u64 = 3_600;

/// The maximum number of addresses of a name that are tried, two seconds each.
const ADDRESSES_MAX: usize = 4;

/// Reports the rates and hooks of a running program, and connects to each hook once.
pub(super) fn known(status: &Value, config: &Config, findings: &mut Findings) {
    rates(list(status, "rates"), findings);
    let told = list(status, "hooks");
    for hook in &config.hooks {
        let told = told.iter().find(|told| told["name"] == *hook.name);
        note_hook(hook, told, findings);
    }
}

/// Reports the same without a running program. Sends one request to each source.
pub(super) fn asked(config: &Config, findings: &mut Findings) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let asked = Rates::new(config.rates.clone(), Clock::system());
    if let (Ok(runtime), false) = (runtime, config.rates.is_empty()) {
        runtime.block_on(asked.refresh());
        let status = serde_json::to_value(asked.status());
        let status = status.expect("text and numbers can be written as JSON");
        rates(status.as_array().map_or(&[], Vec::as_slice), findings);
    }
    for hook in &config.hooks {
        note_hook(hook, None, findings);
    }
}

fn rates(rates: &[Value], findings: &mut Findings) {
    let what = "rate";
    for rate in rates {
        let currency = text(&rate["currency"]);
        let sources = list(rate, "sources");
        let failing: Vec<&Value> = sources
            .iter()
            .filter(|source| source["error"].is_string())
            .collect();
        for source in &failing {
            let found = format!(
                "{} gives no rate of {currency}: {}",
                text(&source["address"]),
                text(&source["error"])
            );
            findings.note(what, Grade::Look, found);
        }
        let doubt = rate["doubt"].as_str();
        let doubted = doubt.map_or_else(String::new, |doubt| format!(" ({doubt})"));
        let age = match rate["age_secs"].as_u64() {
            Some(secs) => format!(", {} s old", grouped(secs)),
            None => String::new(),
        };
        let per_bitcoin = text(&rate["per_bitcoin"]);
        if rate["is_usable"] != true {
            let last = if rate["per_bitcoin"].is_string() {
                format!("the last one, {per_bitcoin}{age}, is too old")
            } else {
                "none is known".to_owned()
            };
            let found = format!("nothing is sold at prices in {currency}: {last}{doubted}");
            findings.note(what, Grade::Bad, found);
        } else if sources.is_empty() {
            let found = format!("a bitcoin costs {per_bitcoin}, by the settings");
            findings.note(what, Grade::Good, found);
        } else {
            let found = format!(
                "a bitcoin costs {per_bitcoin}{age}; {} of {} sources answer{doubted}",
                sources.len() - failing.len(),
                sources.len()
            );
            let grade = if doubt.is_some() {
                Grade::Look
            } else {
                Grade::Good
            };
            findings.note(what, grade, found);
        }
    }
}

fn note_hook(hook: &HookConfig, told: Option<&Value>, findings: &mut Findings) {
    let what = "price hook";
    let HookConfig { name, address, .. } = hook;
    if !takes_connections(hook) {
        let (grade, meanwhile) = match hook.on_failure {
            OnFailure::Refuse => (Grade::Bad, "what it prices is not sold".to_owned()),
            OnFailure::Price(price) => (Grade::Look, format!("what it prices is sold at {price}")),
        };
        let found = format!(
            "{name} takes no connection at {address}: {meanwhile}. Start that server, or correct `url`"
        );
        findings.note(what, grade, found);
        return;
    }
    let failure_age = told.and_then(|told| told["last_failure_age_secs"].as_u64());
    match (told, failure_age) {
        (Some(told), Some(age)) if age <= FAILURE_SECS => {
            let found = format!(
                "{name} at {address} gave no price {} s ago: {} ({} of {} requests failed)",
                grouped(age),
                text(&told["last_failure"]),
                number(&told["failed"], grouped),
                number(&told["asked"], grouped)
            );
            findings.note(what, Grade::Look, found);
        }
        (Some(told), _) => {
            let asked = number(&told["asked"], grouped);
            let found = format!("{name} at {address} takes connections; asked {asked} times");
            findings.note(what, Grade::Good, found);
        }
        (None, _) => {
            let found = format!("{name} at {address} takes connections");
            findings.note(what, Grade::Good, found);
        }
    }
}

fn takes_connections(hook: &HookConfig) -> bool {
    let addresses = hook.address.place().to_socket_addrs().into_iter().flatten();
    addresses
        .take(ADDRESSES_MAX)
        .any(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use serde_json::json;

    use crate::base::amount::Msat;

    use super::*;

    fn found(findings: &Findings) -> Vec<(Grade, &str)> {
        let all = findings.0.iter();
        all.map(|it| (it.grade, it.found.as_str())).collect()
    }

    #[test]
    fn a_rate_has_its_age_and_sources_that_fail_are_named() {
        let status = [
            json!({
                "currency": "USD", "is_usable": true, "per_bitcoin": "97123.45 USD", "age_secs": 12, "doubt": null,
                "sources": [
                    { "address": "https://a.example/usd", "error": null },
                    { "address": "https://b.example/usd", "error": "it did not answer within 10s" },
                ],
            }),
            json!({
                "currency": "EUR", "is_usable": false, "per_bitcoin": "90000.00 EUR", "age_secs": 7_200,
                "doubt": "0 of 1 sources gave one, and 1 must", "sources": [{ "address": "https://c.example", "error": null }],
            }),
            json!({ "currency": "CHF", "is_usable": true, "per_bitcoin": "80000.00 CHF", "age_secs": null, "doubt": null, "sources": [] }),
        ];
        let mut findings = Findings::default();
        rates(&status, &mut findings);
        let found = found(&findings);
        let expected = [
            (
                Grade::Look,
                "https://b.example/usd gives no rate of USD: it did not",
            ),
            (Grade::Good, "97123.45 USD, 12 s old; 1 of 2 sources answer"),
            (
                Grade::Bad,
                "nothing is sold at prices in EUR: the last one, 90000.00 EUR, 7,200 s old",
            ),
            (Grade::Good, "80000.00 CHF, by the settings"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((grade, said), (wanted, words)) in found.iter().zip(expected) {
            assert_eq!(*grade, wanted, "{said}");
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn a_hook_that_takes_no_connection_is_reported_with_its_fallback() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let hook = |address: String, on_failure| HookConfig {
            name: "pricer".into(),
            address: format!("http://{address}/price?key=secret")
                .parse()
                .unwrap(),
            timeout: Duration::from_secs(1),
            headers: Vec::new(),
            cache: Duration::ZERO,
            price_max: Msat::new(1_000).unwrap(),
            on_failure,
        };
        let up = there.local_addr().unwrap().to_string();
        // The system never assigns port 1.
        let down = "127.0.0.1:1".to_owned();
        let told = |age: u64| json!({ "asked": 5, "failed": 2, "last_failure": "it gave a price of zero", "last_failure_age_secs": age });
        let ten_sat = OnFailure::Price(Msat::from_sat(10).unwrap());
        for (address, on_failure, told, grade, words) in [
            (&down, OnFailure::Refuse, None, Grade::Bad, "is not sold"),
            (&down, ten_sat, None, Grade::Look, "is sold at 10"),
            (
                &up,
                OnFailure::Refuse,
                None,
                Grade::Good,
                "takes connections",
            ),
            (
                &up,
                ten_sat,
                Some(told(7)),
                Grade::Look,
                "7 s ago: it gave a price of zero (2 of 5",
            ),
            (
                &up,
                ten_sat,
                Some(told(9_999)),
                Grade::Good,
                "asked 5 times",
            ),
        ] {
            let mut findings = Findings::default();
            let hook = hook(address.clone(), on_failure);
            note_hook(&hook, told.as_ref(), &mut findings);
            let [(seen, said)] = found(&findings)[..] else {
                panic!("one finding");
            };
            assert_eq!(seen, grade, "{said}");
            assert!(said.contains(words), "{words}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
