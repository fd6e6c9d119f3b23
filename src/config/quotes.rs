//! The settings of price hooks and exchange rates.

use std::time::Duration;

use http::header::HeaderName;

use crate::base::amount::Msat;
use crate::base::price::{Currency, Price, Rate};
use crate::base::span;
use crate::sell::quote::{
    Address, AddressError, HookConfig, OnFailure, Pointer, RateConfig, RateOrigin, Source, Watched,
};
use crate::sell::route::is_name;

use super::meaning::Meaning;
use super::raw::{RawHook, RawRate, RawSource};
use super::usual_rates;

/// The maximum number of rate sources for one currency. There are not that many public sources
/// worth asking.
const SOURCES_MAX: usize = 9;

/// The default time between two requests to a source. Public sources allow this, and few of their
/// prices change within a minute.
const REFRESH_DEFAULT: Duration = Duration::from_secs(60);

/// The default maximum age of a rate. In ten minutes the price of bitcoin rarely moves by more than
/// a percent.
const MAX_AGE_DEFAULT: Duration = Duration::from_secs(600);

/// The time limit for a source. No client waits for it.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(10);

/// The default time limit for a hook. Clients wait for it.
const HOOK_TIMEOUT_DEFAULT: Duration = Duration::from_millis(500);

/// The longest time limit for a hook. A client waits this long before it even sees a price.
const HOOK_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// The default time that a hook's answer stays valid. It mostly covers the time from the challenge
/// to the paid request.
const HOOK_CACHE_DEFAULT: Duration = Duration::from_secs(60);

/// The most headers that a hook receives. Each different value costs another request to the hook.
const HOOK_HEADERS_MAX: usize = 16;

