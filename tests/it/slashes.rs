//! Paths with slashes that servers read in several ways: a route passes them only if every reading belongs to it.

use http::{Method, StatusCode};

use crate::support::Shop;
use crate::support::answers::assert_challenged;
use crate::support::answers::assert_hello;
use crate::support::raw;
use crate::support::routes::{FREE, route, sold};
use crate::support::upstream::Upstream;

const PASS: &str = "encoded_slashes = \"pass\"";

/// The status for each of these paths, sent unchanged, and the path that reached the upstream, if any.
async fn assert_paths(shop: &Shop, upstream: &Upstream, rows: &[(&str, u16, Option<&str>)]) {
    for (path, status, arrived) in rows {
        let reply = raw::get(shop.address, path).await;
        assert_eq!(reply.status, *status, "{path}: {}", reply.text());
        let seen = upstream.take_all();
        let seen: Vec<_> = seen.iter().map(|seen| seen.target.as_str()).collect();
        assert_eq!(seen, arrived.iter().copied().collect::<Vec<_>>(), "{path}");
    }
}

#[tokio::test]
async fn a_route_that_takes_everything_passes_slashes_as_they_are() {
    let upstream = Upstream::start().await;
    let shop = Shop::selling(&route("/*", upstream.address, &format!("{FREE}\n{PASS}"))).await;
    let rows = [
        ("/@scope%2fname", 200, Some("/@scope%2Fname")),
        ("/a//b", 200, Some("/a//b")),
        ("//a/b", 200, Some("//a/b")),
        ("/a//", 200, Some("/a//")),
        ("/%2F%2fa?b=//c", 200, Some("/%2F%2Fa?b=//c")),
        ("/a;b%2Fc", 200, Some("/a;b%2Fc")),
        ("/a%2F..%2Fb", 400, None),
        ("/a%2f%2e%2e", 400, None),
        ("/a//../b", 400, None),
        ("/a%2F.;x", 400, None),
        ("/a%5Cb", 400, None),
        ("/a%2F%00", 400, None),
    ];
    assert_paths(&shop, &upstream, &rows).await;
    let shop = Shop::selling(&route("/*", upstream.address, FREE)).await;
    let refused = rows.map(|(path, ..)| (path, 400, None));
    assert_paths(&shop, &upstream, &refused).await;
}

#[tokio::test]
async fn slashes_never_lead_to_another_route() {
    let upstream = Upstream::start().await;
    let settings = [
        route(
            "/*",
            upstream.address,
            &format!("{FREE}\n{PASS}\noverlap = \"allowed\""),
        ),
        sold("/a/*", upstream.address, ""),
        sold(
            "/Big/*",
            upstream.address,
            "strip_prefix = true\noverlap = \"allowed\"",
        ),
        sold(
            "/pass/*",
            upstream.address,
            &format!("{PASS}\nmethods = [\"GET\"]"),
        ),
        route(
            "/pass/free/*",
            upstream.address,
            &format!("{FREE}\noverlap = \"allowed\""),
        ),
    ];
    let shop = Shop::selling(&settings.concat()).await;
    assert_paths(
        &shop,
        &upstream,
        &[
            ("/x//y", 200, Some("/x//y")),
            ("/x%2Fa%2Fb", 200, Some("/x%2Fa%2Fb")),
            // Some servers would read each of these as a sold path.
            ("/a%2Fb", 400, None),
            ("/%61%2fb", 400, None),
            ("/%2Fa/b", 400, None),
            ("//a/b", 400, None),
            ("//x/a/b", 400, None),
            ("/%2Fx%2Fa%2Fb", 400, None),
            ("/a;x%2Fb", 400, None),
            ("/;x//a/b", 400, None),
            ("/A%2Fb", 400, None),
            ("/big//b", 400, None),
            ("/pass%2Fx", 400, None),
            // A sold path, and the route does not pass slashes.
            ("/a//b", 400, None),
            // A sold path, and the route passes slashes.
            ("/pass//x", 402, None),
            ("/pass/x%2Fy", 402, None),
            // A free path, and the route does not pass slashes or another reading belongs to another route.
            ("/pass/free//x", 400, None),
            ("/pass//free/x", 400, None),
            ("/pass/free%2Fx", 400, None),
        ],
    )
    .await;
    let request = shop.request(Method::POST, "/pass/x%2Fy");
    assert_eq!(shop.send(request).await.status, StatusCode::BAD_REQUEST);
    let paid = shop.sell("a", None);
    assert_hello(&shop.get_with("/pass/x%2Fy", &paid).await);
    let narrowed = paid.with_caveat("a_path=/pass/x/*");
    assert_challenged(&shop.get_with("/pass/x%2Fy", &narrowed).await);
}

#[tokio::test]
async fn slashes_stay_unchanged_when_a_prefix_is_stripped() {
    let upstream = Upstream::start().await;
    let keys = format!("{FREE}\n{PASS}\nstrip_prefix = true\nadd_prefix = \"/v2\"");
    let shop = Shop::selling(&route("/a/*", upstream.address, &keys)).await;
    let rows = [
        ("/a//b", 200, Some("/v2//b")),
        ("/a/%2Fb", 200, Some("/v2/%2Fb")),
        ("/a/b%2Fc/", 200, Some("/v2/b%2Fc/")),
        ("/a%2Fb", 400, None),
    ];
    assert_paths(&shop, &upstream, &rows).await;
}
