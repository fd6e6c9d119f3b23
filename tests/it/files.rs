//! Files: what is served of a folder, and what is not.

use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use regtest::client::Answer;

use crate::support::{PAGE, Shop};

/// A folder with one of everything.
async fn shop() -> (Shop, tempfile::TempDir) {
    let shop = Shop::open().await;
    let outside = tempfile::tempdir().unwrap();
    let write = |path: std::path::PathBuf| std::fs::write(path, PAGE).unwrap();
    write(outside.path().join("secret.txt"));
    for folder in ["deep/.git", "empty", "listed"] {
        std::fs::create_dir_all(shop.folder.join(folder)).unwrap();
    }
    for name in [
        "page.html",
        "data.json",
        "style.css",
        "picture.png",
        "noending",
        "with space.txt",
        "ümlaut.txt",
        "semi;colon.txt",
        ".env",
        "deep/index.html",
        "deep/page.txt",
        "deep/.git/config",
    ] {
        write(shop.folder.join(name));
    }
    let link = |to: &std::path::Path, name: &str| symlink(to, shop.folder.join(name)).unwrap();
    link(&outside.path().join("secret.txt"), "leak.txt");
    link(outside.path(), "leaks");
    link(&shop.folder.join(".env"), "env.txt");
    link(&shop.folder.join("page.txt"), "alias.txt");
    link(std::path::Path::new("../../etc/passwd"), "passwd");
    (shop, outside)
}

#[tokio::test]
async fn a_file_has_the_type_of_its_name() {
    let (shop, _outside) = shop().await;
    for (name, kind) in [
        ("page.html", "text/html; charset=utf-8"),
        ("data.json", "application/json"),
        ("style.css", "text/css; charset=utf-8"),
        ("picture.png", "image/png"),
        ("page.txt", "text/plain; charset=utf-8"),
        ("noending", "application/octet-stream"),
        ("with%20space.txt", "text/plain; charset=utf-8"),
        ("%C3%BCmlaut.txt", "text/plain; charset=utf-8"),
        ("alias.txt", "text/plain; charset=utf-8"),
        ("deep/", "text/html; charset=utf-8"),
    ] {
        let answer = shop.get(&format!("/free/{name}")).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (StatusCode::OK, PAGE),
            "{name}"
        );
        assert_eq!(answer.header("content-type"), Some(kind), "{name}");
        assert_eq!(
            answer.header("content-length"),
            Some(PAGE.len().to_string().as_str())
        );
    }
}

#[tokio::test]
async fn nothing_hidden_and_nothing_outside_is_there_paid_or_not() {
    let (shop, _outside) = shop().await;
    let sold = shop.sell("articles", None);
    for name in [
        "",
        "none.txt",
        "empty",
        "empty/",
        "listed/",
        ".env",
        "%2eenv",
        "deep/.git/config",
        "deep/%2Egit/config",
        "leak.txt",
        "leaks/secret.txt",
        "env.txt",
        "passwd",
        "page.txt/x",
        "page.txt/",
        "style.css/",
        "deep/index.html/",
        "PAGE.TXT",
    ] {
        for answer in [
            shop.get(&format!("/free/{name}")).await,
            shop.get(&format!("/articles/{name}")).await,
            shop.get_with(&format!("/articles/{name}"), &sold).await,
        ] {
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{name}");
            assert!(!answer.text().contains(PAGE), "{name}");
            assert_eq!(answer.header("www-authenticate"), None, "{name}");
        }
    }
    shop.is_counted(&sold, 0).await;
}

#[tokio::test]
async fn encoded_separators_are_decided_before_the_folder_is_looked_at() {
    let (shop, _outside) = shop().await;
    for name in [
        "deep%2fpage.txt",
        "deep%2Fpage.txt",
        "deep%5cpage.txt",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/page.txt",
        "page.txt%00",
        "page.txt%00.html",
    ] {
        let answer = crate::support::raw::get(shop.address, &format!("/free/{name}")).await;
        assert_eq!(answer.status, 400, "{name}");
        assert!(!answer.text().contains(PAGE), "{name}");
    }
}

