//! A file in memory is served only while a full check would give the same result.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::memory::Pace;
use super::*;

/// A served folder inside a folder that is not served.
struct Shop {
    dir: TempDir,
    files: Files,
}

impl Shop {
    /// Builds a shop that keeps every file at once and never repeats a full check because of its
    /// age.
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret.key");
        fs::create_dir_all(dir.path().join("shop/deep/deeper")).unwrap();
        fs::write(&secret, "a secret").unwrap();
        let mut secrets = Secrets::default();
        secrets.add("a.key", secret);
        let secrets = Arc::new(secrets);
        let memory = Memory::with(Pace {
            look_every: Duration::from_secs(3_600),
            settled: Duration::ZERO,
        });
        let files = Files {
            secrets,
            memory: Arc::new(memory),
        };
        Self { dir, files }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("shop")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    async fn read(&self, folder: &Path, path: &str) -> String {
        read(&self.files, folder, path).await
    }
}

/// Returns the content served at this path.
async fn read(files: &Files, folder: &Path, path: &str) -> String {
    let place = Place {
        folder,
        path,
        has_slash: path.ends_with('/'),
    };
    let head = files.find(place, For::Head).await.map(|_| ());
    let found = files.find(place, For::Content).await;
    assert_eq!(head.is_ok(), found.is_ok());
    match found {
        Ok(found) => match found.content {
            Content::Here(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Content::In(file) => io::read_to_string(file).unwrap(),
            Content::Unread => panic!("content was asked for"),
        },
        Err(failure) => failure.to_string(),
    }
}

/// The path of the file that changes.
const PATH: &str = "/deep/deeper/page.txt";
const FILE: &str = "shop/deep/deeper/page.txt";
const GONE: &str = "there is nothing here";

/// Serves a file from memory, changes something, and compares the next answer with that of a newly
/// started program. `None` means that the result depends on the user that runs the test.
async fn is_seen(what: &str, change: impl FnOnce(&Shop), expected: Option<&str>) {
    let shop = Shop::open();
    shop.write(FILE, "as it was");
    let folder = shop.folder().canonicalize().unwrap();
    assert_eq!(shop.read(&folder, PATH).await, "as it was", "{what}");
    let kept = shop.files.remembered(&shop.at(FILE), For::Content);
    assert!(kept.is_some(), "{what}");
    change(&shop);
    let fresh = Files::new(&shop.files.secrets);
    let truth = read(&fresh, &folder, PATH).await;
    assert_eq!(shop.read(&folder, PATH).await, truth, "{what}");
    assert_eq!(expected.unwrap_or(&truth), truth, "{what}");
}

#[tokio::test]
async fn every_change_of_a_file_is_seen_by_the_next_request() {
    is_seen("nothing", |_| {}, Some("as it was")).await;
    is_seen(
        "longer",
        |shop| shop.write(FILE, "longer than it was"),
        Some("longer than it was"),
    )
    .await;
    is_seen(
        "as long",
        |shop| shop.write(FILE, "as it is."),
        Some("as it is."),
    )
    .await;
    let dated_back = |shop: &Shop| {
        let before = shop.at(FILE).metadata().unwrap().modified().unwrap();
        shop.write(FILE, "as it is.");
        let file = File::options().write(true).open(shop.at(FILE)).unwrap();
        file.set_modified(before).unwrap();
    };
    is_seen("as long, and dated back", dated_back, Some("as it is.")).await;
    is_seen("truncated", |shop| shop.write(FILE, ""), Some("")).await;
    is_seen(
        "deleted",
        |shop| fs::remove_file(shop.at(FILE)).unwrap(),
        Some(GONE),
    )
    .await;
    let replaced = |shop: &Shop| {
        shop.write("new", "another");
        fs::rename(shop.at("new"), shop.at(FILE)).unwrap();
    };
    is_seen("replaced", replaced, Some("another")).await;
    let folder = |shop: &Shop| {
        fs::remove_file(shop.at(FILE)).unwrap();
        fs::create_dir(shop.at(FILE)).unwrap();
    };
    is_seen("a folder", folder, Some(GONE)).await;
    let hidden = |shop: &Shop| fs::rename(shop.at("shop/deep"), shop.at("shop/.deep")).unwrap();
    is_seen("its folder is hidden", hidden, Some(GONE)).await;
    for mode in [0o000, 0o200] {
        let closed = |shop: &Shop| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(shop.at(FILE), mode).unwrap();
        };
        // Root can read the file anyway.
        is_seen("may not be read", closed, None).await;
    }
}

