//! Files that the settings name as secret are never sold, wherever they are.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use http::{Method, StatusCode};

use crate::support::{PAGE, Shop, new_folder};

const FREE: &str = "[[route]]\npath = \"/free/*\"\naccess = \"free\"\nfiles = \"shop\"\n\
                    overlap = \"allowed\"\n";
const PAID: &str =
    "[[route]]\npath = \"/paid/*\"\nservice = \"a\"\nprice = \"10 sat\"\nfiles = \"shop\"\n";
const KEYED: &str = "[[route]]\npath = \"/up/*\"\naccess = \"free\"\nupstream = \"http://127.0.0.1:1\"\n\
                     request_headers = { set = { x-key = { file = \"upstream.key\" } } }\n";

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

async fn is_served(shop: &Shop, name: &str) -> bool {
    let free = shop.get(&format!("/free/{name}")).await.status;
    let sold = shop.get(&format!("/paid/{name}")).await.status;
    let head = shop.request(Method::HEAD, &format!("/free/{name}"));
    assert_eq!(shop.send(head).await.status, free, "{name}");
    match (free, sold) {
        (StatusCode::OK, StatusCode::PAYMENT_REQUIRED) => true,
        (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND) => false,
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test]
async fn a_secret_that_is_moved_into_a_sold_folder_is_not_served() {
    let dir = new_folder();
    let at = |name: &str| dir.path().join(name);
    let (key, settings, folder) = (at("upstream.key"), at("tollhouse.toml"), at("shop"));
    write_secret(&key, "secret");
    let shop = Shop::selling_in(dir, &format!("{FREE}{PAID}{KEYED}")).await;
    let link = |to: &Path, name: &str| fs::hard_link(to, folder.join(name)).unwrap();
    link(&key, "key.txt");
    link(&settings, "settings.txt");
    symlink(&key, folder.join("link.txt")).unwrap();
    symlink(folder.join("key.txt"), folder.join("inner.txt")).unwrap();
    fs::create_dir(folder.join("deep")).unwrap();
    link(&key, "deep/index.html");
    assert!(is_served(&shop, "page.txt").await);
    for name in [
        "key.txt",
        "key%2Etxt",
        "settings.txt",
        "link.txt",
        "inner.txt",
        "deep",
        "deep/",
        "deep/index.html",
    ] {
        assert!(!is_served(&shop, name).await, "{name}");
    }
    // The key is replaced while the shop runs: the new key file is not served, and the old file is served like any
    // other.
    let new = key.with_extension("new");
    write_secret(&new, "another secret");
    fs::rename(&new, &key).unwrap();
    link(&key, "new.txt");
    assert!(!is_served(&shop, "new.txt").await);
    fs::write(folder.join("other.txt"), PAGE).unwrap();
    assert!(is_served(&shop, "other.txt").await);
}

/// The complaints about these settings in this folder.
fn complaints(dir: &Path, settings: &str) -> String {
    let file = dir.join("tollhouse.toml");
    let chain = "node.chain.esplora = \"http://127.0.0.1:1\"\n";
    fs::write(&file, format!("{chain}{settings}")).unwrap();
    match tollhouse::config::load_with(&file, []) {
        Ok(_) => String::new(),
        Err(complaints) => complaints.to_string(),
    }
}

#[test]
fn a_sold_folder_with_a_secret_in_it_is_refused_with_file_and_key() {
    let dir = new_folder();
    let path = dir.path();
    fs::create_dir_all(path.join("shop/deep")).unwrap();
    for name in ["shop/s", "shop/deep/s", "outside"] {
        write_secret(&path.join(name), "secret");
    }
    symlink(path.join("shop/s"), path.join("linked")).unwrap();
    symlink(path.join("outside"), path.join("shop/linked")).unwrap();
    let header = |file: &str| KEYED.replace("upstream.key", file);
    let s3 = |file: &str| {
        format!(
            "[backup.s3]\nendpoint = \"https://s3.example.com\"\nregion = \"r\"\nbucket = \"b\"\naccess_key = \"k\"\n\
             secret_key_file = \"{file}\"\n"
        )
    };
    let acme = "[http.acme]\ndomains = [\"shop.example\"]\ncache = \"shop/certificates\"\n";
    for (settings, key, file) in [
        (header("shop/s"), "request_headers.set.x-key", "shop/s"),
        (header("shop/deep/s"), "set.x-key", "shop/deep/s"),
        (header("shop/../shop/s"), "set.x-key", "shop/s"),
        (header("linked"), "set.x-key", "shop/s"),
        (s3("shop/s"), "backup.s3.secret_key_file", "shop/s"),
        (
            "[backup]\nfolder = \"shop/backups\"\n".to_owned(),
            "backup.folder",
            "shop/backups",
        ),
        (
            "[backup]\nfolder = \".\"\n".to_owned(),
            "backup.folder",
            "shop",
        ),
        (acme.to_owned(), "http.acme.cache", "shop/certificates"),
        (
            "[node.vss]\nurl = \"https://vss.example\"\nstore_id = \"a\"\nheaders_file = \"shop/s\"\n".to_owned(),
            "node.vss.headers_file",
            "shop/s",
        ),
    ] {
        let said = complaints(path, &format!("{settings}{FREE}"));
        let is_told = said.contains("route[") && said.contains(key);
        assert!(is_told && said.contains(file), "{settings}: {said}");
    }
    for settings in [header("outside"), header("shop/linked"), s3("outside")] {
        assert_eq!(
            complaints(path, &format!("{settings}{FREE}")),
            "",
            "{settings}"
        );
    }
    // Every secret is reported, whichever route exposes it.
    let both = format!("{}{}{FREE}", s3("shop/deep/s"), header("shop/s"));
    let said = complaints(path, &both);
    assert!(
        said.contains("x-key") && said.contains("secret_key_file"),
        "{said}"
    );
    // The settings file itself, and a data folder that does not exist yet.
    let all = FREE.replace("\"shop\"", "\".\"");
    let said = complaints(path, &format!("data_dir = \"/nowhere/data\"\n{all}"));
    assert!(said.contains("this settings file"), "{said}");
    let said = complaints(path, &format!("data_dir = \"shop/data\"\n{FREE}"));
    assert!(said.contains("the data folder"), "{said}");
}
