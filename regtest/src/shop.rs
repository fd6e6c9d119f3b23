//! The shop of the demonstration: what is sold when nobody says otherwise.

use std::fs;

use anyhow::{Context, Result};
use regtest::folder;
use tempfile::TempDir;

/// The article's name below `/articles/`.
pub(crate) const ARTICLE: &str = "one-request-one-payment.html";
/// The free list's name below `/open/`.
pub(crate) const MENU: &str = "menu.txt";
/// Requests that one payment for `/chain/*` buys.
pub(crate) const CHAIN_REQUESTS: u32 = 2;

const ARTICLE_TEXT: &str = include_str!("../articles/one-request-one-payment.html");
const MENU_TEXT: &str = include_str!("../articles/menu.txt");

/// A folder with something to sell, and its price list.
#[derive(Debug)]
pub(crate) struct Shop {
    /// TOML text of `[[route]]` tables; the folders in it are relative to the folder below.
    pub(crate) routes: String,
    /// Removed when the shop is dropped.
    pub(crate) dir: TempDir,
}

impl Shop {
    /// Writes the files that are sold.
    pub(crate) fn open() -> Result<Self> {
        let dir = folder::temporary()?;
        for (folder, file, text) in [
            ("articles", ARTICLE, ARTICLE_TEXT),
            ("open", MENU, MENU_TEXT),
        ] {
            let folder = dir.path().join(folder);
            fs::create_dir(&folder)
                .and_then(|()| fs::write(folder.join(file), text))
                .with_context(|| format!("failed to write {file} into {}", folder.display()))?;
        }
        Ok(Self {
            routes: routes(),
            dir,
        })
    }
}

fn routes() -> String {
    format!(
        r#"[[route]]
path = "/chain/*"
methods = ["GET", "HEAD"]
service = "chain"
price = "10 sat"
grant = {{ requests = {CHAIN_REQUESTS}, valid = "1h" }}
upstream = "{{esplora}}"
strip_prefix = true

[[route]]
path = "/articles/*"
service = "articles"
price = "21 sat"
grant = {{ requests = 100, valid = "24h" }}
files = "articles"

[[route]]
path = "/open/*"
access = "free"
files = "open"
"#
    )
}