#[tokio::test]
async fn the_address_of_a_folder_ends_with_a_slash_before_anybody_pays() {
    let (shop, _outside) = shop().await;
    std::fs::write(shop.folder.join("index.html"), PAGE).unwrap();
    symlink(shop.folder.join("deep"), shop.folder.join("docs")).unwrap();
    let sold = shop.sell("counted", Some(3));
    for (asked, location) in [
        ("/free/deep", "/free/deep/"),
        ("/counted/deep", "/counted/deep/"),
        ("/counted/docs", "/counted/docs/"),
        ("/counted/deep?a=1&b=%2F?", "/counted/deep/?a=1&b=%2F?"),
        ("/counted/d%65ep?", "/counted/deep/?"),
        ("/counted", "/counted/"),
        ("/free", "/free/"),
    ] {
        for (method, credential) in [
            (Method::GET, None),
            (Method::HEAD, None),
            (Method::GET, Some(&sold)),
        ] {
            let mut request = shop.request(method.clone(), asked);
            if let Some(sold) = credential {
                request = request.header("authorization", sold.header());
            }
            let answer = shop.send(request).await;
            assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT, "{asked}");
            assert_eq!(answer.header("location"), Some(location), "{method}");
            assert_eq!(answer.header("www-authenticate"), None, "{asked}");
        }
    }
    shop.is_counted(&sold, 0).await;
    let answer = shop.get_with("/counted/deep/", &sold).await;
    assert_eq!(answer.text(), PAGE);
    let post = shop.request(Method::POST, "/free/deep");
    assert_eq!(shop.send(post).await.status, StatusCode::METHOD_NOT_ALLOWED);
    // A folder without an index is answered like a missing file.
    let empty = shop.get("/free/empty").await;
    assert_eq!(empty.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn well_known_files_are_served_and_other_hidden_ones_are_not() {
    let shop = Shop::open().await;
    let write = |name: &str| {
        let file = shop.folder.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, PAGE).unwrap();
    };
    for (name, is_served) in [
        (".well-known/security.txt", true),
        (".well-known/deep/page.txt", true),
        (".well-known/.hidden", false),
        (".well-known/.git/config", false),
        ("deep/.well-known/page.txt", false),
        (".well-known-not/page.txt", false),
    ] {
        write(name);
        let free = shop.get(&format!("/free/{name}")).await;
        let sold = shop.get(&format!("/articles/{name}")).await;
        let expected = if is_served {
            (StatusCode::OK, StatusCode::PAYMENT_REQUIRED)
        } else {
            (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND)
        };
        assert_eq!((free.status, sold.status), expected, "{name}");
    }
}

