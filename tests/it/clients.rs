//! Who asks: the client behind proxies, and who is let in.

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tollhouse::sell::http::{Clients, Limits, Networks};

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::raw;
use crate::support::upstream::{SOON, Upstream};
use crate::support::{DEADLINE, PAGE, Setup, Shop};

fn networks(list: &[&str]) -> Networks {
    Networks::parse(list).unwrap()
}

/// Behind a proxy on this machine, which is where the tests come from.
fn behind_a_proxy() -> Clients {
    Clients {
        trusted_proxies: networks(&["127.0.0.1"]),
        ..Clients::default()
    }
}

async fn shop_for(clients: Clients, upstream: Option<&Upstream>) -> Shop {
    Shop::with(Setup {
        clients,
        upstream: upstream.map(|upstream| upstream.address),
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn an_upstream_is_told_the_client_that_the_trusted_proxy_names() {
    let upstream = Upstream::start().await;
    for (clients, header, client, proto) in [
        (
            Clients::default(),
            "127.0.0.9, 203.0.113.9",
            "127.0.0.1",
            "http",
        ),
        (
            behind_a_proxy(),
            "127.0.0.9, 203.0.113.9",
            "203.0.113.9",
            "https",
        ),
    ] {
        let shop = shop_for(clients, Some(&upstream)).await;
        let request = shop
            .request(Method::GET, "/open/x")
            .header("x-forwarded-for", header)
            .header("x-forwarded-proto", "https");
        assert_eq!(shop.send(request).await.status, StatusCode::OK);
        let seen = upstream.take_one();
        assert_eq!(seen.header("x-forwarded-for"), Some(client));
        assert_eq!(seen.header("x-forwarded-proto"), Some(proto));
    }
}

#[tokio::test]
async fn a_token_for_one_address_opens_nothing_to_another_that_claims_to_be_it() {
    let shop = shop_for(behind_a_proxy(), None).await;
    let sold = shop.sell("articles", None);
    let lent = sold.with_caveat("articles_ip=203.0.113.9/32");
    for (header, is_served) in [
        ("203.0.113.9", true),
        ("198.51.100.1, 203.0.113.9", true),
        ("203.0.113.9, 198.51.100.1", false),
        ("203.0.113.9, nonsense", false),
        ("203.0.113.9,", false),
        ("", false),
    ] {
        let request = shop
            .request(Method::GET, "/articles/page.txt")
            .header("authorization", lent.header())
            .header("x-forwarded-for", header);
        let answer = shop.send(request).await;
        if is_served {
            assert_served(&answer);
        } else {
            assert_challenged(&answer);
        }
    }
}

#[tokio::test]
async fn who_is_not_let_in_reads_so_and_nothing_else() {
    for (allow, block, header, status) in [
        (&[][..], &["127.0.0.0/8"][..], None, 403),
        (&["203.0.113.0/24"], &[], None, 403),
        (&["127.0.0.1"], &[], None, 200),
        (&["127.0.0.1"], &["127.0.0.0/8"], None, 403),
        (
            &["203.0.113.0/24"],
            &["203.0.113.9"],
            Some("203.0.113.8"),
            200,
        ),
        (
            &["203.0.113.0/24"],
            &["203.0.113.9"],
            Some("203.0.113.9"),
            403,
        ),
        (
            &[],
            &["203.0.113.9"],
            Some("198.51.100.1, 203.0.113.9"),
            403,
        ),
        (
            &[],
            &["203.0.113.9"],
            Some("203.0.113.9, 198.51.100.1"),
            200,
        ),
    ] {
        let clients = Clients {
            allow: networks(allow),
            block: networks(block),
            ..behind_a_proxy()
        };
        let shop = shop_for(clients, None).await;
        let mut request = shop.request(Method::GET, "/free/page.txt");
        if let Some(header) = header {
            request = request.header("x-forwarded-for", header);
        }
        let answer = shop.send(request).await;
        assert_eq!(answer.status, status, "{allow:?} {block:?} {header:?}");
        if status == 403 {
            let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem["status"], 403);
            // Not even whether there is something here.
            let nothing = shop.request(Method::GET, "/nothing");
            let nothing = match header {
                Some(header) => nothing.header("x-forwarded-for", header),
                None => nothing,
            };
            assert_eq!(shop.send(nothing).await.status, 403);
        }
    }
}

#[tokio::test]
async fn settings_say_who_is_believed_and_let_in() {
    let upstream = Upstream::start().await;
    let route = format!(
        "[[route]]\npath = \"/x\"\naccess = \"free\"\nupstream = \"http://{}\"\n",
        upstream.address
    );
    let shop = Shop::selling(&format!(
        "[http]\ntrusted_proxies = [\"127.0.0.0/8\", \"::1\"]\nforwarded_header = \"forwarded\"\n\
         block = [\"203.0.113.0/24\"]\n{route}"
    ))
    .await;
    for (header, status) in [
        ("for=198.51.100.1;proto=https", StatusCode::OK),
        ("for=203.0.113.9", StatusCode::FORBIDDEN),
    ] {
        let request = shop
            .request(Method::GET, "/x")
            .header("forwarded", header)
            .header("x-forwarded-for", "192.0.2.1");
        assert_eq!(shop.send(request).await.status, status);
    }
    let seen = upstream.take_one();
    assert_eq!(seen.header("x-forwarded-for"), Some("198.51.100.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
}

/// A shop that takes the PROXY protocol from these proxies only.
async fn shop_behind(proxies: &[&str], limits: Limits, upstream: Option<&Upstream>) -> Shop {
    Shop::with(Setup {
        clients: Clients {
            trusted_proxies: networks(proxies),
            ..Clients::default()
        },
        proxy_protocol: true,
        limits,
        upstream: upstream.map(|upstream| upstream.address),
        ..Setup::default()
    })
    .await
}

const GET: &str = "GET /open/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n";

#[tokio::test]
async fn the_proxy_protocol_says_who_the_client_is() {
    let upstream = Upstream::start().await;
    let shop = shop_behind(&["127.0.0.1"], Setup::default().limits, Some(&upstream)).await;
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x0a\0\0\x01\x12\x34\0\x50";
    for (header, more, client) in [
        (
            &b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n"[..],
            "",
            "203.0.113.9",
        ),
        (
            b"PROXY TCP6 ::ffff:203.0.113.9 ::1 4660 80\r\n",
            "",
            "203.0.113.9",
        ),
        (b"PROXY UNKNOWN\r\n", "", "127.0.0.1"),
        // Nor is one that the proxy could not name.
        (
            b"PROXY UNKNOWN\r\n",
            "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n",
            "127.0.0.1",
        ),
        (v2, "", "203.0.113.9"),
        // A client that is no proxy is not believed.
        (v2, "X-Forwarded-For: 192.0.2.1\r\n", "203.0.113.9"),
        // A proxy behind the proxy is.
        (
            b"PROXY TCP4 127.0.0.1 10.0.0.1 1 80\r\n",
            "X-Forwarded-For: 192.0.2.1\r\n",
            "192.0.2.1",
        ),
    ] {
        let request = [header, GET.as_bytes(), more.as_bytes(), b"\r\n"].concat();
        let reply = raw::exchange(shop.address, &request).await.unwrap();
        assert_eq!(reply.status, 200);
        let seen = upstream.take_one();
        assert_eq!(seen.header("x-forwarded-for"), Some(client), "{more}");
    }
}

#[tokio::test]
async fn without_the_proxy_protocol_and_from_strangers_nothing_is_taken() {
    let ours = shop_behind(&["127.0.0.1"], Setup::default().limits, None).await;
    let plain = b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    let proxied = [b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n", &plain[..]].concat();
    assert!(raw::exchange(ours.address, plain).await.is_none());
    let reply = raw::exchange(ours.address, &proxied).await.unwrap();
    assert_eq!(reply.text(), PAGE);
    let theirs = shop_behind(&["192.0.2.0/24"], Setup::default().limits, None).await;
    for request in [&plain[..], &proxied] {
        assert!(raw::exchange(theirs.address, request).await.is_none());
    }
    // Without the setting it is a bad request, not a claim.
    let open = Shop::open().await;
    let reply = raw::exchange(open.address, &proxied).await.unwrap();
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_not_waited_for() {
    let limits = Limits {
        header_timeout: SOON,
        ..Setup::default().limits
    };
    let shop = shop_behind(&["127.0.0.1"], limits, None).await;
    for said in [&b""[..], b"PROXY TCP4 203.0.113.9"] {
        let mut stream = shop.connect().await;
        stream.write_all(said).await.unwrap();
        let mut rest = Vec::new();
        let read = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        read.expect("closed in time").unwrap();
        assert!(rest.is_empty());
    }
}