impl Meaning<'_> {
    pub(super) fn rates(&mut self, raw: &[RawRate]) -> Vec<RateConfig> {
        let mut rates: Vec<RateConfig> = Vec::with_capacity(raw.len());
        for (number, raw) in (1..).zip(raw) {
            let key = format!("rate[{number}]");
            let Some(rate) = self.rate(&key, raw) else {
                continue;
            };
            let is_twice = |other: &RateConfig| other.currency == rate.currency;
            if rates.iter().any(is_twice) {
                self.complain(
                    &format!("{key}.currency"),
                    format!(
                        "{} has a rate already: put all its sources into one table",
                        rate.currency
                    ),
                );
            }
            rates.push(rate);
        }
        rates
    }

    /// Reads one rate. Returns `None` after reporting a mistake that leaves the rate without
    /// meaning.
    fn rate(&mut self, key: &str, raw: &RawRate) -> Option<RateConfig> {
        let currency = raw.currency.parse::<Currency>();
        let currency = currency
            .map_err(|error| self.complain(&format!("{key}.currency"), error.to_string()))
            .ok()?;
        let origin = match (&raw.fixed, &raw.sources) {
            (Some(fixed), None) => self.fixed(key, raw, currency, fixed)?,
            (None, Some(sources)) => self.watched(key, raw, currency, sources)?,
            (None, None) | (Some(_), Some(_)) => {
                self.complain(
                    key,
                    "give either `sources`, which are asked, or `fixed`, what a bitcoin costs",
                );
                return None;
            }
        };
        Some(RateConfig { currency, origin })
    }

    fn fixed(
        &mut self,
        key: &str,
        raw: &RawRate,
        currency: Currency,
        fixed: &str,
    ) -> Option<RateOrigin> {
        for (name, is_given) in [
            ("quorum", raw.quorum.is_some()),
            ("refresh", raw.refresh.is_some()),
            ("max_age", raw.max_age.is_some()),
            ("at_least", raw.at_least.is_some()),
            ("at_most", raw.at_most.is_some()),
        ] {
            if is_given {
                self.complain(
                    &format!("{key}.{name}"),
                    "a fixed rate is asked of nobody: leave this key out",
                );
            }
        }
        let rate = self.per_bitcoin(&format!("{key}.fixed"), currency, fixed)?;
        Some(RateOrigin::Fixed(rate))
    }

    fn watched(
        &mut self,
        key: &str,
        raw: &RawRate,
        currency: Currency,
        sources: &[RawSource],
    ) -> Option<RateOrigin> {
        let sources = self.sources(&format!("{key}.sources"), sources)?;
        // More than half must agree, so of three sources one may be wrong or silent.
        let majority = sources.len() / 2 + 1;
        let quorum = raw.quorum.map_or(majority, |quorum| quorum as usize);
        if quorum == 0 || quorum > sources.len() {
            self.complain(
                &format!("{key}.quorum"),
                format!("from 1 to {}, as many as there are sources", sources.len()),
            );
        }
        let refresh = self.span_or(key, "refresh", raw.refresh.as_ref(), REFRESH_DEFAULT);
        let max_age = self.span_or(key, "max_age", raw.max_age.as_ref(), MAX_AGE_DEFAULT);
        if max_age < refresh * 2 {
            self.complain(
                &format!("{key}.max_age"),
                "at least twice `refresh`: one answer that does not come must not stop the sale",
            );
        }
        let mut bound = |name: &str, text: Option<&String>| {
            text.and_then(|text| self.per_bitcoin(&format!("{key}.{name}"), currency, text))
        };
        let usual = usual_rates::bounds(currency);
        let at_least = bound("at_least", raw.at_least.as_ref());
        let at_least = at_least.or(usual.map(|(least, _)| least));
        let at_most = bound("at_most", raw.at_most.as_ref());
        let at_most = at_most.or(usual.map(|(_, most)| most));
        if (at_least.is_none() || at_most.is_none()) && !is_confirmed(&sources, quorum) {
            self.complain(
                &format!("{key}.at_least"),
                format!(
                    "{currency} has no default price bounds, so a single server could set any \
                     rate: give `at_least` and `at_most`, or sources of several servers, of which two must agree (quorum = 2)"
                ),
            );
        }
        if let (Some(least), Some(most)) = (at_least, at_most)
            && least.micros_per_btc >= most.micros_per_btc
        {
            let what =
                format!("it must be above `at_least`, and {most} is not above {least}: give both");
            self.complain(&format!("{key}.at_most"), what);
        }
        Some(RateOrigin::Watched(Watched {
            sources,
            quorum,
            refresh,
            timeout: SOURCE_TIMEOUT,
            max_age,
            at_least,
            at_most,
        }))
    }

    fn sources(&mut self, key: &str, raw: &[RawSource]) -> Option<Vec<Source>> {
        if raw.is_empty() || raw.len() > SOURCES_MAX {
            self.complain(
                key,
                format!("from 1 to {SOURCES_MAX} sources, or `fixed` instead"),
            );
            return None;
        }
        let mut sources: Vec<Source> = Vec::with_capacity(raw.len());
        for (number, raw) in (1..).zip(raw) {
            let key = format!("{key}[{number}]");
            let address = self.address_to_ask(&format!("{key}.url"), &raw.url);
            let pointer = raw.pointer.parse::<Pointer>();
            let pointer = pointer
                .map_err(|error| self.complain(&format!("{key}.pointer"), error.to_string()));
            let (Some(address), Ok(pointer)) = (address, pointer) else {
                continue;
            };
            if !address.is_private() {
                self.complain(
                    &format!("{key}.url"),
                    "use https: over http anybody on the way could set your prices",
                );
            }
            let source = Source { address, pointer };
            if sources.contains(&source) {
                self.complain(
                    &key,
                    "this source stands here twice, and would count as two",
                );
            }
            sources.push(source);
        }
        (sources.len() == raw.len()).then_some(sources)
    }

    /// Reads the address of a source or hook. Complaints do not repeat the URL, because it may hold
    /// a key.
    fn address_to_ask(&mut self, key: &str, text: &str) -> Option<Address> {
        text.parse()
            .map_err(|error: AddressError| self.complain(key, error.to_string()))
            .ok()
    }

    fn per_bitcoin(&mut self, key: &str, currency: Currency, text: &str) -> Option<Rate> {
        Rate::read(currency, text)
            .map_err(|error| {
                self.complain(
                    key,
                    format!("`{text}` is not what a bitcoin costs: {error}"),
                );
            })
            .ok()
    }

    fn span_or(
        &mut self,
        key: &str,
        name: &str,
        text: Option<&String>,
        default: Duration,
    ) -> Duration {
        let Some(text) = text else {
            return default;
        };
        span::parse(text).unwrap_or_else(|what| {
            self.complain(&format!("{key}.{name}"), what);
            default
        })
    }
}

/// Whether no single server can set the rate: no server has as many sources as must agree.
fn is_confirmed(sources: &[Source], quorum: usize) -> bool {
    let of_server = |one: &Source| {
        let same = sources.iter();
        let same = same.filter(|other| other.address.server() == one.address.server());
        same.count()
    };
    sources.iter().all(|source| of_server(source) < quorum)
}