#[tokio::test]
async fn a_kept_file_is_never_served_through_a_link_out_of_the_folder() {
    let moved = |shop: &Shop| {
        fs::rename(shop.at(FILE), shop.at("outside.txt")).unwrap();
        symlink(shop.at("outside.txt"), shop.at(FILE)).unwrap();
    };
    is_seen("the file is outside, with a link to it", moved, Some(GONE)).await;
    // These changes do not touch the file itself: all its attributes stay the same.
    for folder in ["shop/deep/deeper", "shop/deep", "shop"] {
        let moved = |shop: &Shop| {
            fs::rename(shop.at(folder), shop.at("outside")).unwrap();
            symlink(shop.at("outside"), shop.at(folder)).unwrap();
        };
        is_seen("a folder is outside, with a link to it", moved, Some(GONE)).await;
    }
    let hidden = |shop: &Shop| {
        fs::rename(shop.at("shop/deep"), shop.at("shop/.deep")).unwrap();
        symlink(shop.at("shop/.deep"), shop.at("shop/deep")).unwrap();
    };
    is_seen(
        "its folder is hidden, with a link to it",
        hidden,
        Some(GONE),
    )
    .await;
    let inside = |shop: &Shop| {
        fs::rename(shop.at("shop/deep"), shop.at("shop/new")).unwrap();
        symlink(shop.at("shop/new"), shop.at("shop/deep")).unwrap();
    };
    is_seen(
        "its folder has another name, with a link to it",
        inside,
        Some("as it was"),
    )
    .await;
    let secret = |shop: &Shop| {
        fs::remove_file(shop.at(FILE)).unwrap();
        fs::hard_link(shop.at("secret.key"), shop.at(FILE)).unwrap();
    };
    is_seen("a secret", secret, Some(GONE)).await;
    let made_secret = |shop: &Shop| {
        fs::remove_file(shop.at("secret.key")).unwrap();
        fs::hard_link(shop.at(FILE), shop.at("secret.key")).unwrap();
    };
    is_seen("made a secret", made_secret, Some(GONE)).await;
}

#[tokio::test]
async fn a_file_behind_a_link_is_checked_in_full_each_time() {
    let shop = Shop::open();
    shop.write(FILE, "a page");
    shop.write("outside.txt", "outside");
    symlink("deep/deeper/page.txt", shop.at("shop/link.txt")).unwrap();
    let folder = shop.folder().canonicalize().unwrap();
    assert_eq!(shop.read(&folder, "/link.txt").await, "a page");
    assert!(shop.files.memory.paths().is_empty());
    fs::remove_file(shop.at("shop/link.txt")).unwrap();
    symlink("../outside.txt", shop.at("shop/link.txt")).unwrap();
    assert_eq!(shop.read(&folder, "/link.txt").await, GONE);
}

#[tokio::test]
async fn a_small_file_is_kept_once_it_has_settled() {
    let shop = Shop::open();
    let folder = shop.folder().canonicalize().unwrap();
    let files = Files::new(&shop.files.secrets);
    shop.write(FILE, "a page");
    assert_eq!(read(&files, &folder, PATH).await, "a page");
    // The file changed a moment ago: its headers are kept, its content is not.
    let known = files.memory.last(&shop.at(FILE)).unwrap();
    assert!(known.content.is_none());
    let large = "x".repeat(usize::try_from(CONTENT_BYTES_MAX).unwrap() + 1);
    for (text, is_kept) in [(&*large, false), (&large[1..], true), ("", true)] {
        shop.write(FILE, text);
        assert_eq!(shop.read(&folder, PATH).await, text);
        let known = shop.files.memory.last(&shop.at(FILE)).unwrap();
        assert_eq!(known.content.is_some(), is_kept, "{}", text.len());
    }
}

#[tokio::test]
async fn an_index_is_kept_under_the_name_of_the_file() {
    let shop = Shop::open();
    shop.write("shop/deep/index.html", "an index");
    let folder = shop.folder().canonicalize().unwrap();
    for path in ["/deep/", "/deep/index.html"] {
        assert_eq!(shop.read(&folder, path).await, "an index");
    }
    assert_eq!(shop.files.memory.paths(), [shop.at("shop/deep/index.html")]);
    let folder_itself = "the URL of a folder must end with a slash";
    assert_eq!(shop.read(&folder, "/deep").await, folder_itself);
    fs::remove_file(shop.at("shop/deep/index.html")).unwrap();
    assert_eq!(shop.read(&folder, "/deep").await, GONE);
    assert_eq!(shop.read(&folder, "/deep/").await, GONE);
}

#[tokio::test]
async fn dates_before_1970_are_served() {
    let shop = Shop::open();
    shop.write(FILE, "an old page");
    let file = File::options().write(true).open(shop.at(FILE)).unwrap();
    let old = SystemTime::UNIX_EPOCH - Duration::from_secs(86_400);
    file.set_modified(old).unwrap();
    let folder = shop.folder().canonicalize().unwrap();
    for _ in 0..2 {
        assert_eq!(shop.read(&folder, PATH).await, "an old page");
    }
}
