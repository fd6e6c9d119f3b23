use std::sync::Arc;

use super::*;
use crate::sell::route::Upstream;

/// Checks how header values are rewritten on a route with this prefix, in front of two servers.
fn assert_published(
    (prefix, add_prefix): (&str, &str),
    base: &str,
    cases: &[(&str, HeaderName, &str)],
) {
    let urls = [
        format!("http://up.internal:3000{base}"),
        format!("http://other.internal{base}"),
    ];
    let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
    let upstream = Arc::new(Upstream::of(urls));
    let servers = Servers::new(&upstream).unwrap();
    let mut forward = Forward::to("http://nobody".parse().unwrap());
    forward.add_prefix = add_prefix.to_owned();
    forward.upstream = upstream;
    let host = HeaderValue::from_static("shop.example:8402");
    let names = Names {
        forward: &forward,
        servers: &servers,
        server: &servers.list[0],
        prefix,
        host: Some(&host),
        asked: "//evil.example",
    };
    for (said, name, wanted) in cases {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(said).unwrap());
        names.publish(&mut headers);
        assert_eq!(headers[name], wanted, "{said}");
    }
}

#[tokio::test]
async fn a_path_with_two_slashes_that_an_upstream_repeats_does_not_name_a_host() {
    let cases = [
        ("//evil.example/", LOCATION, "/.//evil.example/"),
        ("//elsewhere.example/", LOCATION, "//elsewhere.example/"),
    ];
    assert_published(("", ""), "", &cases);
    let prefixed = [("//evil.example/?a", LOCATION, "/api//evil.example/?a")];
    assert_published(("/api", ""), "", &prefixed);
}

#[tokio::test]
async fn a_redirect_to_the_upstream_becomes_one_to_the_route() {
    let unchanged = |said| (said, LOCATION, said);
    let prefixed = [
        (
            "http://up.internal:3000/login?a=b#c",
            LOCATION,
            "/api/login?a=b#c",
        ),
        ("HTTPS://UP.internal:3000/login", LOCATION, "/api/login"),
        ("http://other.internal/x", LOCATION, "/api/x"),
        ("//up.internal:3000/x", LOCATION, "/api/x"),
        ("http://up.internal:3000", LOCATION, "/api/"),
        ("http://up.internal:3000?a=/b", LOCATION, "/api/?a=/b"),
        ("/login", LOCATION, "/api/login"),
        ("/", LOCATION, "/api/"),
        ("/apix", LOCATION, "/api/apix"),
        // The upstream received this name as the request's host.
        ("http://shop.example:8402/login", LOCATION, "/api/login"),
        // The upstream already uses the prefix.
        ("http://up.internal:3000/api/login", LOCATION, "/api/login"),
        unchanged("/api/login"),
        unchanged("/api"),
        // The result must not name another host.
        (
            "http://up.internal:3000//evil.example",
            LOCATION,
            "/api//evil.example",
        ),
        unchanged("https://elsewhere.example/login"),
        unchanged("http://up.internal:3001/login"),
        unchanged("http://up.internal/login"),
        unchanged("http://user@up.internal:3000/"),
        unchanged("http://up.internal.evil.example/"),
        unchanged("login"),
        unchanged("../login"),
        unchanged("?a=b"),
        unchanged("mailto:me@up.internal"),
        unchanged("android-app://up.internal:3000/"),
    ];
    assert_published(("/api", ""), "", &prefixed);
    let moved = [
        ("http://up.internal:3000/base/v2/x", LOCATION, "/api/x"),
        ("/base/v2/x", LOCATION, "/api/x"),
        ("/base/v2", LOCATION, "/api"),
        unchanged("/base/v3/x"),
        unchanged("http://up.internal:3000/elsewhere"),
    ];
    assert_published(("/api", "/v2"), "/base", &moved);
    let whole = [
        ("http://up.internal:3000/base/api/x", LOCATION, "/api/x"),
        ("/base", LOCATION, "/"),
        ("/base//evil.example", LOCATION, "/.//evil.example"),
        ("/base/\\evil.example", LOCATION, "/./\\evil.example"),
        unchanged("/api/x"),
        unchanged("/basement"),
    ];
    assert_published(("", ""), "/base", &whole);
}

