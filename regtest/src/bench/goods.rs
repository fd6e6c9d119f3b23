//! The files and the upstream that the benchmark serves: under a sold route, under a free route and from nginx.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use regtest::folder;
use tempfile::TempDir;

use super::upstream::Upstream;

/// The one service: one price, one kind of token for everything.
pub(super) const SERVICE: &str = "bench";
/// The paths of a 10 KB file. The merchant's two paths have the same length.
pub(super) const PAGE: Paths = Paths {
    sold: "/sold/files/page.html",
    open: "/open/files/page.html",
    nginx: "/files/page.html",
};
/// The paths of a 20-byte file.
pub(super) const SMALL: Paths = Paths {
    sold: "/sold/files/small.txt",
    open: "/open/files/small.txt",
    nginx: "/files/small.txt",
};
/// The paths of an upstream that answers with 1 KB.
pub(super) const UPSTREAM: Paths = Paths {
    sold: "/sold/upstream/item",
    open: "/open/upstream/item",
    nginx: "/upstream/item",
};

/// 10 KB.
const PAGE_BYTES: usize = 10 * 1024;
/// 20 bytes.
const SMALL_TEXT: &str = "twenty bytes of text";

/// One resource: two paths at the merchant and one at nginx.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paths {
    /// Where it is sold.
    pub(super) sold: &'static str,
    /// Where it is free.
    pub(super) open: &'static str,
    /// The path at nginx.
    pub(super) nginx: &'static str,
}

/// The folder with the files, and the upstream.
#[derive(Debug)]
pub(super) struct Goods {
    /// The server behind the upstream's routes.
    upstream: Upstream,
    /// The nginx binary to compare with.
    nginx_exe: PathBuf,
    /// Removed last.
    dir: TempDir,
}

impl Goods {
    /// Writes the files and starts the upstream.
    pub(super) fn open(nginx_exe: PathBuf) -> Result<Self> {
        let dir = folder::temporary()?;
        let files = dir.path().join("files");
        fs::create_dir(&files)
            .and_then(|()| fs::write(files.join("page.html"), "x".repeat(PAGE_BYTES)))
            .and_then(|()| fs::write(files.join("small.txt"), SMALL_TEXT))
            .with_context(|| format!("failed to write into {}", files.display()))?;
        Ok(Self {
            upstream: Upstream::start()?,
            nginx_exe,
            dir,
        })
    }

    /// Host and port of the upstream server.
    pub(super) fn upstream_address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// The nginx binary to compare with.
    pub(super) fn nginx_exe(&self) -> &Path {
        &self.nginx_exe
    }

    /// A folder of the run for whatever a measurement has to write.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file for another program into that folder.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.dir().join(name);
        fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))?;
        Ok(file)
    }

    /// TOML text of the routes. Grants are the default: any number of requests for a day. They are counted all the same.
    pub(super) fn routes(&self) -> String {
        let upstream = self.upstream.url();
        format!(
            r#"[[route]]
path = "/sold/files/*"
service = "{SERVICE}"
price = "10 sat"
files = "files"

[[route]]
path = "/open/files/*"
access = "free"
files = "files"
overlap = "allowed"

[[route]]
path = "/sold/upstream/*"
service = "{SERVICE}"
price = "10 sat"
upstream = "{upstream}"

[[route]]
path = "/open/upstream/*"
access = "free"
upstream = "{upstream}"
overlap = "allowed"
"#
        )
    }
}
