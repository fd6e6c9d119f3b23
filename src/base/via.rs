//! The path of a request, as the `Via` header tells it (RFC 9110, section 7.6.3). Every instance
//! adds a name of its own to each request that it forwards. A request that already carries this
//! name is in a loop. The names are random and reveal nothing about the shop. Apart from them, the
//! module is pure.

use std::sync::LazyLock;

use http::header::{HeaderMap, HeaderValue, VIA};

/// The beginning of every name.
const START: &str = "tollhouse-";

/// The most servers that a request may have passed. Real chains have two or three.
const PASSED_MAX: usize = 20;

/// The name of this process, for outgoing requests that belong to no route.
static PROCESS: LazyLock<Via> = LazyLock::new(Via::new);

/// A name that an instance adds to each request that it forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    name: String,
    /// The header entry with the name.
    entry: HeaderValue,
}

/// The reasons not to forward a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circle {
    /// The request has been here before.
    Seen,
    /// The request has passed more servers than any real chain has.
    TooMany,
}

impl Via {
    /// A new random name.
    pub fn new() -> Self {
        let mut random = [0; 8];
        // Without randomness all names are equal, so an instance would take another one's entry for
        // its own. This does no harm, because nothing is sold without randomness.
        let _ = getrandom::fill(&mut random);
        let name = format!("{START}{}", hex::encode(random));
        let entry = HeaderValue::try_from(format!("1.1 {name}")).expect("letters and digits");
        Self { name, entry }
    }

    /// The name of this process.
    pub fn of_process() -> &'static Self {
        &PROCESS
    }

    /// The loop that a request with these headers is in; `None` if it may be forwarded.
    pub fn circle(&self, headers: &HeaderMap) -> Option<Circle> {
        // Nearly every request comes directly from its client.
        if !headers.contains_key(VIA) {
            return None;
        }
        let way = way(headers);
        let is_own = |name: &str| {
            [&self.name, &PROCESS.name]
                .iter()
                .any(|own| name.eq_ignore_ascii_case(own))
        };
        if words(&way).any(is_own) {
            return Some(Circle::Seen);
        }
        // A comma in a comment counts, too. This can only overestimate the number of servers.
        (way.matches(',').count() > PASSED_MAX).then_some(Circle::TooMany)
    }

    /// Adds the name to the headers of an outgoing request.
    pub fn say(&self, headers: &mut HeaderMap) {
        headers.append(VIA, self.entry.clone());
    }
}

impl Default for Via {
    fn default() -> Self {
        Self::new()
    }
}

/// The entries that Tollhouse instances have added. They stay on a request even if the settings
/// remove `Via`. Otherwise two instances that both remove it would send a request round in a loop.
pub fn kept(headers: &HeaderMap) -> Vec<HeaderValue> {
    if !headers.contains_key(VIA) {
        return Vec::new();
    }
    let way = way(headers);
    let ours = words(&way).filter(|name| name.starts_with(START));
    let entries = ours.filter_map(|name| HeaderValue::try_from(format!("1.1 {name}")).ok());
    entries.take(PASSED_MAX + 1).collect()
}

/// All entries in one string, with a comma after each header line.
fn way(headers: &HeaderMap) -> String {
    let mut way = String::new();
    for line in headers.get_all(VIA) {
        way.push_str(&String::from_utf8_lossy(line.as_bytes()));
        way.push(',');
    }
    way
}

/// The words of all entries. An unclosed comment or bytes that are not text must not hide a name
/// behind them, because a server on the path may have joined several header lines.
fn words(way: &str) -> impl Iterator<Item = &str> {
    way.split(|char: char| char.is_whitespace() || ",()".contains(char))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(VIA, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn a_request_that_has_been_here_is_known_however_its_way_is_written() {
        let (own, other) = (Via::new(), Via::new());
        assert_ne!(own, other);
        let mut passed = HeaderMap::new();
        other.say(&mut passed);
        assert_eq!(own.circle(&passed), None);
        own.say(&mut passed);
        assert_eq!(own.circle(&passed), Some(Circle::Seen));
        assert_eq!(other.circle(&passed), Some(Circle::Seen));
        let name = &own.name;
        for line in [
            format!("1.1 {name}"),
            format!("HTTP/2.0 {}", name.to_uppercase()),
            format!("1.0 fred, 1.1 {name} (a shop), 1.1 p.example.net:80"),
            format!("1.0 fred (a, b),\t1.1\t{name}"),
            format!("1.0 fred (left open, 1.1 {name}"),
        ] {
            assert_eq!(own.circle(&headers(&["1.1 a", &line])), Some(Circle::Seen));
        }
        for line in ["", "1.1", "1.1 a (b", ",,,", "1.1 tollhouse-", "(1.1 a"] {
            assert_eq!(own.circle(&headers(&[line])), None, "{line}");
        }
        let of_the_process = headers(&[&format!("1.1 {}", Via::of_process().name)]);
        assert_eq!(own.circle(&of_the_process), Some(Circle::Seen));
    }

    #[test]
    fn a_way_without_end_is_given_up() {
        let own = Via::new();
        let long = |count: usize| vec!["1.1 a (x y)"; count].join(", ");
        assert_eq!(own.circle(&headers(&[&long(20)])), None);
        assert_eq!(own.circle(&headers(&[&long(21)])), Some(Circle::TooMany));
        let lines = headers(&vec!["1.1 a"; 21]);
        assert_eq!(own.circle(&lines), Some(Circle::TooMany));
    }

    #[test]
    fn names_like_ours_are_kept() {
        let own = Via::new();
        let passed = headers(&["1.1 proxy", &format!("1.1 {}, 1.1 other", own.name)]);
        assert_eq!(kept(&passed), std::slice::from_ref(&own.entry));
        assert!(kept(&HeaderMap::new()).is_empty());
    }
}
