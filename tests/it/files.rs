//! Files: what is served of a folder, and what is not.

use std::os::unix::fs::symlink;

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
        ("page.html", "text/html"),
        ("data.json", "application/json"),
        ("style.css", "text/css"),
        ("picture.png", "image/png"),
        ("page.txt", "text/plain"),
        ("noending", "application/octet-stream"),
        ("with%20space.txt", "text/plain"),
        ("%C3%BCmlaut.txt", "text/plain"),
        ("alias.txt", "text/plain"),
        ("deep", "text/html"),
        ("deep/", "text/html"),
    ] {
        let answer = shop.get(&format!("/free/{name}")).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (StatusCode::OK, PAGE),
            "{name}"
        );
        let found = answer.header("content-type").unwrap();
        assert!(found.starts_with(kind), "{name}: {found}");
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
        let answer = crate::raw::get(shop.address, &format!("/free/{name}")).await;
        assert_eq!(answer.status, 400, "{name}");
        assert!(!answer.text().contains(PAGE), "{name}");
    }
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
