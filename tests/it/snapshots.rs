//! What people read, word for word: help, a challenge, and what `check`, `status` and `doctor` show.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tollhouse::base::clock::Clock;

use crate::support::Shop;
use crate::support::server::Server;
use crate::support::snapshot::snapshot;

/// Settings with a route of each kind.
const GOOD: &str = r#"
data_dir = "data"
node.network = "regtest"
node.chain.esplora = "http://127.0.0.1:1"

[[route]]
path = "/articles/*"
service = "articles"
price = "21 sat"
grant = { requests = 5, valid = "2h" }
files = "pages"

[[route]]
path = "/open"
access = "free"
upstream = "http://127.0.0.1:2"
"#;

/// Settings with mistakes in several tables.
const BAD: &str = r#"
http.listen = "somewhere"
node.network = "regnet"
node.chain.esplora = "ftp://127.0.0.1"
l402.invoice_expiry = "soon"

[[route]]
path = "articles/../*"
service = "two words"
price = "0 sat"
files = "missing"

[[route]]
path = "/free"
access = "free"
price = "1 sat"
"#;

/// A folder with these settings and something to sell.
fn folder(settings: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("pages")).unwrap();
    std::fs::write(dir.path().join("tollhouse.toml"), settings).unwrap();
    tollhouse::base::secret_file::write_new(&dir.path().join("token"), "0123").unwrap();
    dir
}

fn tollhouse() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
    command
        .env_remove(regtest::environment::TOLLHOUSE_EXE)
        .stdin(Stdio::null());
    command
}

/// All that a command says in this folder, and its exit code. The folder's own path is `[folder]`.
fn said(command: &mut Command, folder: &Path) -> String {
    let output = command.current_dir(folder).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap().replace("\r\n", "\n");
    let canonical = folder.canonicalize().unwrap();
    let said = said.replace(&*canonical.to_string_lossy(), "[folder]");
    format!("{said}\nexit code {}\n", output.status.code().unwrap())
}

/// What a command says to a terminal about a program that answers with this status.
fn shown(command: &str, status: &Server, folder: &Path) -> String {
    let line = format!(
        "'{}' {command} --url http://{} --token-file token",
        env!("CARGO_BIN_EXE_tollhouse"),
        status.address
    );
    let mut terminal = Command::new("script");
    terminal
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env_remove(regtest::environment::TOLLHOUSE_EXE)
        .stdin(Stdio::null());
    said(&mut terminal, folder).replace(&status.address.to_string(), "[address]")
}

/// Each command below this one, as its help lists them.
fn help_of(command: &[&str], all: &mut String) {
    let output = tollhouse().args(command).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let name = [&["tollhouse"], command].concat().join(" ");
    all.push_str(&format!("$ {name} --help\n{}\n\n\n", help.trim_end()));
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let list = list.lines().take_while(|line| !line.is_empty());
    for name in list.filter_map(|line| line.split_whitespace().next()) {
        if name != "help" {
            help_of(&[command, &[name]].concat(), all);
        }
    }
}

#[test]
fn help_of_each_command() {
    let mut all = String::new();
    help_of(&[], &mut all);
    snapshot("help", &all);
}

#[tokio::test]
async fn a_challenge() {
    let shop = Shop::open().await;
    let answer = shop.get("/articles/page.txt").await;
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
    for (key, value) in body.as_object_mut().unwrap() {
        if ["invoice", "macaroon", "payment_hash", "token"].contains(&key.as_str()) {
            *value = format!("[{key}]").into();
        }
    }
    let text = serde_json::to_string_pretty(&body).unwrap();
    snapshot("challenge", &format!("{}\n{text}", answer.status));
}

#[test]
fn check_of_the_defaults() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut check = tollhouse();
    check.args(["check", "--config", "config/default.toml"]);
    snapshot("check-defaults", &said(&mut check, repository));
}

#[test]
fn check_of_good_and_bad_settings() {
    let unknown_key = format!("http.lissten = \"127.0.0.1:80\"\n{GOOD}");
    for (name, settings) in [
        ("check-good", GOOD),
        ("check-bad", BAD),
        ("check-unknown-key", &unknown_key),
    ] {
        let dir = folder(settings);
        let mut check = tollhouse();
        check.args(["check", "--config", "tollhouse.toml"]);
        snapshot(name, &said(&mut check, dir.path()));
    }
}

/// A program that answers with a fixed status. In the file, a time is a number below -60: so many seconds before now.
async fn program() -> Server {
    let mut status: Value = serde_json::from_str(include_str!("../fixtures/status.json")).unwrap();
    let now_secs = Clock::system().unix_secs();
    set_times(&mut status, i64::try_from(now_secs).unwrap());
    let body = status.to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
    Server::saying(format!(
        "{head}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await
}

fn set_times(value: &mut Value, now_secs: i64) {
    match value {
        Value::Number(number) => {
            if let Some(before) = number.as_i64().filter(|number| *number < -60) {
                *value = (now_secs + before).into();
            }
        }
        Value::Array(values) => {
            for value in values {
                set_times(value, now_secs);
            }
        }
        Value::Object(values) => {
            for value in values.values_mut() {
                set_times(value, now_secs);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_a_program_that_sells() {
    let program = program().await;
    let dir = folder(GOOD);
    snapshot("status", &shown("status", &program, dir.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_about_a_program_that_sells() {
    let program = program().await;
    let settings = format!("http.listen = \"{}\"\n{GOOD}", program.address);
    let dir = folder(&settings);
    let said = shown("doctor", &program, dir.path());
    let lines = said.lines().map(|line| match line.split_once(" MB free") {
        Some((_, rest)) if line.contains(" disk ") => {
            format!("ok    disk            [space] MB free{rest}")
        }
        _ => line.replace(env!("CARGO_PKG_VERSION"), "[version]"),
    });
    snapshot("doctor", &lines.collect::<Vec<_>>().join("\n"));
}
