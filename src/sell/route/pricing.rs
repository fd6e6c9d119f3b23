//! The price of a request: fixed, or by its method, a query parameter or a header. Pure.
//!
//! A request that an upstream could read differently from the price table is refused. Examples are
//! a parameter that is repeated, spelled differently, or has an unknown value.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode_str;

use crate::base::price::Price;

use super::header::undisputed;

/// Parts of the content types of forms.
const FORMS: [&str; 2] = ["x-www-form-urlencoded", "multipart/"];

/// The form field with which Rails, Symfony, Laravel and others override the method.
const METHOD_PARAMETER: &str = "_method";

/// A price class: the price of a request, and the tier that a token needs to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The price of a request.
    pub price: Price,
    /// The tier of the class. A token of a lower tier does not open the request.
    pub tier: u32,
}

impl Class {
    /// Whether a token of this class would open a request of the other class, which is known to
    /// cost more.
    pub fn opens_dearer(&self, other: &Self) -> bool {
        other.price.is_above(self.price) && self.tier >= other.tier
    }
}

/// The rule that sets the price of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pricing {
    /// The same price for every request.
    Flat(Class),
    /// A price by a value in the request.
    Table(PriceTable),
    /// A price from the hook of this name.
    Hook(Arc<str>),
}

/// Prices by a value in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceTable {
    /// The part of the request that holds the value.
    pub by: Selector,
    /// The known values, each with its class.
    pub values: Vec<(String, Class)>,
    /// The class of a request without a value. If `None`, such a request is refused.
    pub missing: Option<Class>,
}

/// The part of a request that chooses its price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The method. HEAD costs the same as GET, unless the table lists HEAD.
    Method,
    /// A query parameter.
    Query(String),
    /// A header.
    Header(HeaderName),
}

/// The parts of a request that a price may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The method.
    pub method: &'a Method,
    /// The query, without its question mark.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// The reason why a request has no price. Each error says how to correct the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclassed {
    /// The request lacks the part that its price depends on.
    #[error("this request is priced by {0}, which is missing")]
    Missing(String),
    /// The request has a value that the table does not list.
    #[error("this request is priced by {by}, which can be {values}")]
    Unknown {
        /// The part of the request that holds the value.
        by: String,
        /// The known values.
        values: String,
    },
    /// Servers could read the part that the price depends on in different ways.
    #[error("this request is priced by {0}: give it once, and in this spelling")]
    Ambiguous(String),
}

impl Pricing {
    /// Creates a pricing with the same price for every request.
    pub fn flat(price: Price) -> Self {
        Self::Flat(Class { price, tier: 0 })
    }

    /// Whether the price may depend on a header.
    pub fn reads_headers(&self) -> bool {
        match self {
            Self::Flat(_) => false,
            Self::Table(table) => matches!(table.by, Selector::Header(_)),
            Self::Hook(_) => true,
        }
    }

    /// Whether the price may depend on the query.
    pub fn reads_query(&self) -> bool {
        match self {
            Self::Flat(_) => false,
            Self::Table(table) => matches!(table.by, Selector::Query(_)),
            Self::Hook(_) => true,
        }
    }

    /// All price classes; empty if a hook sets the prices.
    pub fn classes(&self) -> impl Iterator<Item = &Class> {
        let (flat, table) = match self {
            Self::Flat(class) => (Some(class), None),
            Self::Table(table) => (None, Some(table)),
            Self::Hook(_) => (None, None),
        };
        let of_table = table.into_iter().flat_map(|table| {
            let values = table.values.iter().map(|(_, class)| class);
            values.chain(&table.missing)
        });
        flat.into_iter().chain(of_table)
    }

    /// All price classes, mutable.
    pub fn classes_mut(&mut self) -> Vec<&mut Class> {
        match self {
            Self::Flat(class) => vec![class],
            Self::Table(table) => {
                let values = table.values.iter_mut().map(|(_, class)| class);
                values.chain(&mut table.missing).collect()
            }
            Self::Hook(_) => Vec::new(),
        }
    }
}