#[tokio::test]
async fn a_file_dated_before_1970_is_served() {
    let shop = Shop::open().await;
    let file = std::fs::File::options()
        .write(true)
        .open(shop.folder.join("page.txt"))
        .unwrap();
    let day = Duration::from_secs(86_400);
    file.set_modified(SystemTime::UNIX_EPOCH - day).unwrap();
    let answer = ask(&shop, &[]).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::OK, PAGE)
    );
    assert_eq!(answer.header("last-modified"), None);
    let etag = answer.header("etag").unwrap();
    let same = ask(&shop, &[("if-none-match", etag)]).await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn parts_of_two_versions_are_not_mixed() {
    let shop = Shop::open().await;
    let first = ask(&shop, &[]).await;
    let etag = first.header("etag").unwrap();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    let part = [("range", "bytes=5-"), ("if-range", etag)];
    for _ in 0..2 {
        let same = ask(&shop, &[("if-none-match", etag)]).await;
        assert_eq!(
            (same.status, same.header("etag")),
            (StatusCode::NOT_MODIFIED, Some(etag))
        );
        let rest = ask(&shop, &part).await;
        assert_eq!(rest.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(
            (rest.text(), rest.header("etag")),
            (PAGE[5..].to_owned(), Some(etag))
        );
    }
    let other = "something else is sold now";
    std::fs::write(shop.folder.join("page.txt"), other).unwrap();
    let whole = ask(&shop, &part).await;
    assert_eq!(
        (whole.status, whole.text().as_str()),
        (StatusCode::OK, other)
    );
    assert_ne!(whole.header("etag"), Some(etag));
    let changed = ask(&shop, &[("if-none-match", etag)]).await;
    assert_eq!(changed.status, StatusCode::OK);
    let unmet = ask(&shop, &[("if-match", etag)]).await;
    assert_eq!(unmet.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn a_large_file_is_served_in_whole_and_in_parts() {
    let shop = Shop::open().await;
    let text: String = (0..40_000).map(|number| format!("{number:05}")).collect();
    std::fs::write(shop.folder.join("page.txt"), &text).unwrap();
    for (range, part) in [
        (None, 0..200_000),
        (Some("bytes=70001-170000"), 70_001..170_001),
        (Some("bytes=-66000"), 134_000..200_000),
    ] {
        let headers: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
        let answer = ask(&shop, &headers).await;
        assert!(answer.text() == text[part.clone()], "{range:?}");
        let length = part.len().to_string();
        assert_eq!(answer.header("content-length"), Some(&*length));
    }
    let head = shop.request(Method::HEAD, "/free/page.txt");
    let head = shop.send(head).await;
    assert_eq!(head.header("content-length"), Some("200000"));
}

async fn ask(shop: &Shop, headers: &[(&str, &str)]) -> Answer {
    let mut request = shop.request(Method::GET, "/free/page.txt");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    shop.send(request).await
}

#[tokio::test]
async fn parts_of_a_file_are_served_as_asked() {
    let shop = Shop::open().await;
    let length = PAGE.len();
    for (range, status, text) in [
        ("bytes=0-3", 206, "what"),
        ("bytes=-4", 206, "for"),
        ("bytes=5-", 206, "was paid for"),
        ("bytes=0-999", 206, PAGE),
        ("bytes=99-", 416, ""),
        ("bytes=3-1", 416, ""),
        ("lines=1-2", 416, ""),
    ] {
        let answer = ask(&shop, &[("range", range)]).await;
        assert_eq!(answer.status.as_u16(), status, "{range}");
        if status == 206 {
            assert_eq!(answer.text().trim(), text, "{range}");
            let said = answer.header("content-range").unwrap();
            assert!(said.ends_with(&format!("/{length}")), "{said}");
        } else {
            assert!(!answer.text().contains("paid"), "{range}");
        }
    }
    assert_eq!(ask(&shop, &[]).await.header("accept-ranges"), Some("bytes"));
}

#[tokio::test]
async fn a_validator_spares_the_body() {
    let shop = Shop::open().await;
    let first = ask(&shop, &[]).await;
    let changed = first.header("last-modified").unwrap();
    let same = ask(&shop, &[("if-modified-since", changed)]).await;
    assert_eq!(
        (same.status, same.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    let long_ago = "Thu, 01 Jan 1970 00:00:01 GMT";
    let newer = ask(&shop, &[("if-modified-since", long_ago)]).await;
    assert_eq!(
        (newer.status, newer.text().as_str()),
        (StatusCode::OK, PAGE)
    );
    let unmet = ask(&shop, &[("if-unmodified-since", long_ago)]).await;
    assert_eq!(unmet.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn head_says_what_get_would_and_no_other_method_is_taken() {
    let shop = Shop::open().await;
    let head = shop
        .send(shop.request(Method::HEAD, "/free/page.txt"))
        .await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(
        head.header("content-length"),
        Some(PAGE.len().to_string().as_str())
    );
    for method in [
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
    ] {
        let answer = shop.send(shop.request(method, "/free/page.txt")).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    assert_eq!(
        std::fs::read_to_string(shop.folder.join("page.txt")).unwrap(),
        PAGE
    );
}

/// Fetches half of the file, with a grant of two requests.
async fn half(shop: &Shop, sold: &crate::support::Sold, name: &str, range: &str) -> StatusCode {
    let request = shop.request(Method::GET, &format!("/parts/{name}"));
    let request = request.header("authorization", sold.header());
    shop.send(request.header("range", range)).await.status
}

#[tokio::test]
async fn with_count_file_the_parts_of_a_file_are_one_request() {
    let route = "[[route]]\npath = \"/parts/*\"\nservice = \"parts\"\nprice = \"10 sat\"\nfiles = \"shop\"\n";
    for (count, is_one) in [("", false), ("count = \"file\"\n", true)] {
        let shop = Shop::selling(&format!("{route}{count}")).await;
        std::fs::write(shop.folder.join("other.txt"), PAGE).unwrap();
        let sold = shop.sell("parts", Some(2));
        // A range outside the file costs nothing, before or after another range.
        let none = StatusCode::RANGE_NOT_SATISFIABLE;
        assert_eq!(half(&shop, &sold, "page.txt", "bytes=99-").await, none);
        assert_eq!(
            half(&shop, &sold, "page.txt", "bytes=0-3").await,
            StatusCode::PARTIAL_CONTENT
        );
        assert_eq!(half(&shop, &sold, "page.txt", "bytes=99-").await, none);
        assert_eq!(
            half(&shop, &sold, "page.txt", "bytes=4-").await,
            StatusCode::PARTIAL_CONTENT
        );
        shop.is_counted(&sold, if is_one { 1 } else { 2 }).await;
        let third = half(&shop, &sold, "other.txt", "bytes=0-3").await;
        if !is_one {
            assert_eq!(third, StatusCode::PAYMENT_REQUIRED);
            continue;
        }
        assert_eq!(third, StatusCode::PARTIAL_CONTENT);
        shop.is_counted(&sold, 2).await;
        // The grant is used up; these two windows are still open.
        for name in ["page.txt", "other.txt"] {
            let again = half(&shop, &sold, name, "bytes=0-").await;
            assert_eq!(again, StatusCode::PARTIAL_CONTENT, "{name}");
        }
        shop.clock.advance(Duration::from_secs(600));
        let late = half(&shop, &sold, "page.txt", "bytes=4-").await;
        assert_eq!(late, StatusCode::PAYMENT_REQUIRED);
        shop.is_counted(&sold, 2).await;
    }
}
