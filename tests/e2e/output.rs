//! Commands that fail to write their output: their exit codes, and that none panics. A listener that answers every request with
//! success stands in for the program.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;

use crate::program::tollhouse;

/// Exit codes.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const PENDING: i32 = 5;
const NOT_SHOWN: i32 = 6;

const ID: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const CHANNEL: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

/// A folder with settings, an operator's token and the listener's URL.
struct Setup {
    dir: TempDir,
    url: String,
}

impl Setup {
    fn new() -> Self {
        let dir = regtest::folder::temporary().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("pages")).unwrap();
        fs::write(at("tollhouse.toml"), SETTINGS).unwrap();
        tollhouse::base::secret_file::write_new(&at("token"), "0123").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap());
            }
        });
        Self { dir, url }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command with this standard output.
    fn run(&self, arguments: &[&str], stdout: Stdio) -> Output {
        let mut command = tollhouse(self.dir.path());
        command.args(arguments).stdout(stdout).output().unwrap()
    }

    /// The same for a command that asks the listener.
    fn ask(&self, arguments: &[&str], stdout: Stdio) -> Output {
        let token = self.file("token").display().to_string();
        let asked = ["--url", &self.url, "--token-file", &token];
        self.run(&[arguments, &asked].concat(), stdout)
    }
}

const SETTINGS: &str = r#"
node.network = "regtest"
node.chain.esplora = "http://127.0.0.1:1"
node.liquidity.provider = ""

[[route]]
path = "/pages/*"
service = "pages"
price = "21 sat"
files = "pages"
"#;

/// Reads one request and answers with success.
fn answer(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = r#"{"status":"succeeded","node":{"deposit_address":"bcrt1q"}}"#;
    let (head, length) = ("HTTP/1.1 200 OK\r\nconnection: close", body.len());
    // The client may have closed the connection.
    let _ = write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}");
}

/// A disk without free space.
fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

/// A pipe that its reader has closed.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, what: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what:?}: {said}");
    assert!(!said.contains("panicked"), "{what:?}: {said}");
}

#[test]
fn a_command_that_only_reads_fails_with_one_sentence_if_it_cannot_write() {
    let setup = Setup::new();
    for command in [
        &["status"][..],
        &["balance"],
        &["address"],
        &["payments"],
        &["sales"],
        &["tokens"],
        &["channels", "list"],
        &["peers", "list"],
        &["access", "list"],
        &["liquidity", "terms"],
        &["liquidity", "activations"],
        &["liquidity", "order-status", "one"],
    ] {
        let output = setup.ask(command, full());
        assert_ends(&output, FAILED, command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("failed to write the output"), "{said}");
        let output = setup.ask(command, closed());
        assert_ends(&output, DONE, command);
        assert!(output.stderr.is_empty(), "{command:?}");
    }
    for command in [
        &["check", "--config", "tollhouse.toml"][..],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["--help"],
        &["--version"],
        &["pay", "--help"],
        &["help", "pay"],
    ] {
        assert_ends(&setup.run(command, full()), FAILED, command);
        let output = setup.run(command, closed());
        assert_ends(&output, DONE, command);
        assert!(output.stderr.is_empty(), "{command:?}");
    }
}

#[test]
fn a_command_with_an_effect_says_that_it_is_done_if_it_cannot_write() {
    let setup = Setup::new();
    for command in [
        &["send", "bcrt1q", "1000 sat"][..],
        &["pay", "lnbcrt1"],
        &["withdraw"],
        &["invoice", "1000 sat"],
        &["address", "--new"],
        &["reload"],
        &["sync"],
        &["revoke", "00"],
        &["channels", "open", ID, "50000 sat"],
        &["channels", "close", CHANNEL],
        &["channels", "force-close", CHANNEL, "--yes"],
        &["channels", "splice-in", CHANNEL, "50000 sat"],
        &["channels", "splice-out", CHANNEL, "bcrt1q", "50000 sat"],
        &["peers", "connect", ID],
        &["peers", "disconnect", ID],
        &["access", "spend"],
        &["access", "revoke", "00"],
        &["liquidity", "activate", "50000 sat"],
        &["liquidity", "order", "50000 sat"],
        &["backup", "leave"],
    ] {
        let output = setup.ask(command, full());
        assert_ends(&output, NOT_SHOWN, command);
        let said = String::from_utf8(output.stderr).unwrap();
        let last = said.lines().last().unwrap();
        assert!(last.contains("it was done"), "{command:?}: {said}");
        assert_ends(&setup.ask(command, closed()), DONE, command);
    }
}

#[test]
fn init_and_backup_say_what_they_made_if_they_cannot_write() {
    let setup = Setup::new();
    for (stdout, code) in [(full as fn() -> Stdio, NOT_SHOWN), (closed, DONE)] {
        let made = regtest::folder::temporary().unwrap();
        let at = |name: &str| made.path().join(name).display().to_string();
        let (file, data) = (at("made.toml"), at("data"));
        let init = [
            "init",
            "--network",
            "regtest",
            "--esplora",
            "http://127.0.0.1:1",
            "--files",
            "pages",
            "--price",
            "1 sat",
            "--provider",
            "none",
            "--yes",
            "--config",
            &file,
            "--data-dir",
            &data,
        ];
        assert_ends(&setup.run(&init, stdout()), code, &["init"]);
        assert!(Path::new(&file).is_file() && made.path().join("data/seed.words").is_file());
    }
}

#[test]
fn a_pending_payment_keeps_its_exit_code() {
    let setup = Setup::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        // Closes the connection without an answer: the outcome is unknown.
        for stream in listener.incoming() {
            let mut start = [0; 16];
            let _ = stream.unwrap().read(&mut start);
        }
    });
    let setup = Setup { url, ..setup };
    let pay = ["pay", "lnbcrt1"];
    assert_ends(&setup.ask(&pay, full()), PENDING, &pay);
}