impl PriceTable {
    /// Determines the price class of a request.
    pub fn class(&self, selected: &Selected<'_>) -> Result<Class, Unclassed> {
        let value = match &self.by {
            Selector::Method => Some(Cow::Borrowed(selected.method.as_str())),
            // Some servers merge the fields of a form with the query, and prefer the form's.
            Selector::Query(_) if is_form(selected.headers) => {
                return Err(Unclassed::Ambiguous(self.by.to_string()));
            }
            Selector::Query(name) => self.parameter(name, selected.query.unwrap_or_default())?,
            Selector::Header(name) => self.header(name, selected.headers)?,
        };
        let Some(value) = value else {
            return self
                .missing
                .ok_or_else(|| Unclassed::Missing(self.by.to_string()));
        };
        let of = |value: &str| {
            let mut values = self.values.iter();
            values.find(|(known, _)| known == value)
        };
        let is_by_method = self.by == Selector::Method;
        let is_head = is_by_method && value == "HEAD";
        let found = of(&value).or_else(|| is_head.then(|| of("GET")).flatten());
        // Every request has a method, so `missing` applies to methods that the table does not list.
        let other = self.missing.filter(|_| is_by_method);
        let Some(class) = found.map(|(_, class)| *class).or(other) else {
            return Err(Unclassed::Unknown {
                by: self.by.to_string(),
                values: self.values_known(),
            });
        };
        if is_by_method && self.has_other(class) && may_name_method(selected) {
            return Err(Unclassed::Ambiguous(self.by.to_string()));
        }
        Ok(class)
    }

    /// Whether the table has a class other than this one.
    fn has_other(&self, class: Class) -> bool {
        let values = self.values.iter().map(|(_, class)| class);
        values.chain(&self.missing).any(|other| *other != class)
    }

    fn values_known(&self) -> String {
        let values: Vec<_> = self
            .values
            .iter()
            .map(|(value, _)| value.as_str())
            .collect();
        values.join(", ")
    }

    /// The value of a query parameter. Fails if some server could read another parameter as this
    /// one.
    fn parameter<'q>(&self, name: &str, query: &'q str) -> Result<Option<Cow<'q, str>>, Unclassed> {
        let mut found = None;
        // Some servers treat `;` as a separator, as HTML 4 did.
        for pair in query.split(['&', ';']) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(decoded) = decode(key) else {
                return Err(Unclassed::Ambiguous(self.by.to_string()));
            };
            if !is_alike(&decoded, name) {
                continue;
            }
            let is_exact = decoded == name && !query.contains(';');
            match decode(value) {
                Some(value) if is_exact && found.is_none() => found = Some(value),
                _ => return Err(Unclassed::Ambiguous(self.by.to_string())),
            }
        }
        Ok(found)
    }

    /// The value of a header. Fails if servers could read different values.
    fn header<'h>(
        &self,
        name: &HeaderName,
        headers: &'h HeaderMap,
    ) -> Result<Option<Cow<'h, str>>, Unclassed> {
        let ambiguous = || Unclassed::Ambiguous(self.by.to_string());
        let value = undisputed(headers, name).map_err(|_| ambiguous())?;
        value
            .map(|value| value.to_str().map(|value| Cow::Borrowed(value.trim())))
            .transpose()
            .map_err(|_| ambiguous())
    }
}

/// Whether some server could read the body as a form, whose fields many servers merge with the
/// query. This also counts a repeated or similarly named header, and a form type later in its
/// value.
fn is_form(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let has_form = |value: &HeaderValue| {
        let kind = value.as_bytes().to_ascii_lowercase();
        let kind = String::from_utf8_lossy(&kind).into_owned();
        FORMS.iter().any(|form| kind.contains(form))
    };
    undisputed(headers, &CONTENT_TYPE).is_err() || lines.any(has_form)
}

/// Whether some server could take another method from `_method` in the query or in a form.
fn may_name_method(selected: &Selected<'_>) -> bool {
    let pairs = selected.query.unwrap_or_default().split(['&', ';']);
    let mut keys = pairs.map(|pair| pair.split('=').next().unwrap_or_default());
    // A name that cannot be decoded could mean anything.
    keys.any(|key| decode(key).is_none_or(|key| is_alike(&key, METHOD_PARAMETER)))
        || is_form(selected.headers)
}

/// Decodes `application/x-www-form-urlencoded` text (WHATWG URL, section 5.1); `None` if it is not
/// UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['+', '%']) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(Cow::Owned(decoded.into_owned()))
}