impl Meaning<'_> {
    pub(super) fn hooks(&mut self, raw: &[RawHook]) -> Vec<HookConfig> {
        let mut hooks: Vec<HookConfig> = Vec::with_capacity(raw.len());
        for (number, raw) in (1..).zip(raw) {
            let key = format!("hook[{number}]");
            if hooks.iter().any(|other| *other.name == raw.name) {
                self.complain(
                    &format!("{key}.name"),
                    format!(
                        "there is another hook `{}`: give each a name of its own",
                        raw.name
                    ),
                );
            }
            hooks.extend(self.hook(&key, raw));
        }
        hooks
    }

    /// Reads one hook. Returns `None` after reporting a mistake that leaves the hook without
    /// meaning.
    fn hook(&mut self, key: &str, raw: &RawHook) -> Option<HookConfig> {
        let name = &raw.name;
        if !is_name(name) {
            self.complain(
                &format!("{key}.name"),
                format!("`{name}` is no name for a hook: 1 to 64 of a-z, 0-9, - and _"),
            );
        }
        let timeout = self.short_span(key, "timeout", raw.timeout.as_ref(), HOOK_TIMEOUT_DEFAULT);
        if timeout.is_zero() || timeout > HOOK_TIMEOUT_MAX {
            self.complain(
                &format!("{key}.timeout"),
                "more than nothing and at most 5s: a client waits for it",
            );
        }
        let cache = self.short_span(key, "cache", raw.cache.as_ref(), HOOK_CACHE_DEFAULT);
        let headers = self.hook_headers(&format!("{key}.headers"), raw.headers.as_deref());
        let price_max = self.in_bitcoin(&format!("{key}.price_max"), &raw.price_max);
        let on_failure = self.on_failure(&format!("{key}.on_failure"), raw, price_max);
        let address = self.address_to_ask(&format!("{key}.url"), &raw.url);
        Some(HookConfig {
            name: name.as_str().into(),
            address: address?,
            timeout,
            headers,
            cache,
            price_max: price_max?,
            on_failure: on_failure?,
        })
    }

    fn hook_headers(&mut self, key: &str, names: Option<&[String]>) -> Vec<HeaderName> {
        let names = names.unwrap_or_default();
        if names.len() > HOOK_HEADERS_MAX {
            self.complain(key, format!("at most {HOOK_HEADERS_MAX} headers"));
        }
        let mut headers = Vec::with_capacity(names.len());
        for name in names {
            match name.parse::<HeaderName>() {
                Ok(name) => headers.push(name),
                Err(_) => self.complain(
                    key,
                    format!("`{name}` is no name of a header, as \"accept-language\" is one"),
                ),
            }
        }
        headers
    }

    fn on_failure(
        &mut self,
        key: &str,
        raw: &RawHook,
        price_max: Option<Msat>,
    ) -> Option<OnFailure> {
        let text = match raw.on_failure.as_deref() {
            None | Some("refuse") => return Some(OnFailure::Refuse),
            Some(text) => text,
        };
        let price = self.in_bitcoin(key, text)?;
        if price_max.is_some_and(|max| price > max) {
            self.complain(key, "it is above `price_max`");
        }
        Some(OnFailure::Price(price))
    }

    pub(super) fn in_bitcoin(&mut self, key: &str, text: &str) -> Option<Msat> {
        let what = match text.parse::<Price>() {
            Ok(Price::Fixed(price)) => return Some(price),
            Ok(Price::Fiat(_)) => "write it in bitcoin, as in \"10 sat\" or \"2500 msat\"".into(),
            Err(error) => error.to_string(),
        };
        self.complain(key, what);
        None
    }

    /// Reads a span that may also be in milliseconds or zero.
    fn short_span(
        &mut self,
        key: &str,
        name: &str,
        text: Option<&String>,
        default: Duration,
    ) -> Duration {
        let Some(number) = text.and_then(|text| text.strip_suffix("ms")) else {
            return match text {
                Some(text) if text == "0s" => Duration::ZERO,
                text => self.span_or(key, name, text, default),
            };
        };
        let is_digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        match number.parse() {
            Ok(number) if is_digits => Duration::from_millis(number),
            Ok(_) | Err(_) => {
                self.complain(
                    &format!("{key}.{name}"),
                    format!("`{number}ms` is no span of time: write 500ms, 1s or 10m"),
                );
                default
            }
        }
    }
}
