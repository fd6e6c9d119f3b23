//! Limits the caching of a paid answer: only the paying client may cache it, unless the upstream
//! forbids even that.

use http::HeaderValue;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderName};

/// Directives that either address shared caches, which must not keep a paid answer, or let a cache
/// ignore `no-store`.
const SHARED: [&str; 5] = [
    "public",
    "s-maxage",
    "proxy-revalidate",
    "stale-while-revalidate",
    "must-understand",
];

/// Makes `Cache-Control` at least `private` (RFC 9111, section 5.2.2.7). Stricter directives stay.
/// Headers for a single kind of shared cache are removed, because they would override `private`
/// (RFC 9213).
pub(super) fn keep_private(headers: &mut HeaderMap) {
    let is_targeted = |name: &HeaderName| {
        let name = name.as_str();
        name.ends_with("-cache-control") || ["surrogate-control", "x-accel-expires"].contains(&name)
    };
    if headers.keys().any(is_targeted) {
        let targeted: Vec<_> = headers
            .keys()
            .filter(|name| is_targeted(name))
            .cloned()
            .collect();
        for name in targeted {
            headers.remove(name);
        }
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        return;
    }
    let said: Vec<&str> = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .collect();
    let name = |directive: &str| {
        directive
            .split('=')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    };
    let is_shared = |directive: &str| SHARED.contains(&name(directive).as_str());
    let mut kept: Vec<&str> = said
        .iter()
        .copied()
        .filter(|directive| !is_shared(directive))
        .collect();
    // `private="field"` covers only one field, so it is not enough.
    let is_strict = |directive: &str| {
        name(directive) == "no-store" || directive.eq_ignore_ascii_case("private")
    };
    if !kept.iter().any(|directive| is_strict(directive)) {
        kept.insert(0, "private");
    }
    let value = kept.join(", ");
    let value = HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("private"));
    headers.insert(CACHE_CONTROL, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paid_answer_is_private_unless_it_is_stricter() {
        for (said, kept) in [
            (&[][..], "private"),
            (&["public, max-age=60"], "private, max-age=60"),
            (&["max-age=60", "s-maxage=600"], "private, max-age=60"),
            (&["no-store"], "no-store"),
            (&["must-understand, no-store, public"], "no-store"),
            (&["private, s-maxage=9"], "private"),
            (&["Private, max-age=5"], "Private, max-age=5"),
            (&["no-cache"], "private, no-cache"),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(CACHE_CONTROL, value.parse().unwrap());
            }
            headers.insert("cdn-cache-control", "max-age=600".parse().unwrap());
            keep_private(&mut headers);
            assert_eq!(headers[CACHE_CONTROL], kept);
            assert_eq!(headers.keys_len(), 1);
            assert_eq!(headers.get_all(CACHE_CONTROL).iter().count(), 1);
        }
    }
}