/// Whether some server could treat two parameter names as the same. Servers may ignore case, accept
/// the brackets of a list, or replace characters by an underscore as PHP does.
fn is_alike(given: &str, name: &str) -> bool {
    let plain = |text: &str| {
        let text = text.trim_matches(|char: char| char.is_whitespace() || "[]".contains(char));
        let text = text.split(['[', ']', '\0']).next().unwrap_or_default();
        let text = text.trim().to_ascii_lowercase();
        text.replace(['.', ' '], "_")
    };
    plain(given) == plain(name)
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Method => f.write_str("its method"),
            Self::Query(name) => write!(f, "the query parameter `{name}`"),
            Self::Header(name) => write!(f, "the header `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(tier: u32) -> Class {
        Class {
            price: format!("{} sat", tier + 1).parse().unwrap(),
            tier,
        }
    }

    fn table(by: Selector, missing: Option<Class>) -> PriceTable {
        PriceTable {
            by,
            values: vec![
                ("GET".to_owned(), class(0)),
                ("small".to_owned(), class(1)),
                ("large".to_owned(), class(2)),
            ],
            missing,
        }
    }

    fn tier(table: &PriceTable, query: &str, headers: &[(&'static str, &str)]) -> Option<u32> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let selected = Selected {
            method: &Method::HEAD,
            query: (!query.is_empty()).then_some(query),
            headers: &map,
        };
        table.class(&selected).ok().map(|class| class.tier)
    }

    #[test]
    fn a_parameter_is_taken_only_where_every_server_would_take_the_same() {
        let prices = table(Selector::Query("size".to_owned()), Some(class(3)));
        for (query, expected) in [
            ("size=small", Some(1)),
            ("a=b&size=large&c", Some(2)),
            ("size=%6Carge", Some(2)),
            ("%73ize=large", Some(2)),
            ("", Some(3)),
            ("other=large", Some(3)),
            ("size=", None),
            ("size", None),
            ("size=LARGE", None),
            ("size=huge", None),
            ("size=small&size=large", None),
            ("size=small&size=small", None),
            ("size=small&%73ize=large", None),
            ("size=small&SIZE=large", None),
            ("SIZE=large", None),
            ("size[]=large", None),
            ("size[0]=large", None),
            ("[size]=large", None),
            ("size=small&[size]=large", None),
            ("size=small&[[size][x]]=large", None),
            ("+size=large", None),
            ("size%00x=large", None),
            ("size=small;size=large", None),
            ("a=b;size=large", None),
            ("size=%ff", None),
            ("%ff=1", None),
        ] {
            assert_eq!(tier(&prices, query, &[]), expected, "{query}");
        }
        let strict = table(Selector::Query("size".to_owned()), None);
        assert_eq!(tier(&strict, "", &[]), None);
        assert_eq!(tier(&strict, "size=small", &[]), Some(1));
    }

    #[test]
    fn a_header_is_taken_only_where_it_is_the_only_one() {
        let prices = table(Selector::Header("x-size".parse().unwrap()), Some(class(3)));
        for (headers, expected) in [
            (vec![("x-size", "small")], Some(1)),
            (vec![("x-size", " large ")], Some(2)),
            (vec![], Some(3)),
            (vec![("x-size", "huge")], None),
            (vec![("x-size", "small"), ("x-size", "large")], None),
            (vec![("x-size", "small, large")], None),
            (vec![("x-size", "small"), ("x_size", "large")], None),
            (vec![("x_size", "large")], None),
            (vec![("x-size", "small"), ("x.size", "large")], None),
            (vec![("x!size", "large")], None),
        ] {
            assert_eq!(tier(&prices, "", &headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn head_costs_what_get_does() {
        assert_eq!(tier(&table(Selector::Method, None), "", &[]), Some(0));
    }

    #[test]
    fn a_form_passes_no_price_by_query_however_it_is_named() {
        let prices = table(Selector::Query("size".to_owned()), None);
        let form = "application/x-www-form-urlencoded";
        for headers in [
            vec![("content-type", form)],
            vec![(
                "content-type",
                "Application/X-WWW-Form-URLEncoded;charset=x",
            )],
            vec![("content-type", "multipart/form-data; boundary=a")],
            vec![("content-type", "text/plain"), ("content-type", form)],
            vec![("content-type", form), ("content-type", "text/plain")],
            vec![(
                "content-type",
                "text/plain, application/x-www-form-urlencoded",
            )],
            vec![("content-type", "; application/x-www-form-urlencoded")],
            vec![("content-type", "text/plain"), ("content_type", form)],
            vec![("content_type", form)],
        ] {
            assert_eq!(tier(&prices, "size=small", &headers), None, "{headers:?}");
        }
        let headers = [("content-type", "application/json")];
        assert_eq!(tier(&prices, "size=small", &headers), Some(1));
    }

    #[test]
    fn a_method_in_query_or_form_passes_no_price_by_method() {
        let prices = table(Selector::Method, Some(class(3)));
        let form = [("content-type", "application/x-www-form-urlencoded")];
        for query in [
            "_method=DELETE",
            "a=b&_METHOD=x",
            "%5fmethod=PUT",
            "a;_method=PUT",
        ] {
            assert_eq!(tier(&prices, query, &[]), None, "{query}");
        }
        assert_eq!(tier(&prices, "", &form), None);
        assert_eq!(tier(&prices, "method=DELETE", &[]), Some(0));
        // If all methods cost the same, the effective method does not matter.
        let flat = PriceTable {
            by: Selector::Method,
            values: vec![("GET".to_owned(), class(3))],
            missing: Some(class(3)),
        };
        assert_eq!(tier(&flat, "_method=DELETE", &form), Some(3));
    }
}
