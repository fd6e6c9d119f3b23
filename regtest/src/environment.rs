//! The two environment variables of the harness, read here and nowhere else.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The variable that names the `bitcoind` to start; `scripts/regtest` and `scripts/test` set it.
pub const BITCOIND_EXE: &str = "BITCOIND_EXE";
/// The variable that names the `tollhouse` program to drive. It is never handed to that program, which refuses unknown
/// variables of its own prefix.
pub const TOLLHOUSE_EXE: &str = "TOLLHOUSE_EXE";

/// The `bitcoind` to start: what `BITCOIND_EXE` names, else the one on `PATH`.
///
/// # Errors
/// When there is none.
pub fn bitcoind_exe() -> Result<PathBuf> {
    if let Some(exe) = std::env::var_os(BITCOIND_EXE) {
        return existing(PathBuf::from(exe), BITCOIND_EXE);
    }
    on_path("bitcoind").context(
        "no bitcoind: run this through `scripts/regtest …` or `scripts/test`, which find or fetch one, \
         or set BITCOIND_EXE to a bitcoind 29 or newer",
    )
}

/// The `tollhouse` program to drive: what `TOLLHOUSE_EXE` names, else the one beside the running program.
///
/// # Errors
/// When there is none.
pub fn tollhouse_exe() -> Result<PathBuf> {
    if let Some(exe) = std::env::var_os(TOLLHOUSE_EXE) {
        return existing(PathBuf::from(exe), TOLLHOUSE_EXE);
    }
    let own = std::env::current_exe().context("failed to find the running program")?;
    let exe = own.with_file_name("tollhouse");
    if !exe.is_file() {
        bail!(
            "no tollhouse program at {}: build it, or set {TOLLHOUSE_EXE}",
            exe.display()
        );
    }
    Ok(exe)
}

/// The first file of that name in a folder of `PATH`.
#[must_use]
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|exe| exe.is_file())
}

fn existing(exe: PathBuf, variable: &str) -> Result<PathBuf> {
    if !Path::new(&exe).is_file() {
        bail!("{variable} names {}, which is no file", exe.display());
    }
    // A child may be started in another folder than ours.
    std::path::absolute(&exe).with_context(|| format!("failed to make {} absolute", exe.display()))
}