#[tokio::test]
async fn the_other_headers_that_name_the_upstream_are_rewritten_too() {
    let unchanged = |said, name| (said, name, said);
    let cases = [
        ("http://up.internal:3000/x", CONTENT_LOCATION, "/api/x"),
        ("5; url=http://up.internal:3000/x", REFRESH, "5;url=/api/x"),
        ("0,URL='/x'", REFRESH, "0,url='/api/x'"),
        unchanged("5", REFRESH),
        unchanged("5; url=https://elsewhere.example/", REFRESH),
        (
            "</x?page=2>; rel=\"next\", <https://elsewhere.example/>; title=\"a <b> \\\" , <c>\", <http://up.internal:3000/>",
            LINK,
            "</api/x?page=2>; rel=\"next\", <https://elsewhere.example/>; title=\"a <b> \\\" , <c>\", </api/>",
        ),
        unchanged("<x>; rel=next", LINK),
        unchanged("</x", LINK),
        (
            "a=b; Path=/; HttpOnly",
            SET_COOKIE,
            "a=b; Path=/api; HttpOnly",
        ),
        ("a=/; path=/x;Secure", SET_COOKIE, "a=/; Path=/api/x;Secure"),
        (
            "a=b; Domain=up.internal; Path=/api",
            SET_COOKIE,
            "a=b; Path=/api",
        ),
        ("a=b; domain=.internal", SET_COOKIE, "a=b"),
        unchanged("a=b; Domain=shop.example", SET_COOKIE),
        unchanged("a=b; Domain=elsewhere.example; Path=/api/", SET_COOKIE),
        unchanged("__Host-a=b; Path=/; Secure", SET_COOKIE),
        unchanged("a=b", SET_COOKIE),
    ];
    assert_published(("/api", ""), "", &cases);
    let moved = [
        ("a=b; Path=/", SET_COOKIE, "a=b; Path=/api"),
        ("a=b; Path=/base/", SET_COOKIE, "a=b; Path=/api"),
        ("a=b; Path=/base/v2/x", SET_COOKIE, "a=b; Path=/api/x"),
        unchanged("a=b; Path=/elsewhere", SET_COOKIE),
    ];
    assert_published(("/api", "/v2"), "/base", &moved);
    let whole = [
        ("a=b; Path=/base", SET_COOKIE, "a=b; Path=/"),
        unchanged("a=b; Path=/", SET_COOKIE),
    ];
    assert_published(("", ""), "/base", &whole);
}

#[test]
fn a_redirect_stays_in_the_shop_or_leaves_it() {
    let sends = |is_read, status, location: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        let is_ours = |(host, port): (&str, Option<u16>)| host == "inner" && port == Some(8080);
        sends_on(is_read, status, &headers, is_ours)
    };
    let stays = |location: &str| sends(true, StatusCode::FOUND, location);
    for location in [
        "/x",
        "x",
        "?a:b",
        "../a",
        "http://inner:8080/x",
        "//inner:8080",
    ] {
        assert!(stays(location), "{location}");
    }
    for location in [
        "https://elsewhere.example/",
        "//elsewhere.example/",
        "//elsewhere.example:/x",
        "//me@elsewhere.example/",
        "/\\elsewhere.example/",
        "\\\\elsewhere.example/",
        "http://inner:8443/",
        "mailto:me@shop.example",
    ] {
        assert!(!stays(location), "{location}");
    }
    // A 301 to 303 answer to a request that changes something means that the upstream has done the
    // work.
    for (status, is_undone) in [
        (StatusCode::MOVED_PERMANENTLY, false),
        (StatusCode::FOUND, false),
        (StatusCode::SEE_OTHER, false),
        (StatusCode::TEMPORARY_REDIRECT, true),
        (StatusCode::PERMANENT_REDIRECT, true),
    ] {
        assert_eq!(sends(false, status, "/x"), is_undone, "{status}");
        assert!(sends(true, status, "/x"), "{status}");
    }
    assert!(!sends_on(
        true,
        StatusCode::FOUND,
        &HeaderMap::new(),
        |_| true
    ));
}
