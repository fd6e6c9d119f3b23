//! Commands that hear nothing, or nothing good, from who listens where the program should: what they say of it, and what they
//! do not give away.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tollhouse::account::store::DataLock;
use tollhouse::base::secret_file;

use crate::program::tollhouse;

/// What the operator's token of these tests is.
const TOKEN: &str = "5e5e5e5e5e5e5e5e";

/// The id of a node.
const NOBODY: &str = "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619";

/// Somebody who listens where the program should, reads what is asked, says this and hangs up.
struct Stranger {
    address: SocketAddr,
    /// How often somebody brought the token.
    given: Arc<AtomicUsize>,
}

impl Stranger {
    fn who_says(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let given = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&given);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                hears_and_says(stream.unwrap(), &answer, &counted);
            }
        });
        Self { address, given }
    }

    /// With this body as its answer.
    fn who_answers(status: &str, body: &str) -> Self {
        let length = body.len();
        Self::who_says(format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
    }
}

fn hears_and_says(mut stream: TcpStream, answer: &str, given: &AtomicUsize) {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while !is_whole(&heard) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(bytes) => heard.extend_from_slice(&buffer[..bytes]),
        }
    }
    if String::from_utf8_lossy(&heard).contains(TOKEN) {
        given.fetch_add(1, Ordering::Relaxed);
    }
    // Who asks may have enough.
    let _ = stream.write_all(answer.as_bytes());
}

/// Whether all of a request was heard. Answered before that, it would be broken off, and the answer lost.
fn is_whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard).to_lowercase();
    let has_body = text.contains("content-length: ") && !text.contains("content-length: 0\r\n");
    text.ends_with(if has_body { "}" } else { "\r\n\r\n" })
}

/// A folder with settings and the token, of a program that would listen there.
struct House {
    dir: tempfile::TempDir,
    url: String,
}

impl House {
    fn at(address: SocketAddr) -> Self {
        let dir = regtest::folder::temporary().unwrap();
        let data = dir.path().join("tollhouse-data");
        fs::create_dir(&data).unwrap();
        secret_file::write_new(&data.join("admin.token"), TOKEN).unwrap();
        let settings = format!(
            "node.network = \"regtest\"\nnode.chain.esplora = \"http://127.0.0.1:1\"\nadmin.listen = \"{address}\"\n\
             [[route]]\npath = \"/*\"\naccess = \"free\"\nupstream = \"http://127.0.0.1:1\"\n"
        );
        fs::write(dir.path().join("tollhouse.toml"), settings).unwrap();
        let url = format!("http://{address}");
        Self { dir, url }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = tollhouse(self.dir.path());
        command.args(arguments).output().unwrap()
    }

    /// Runs a command by the URL and the token's file; its exit code and what it says to a person.
    fn asks(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let by = [
            "--url",
            &self.url,
            "--token-file",
            "tollhouse-data/admin.token",
        ];
        said(&self.run(&[arguments, &by].concat()))
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code(), said)
}

#[test]
fn what_was_sent_and_not_answered_is_not_known_and_only_a_question_is_asked_again() {
    for stranger in [
        Stranger::who_says(String::new()),
        Stranger::who_says("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned()),
    ] {
        let house = House::at(stranger.address);
        for pays in [
            &["pay", "lnbc1"][..],
            &["send", "bc1q", "50000 sat"],
            &["peers", "disconnect", NOBODY],
        ] {
            let (code, said) = house.asks(pays);
            assert_eq!(code, Some(5), "{pays:?}: {said}");
            assert!(said.contains("look whether it was done"), "{said}");
        }
        let (code, said) = house.asks(&["status"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("ask again"), "{said}");
    }
    // Nobody there: nothing was sent.
    let nobody = "127.0.0.1:1".parse().unwrap();
    let (code, said) = House::at(nobody).asks(&["pay", "lnbc1"]);
    assert_eq!(code, Some(3), "{said}");
}

#[test]
fn the_token_goes_to_nobody_while_the_program_is_not_running() {
    let stranger = Stranger::who_answers("200 OK", "{}");
    let house = House::at(stranger.address);
    for arguments in [&["status"][..], &["pay", "lnbc1"]] {
        let (code, said) = said(&house.run(arguments));
        assert_eq!(code, Some(3), "{arguments:?}: {said}");
        assert!(said.contains("is the program running?"), "{said}");
    }
    // It tries the port, and no more.
    house.run(&["doctor"]);
    // While it runs it is asked. (One after the other: what came before was heard by then.)
    let lock = DataLock::acquire(&house.dir.path().join("tollhouse-data")).unwrap();
    let (code, said) = said(&house.run(&["balance"]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(stranger.given.load(Ordering::Relaxed), 1);
    drop(lock);
}

#[test]
fn the_token_goes_over_no_network_in_the_clear() {
    let house = House::at("127.0.0.1:1".parse().unwrap());
    for url in [
        "http://192.0.2.1:8403",
        "http://example.org",
        "http://127.0.0.1.example.org:8403",
    ] {
        let by = [
            "status",
            "--url",
            url,
            "--token-file",
            "tollhouse-data/admin.token",
        ];
        let (code, said) = said(&house.run(&by));
        assert_eq!(code, Some(2), "{url}: {said}");
        assert!(said.contains("in the clear"), "{url}: {said}");
    }
}

#[test]
fn the_exit_code_of_a_backup_says_whether_there_may_be_one() {
    for (answer, code) in [
        (String::new(), 5),
        ("HTTP/1.1 409 Conflict\r\n\r\n".to_owned(), 4),
    ] {
        let stranger = Stranger::who_says(answer);
        let house = House::at(stranger.address);
        let _lock = DataLock::acquire(&house.dir.path().join("tollhouse-data")).unwrap();
        let made = house.run(&["backup", "create", "--config", "tollhouse.toml"]);
        let (ended, said) = said(&made);
        assert_eq!(ended, Some(code), "{said}");
    }
}

#[test]
fn what_is_said_from_elsewhere_gives_a_terminal_no_orders() {
    let orders = [
        '\u{1b}', '\u{7}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}',
    ];
    let evil: String = orders.iter().collect();
    let refusing = serde_json::json!({ "error": evil }).to_string();
    let stranger = Stranger::who_answers("500 Internal Server Error", &refusing);
    let (code, said) = House::at(stranger.address).asks(&["pay", "lnbc1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains(orders), "{said:?}");
    assert!(said.contains("\\u{1b}"), "{said}");

    let answering = serde_json::json!({ "order_id": evil }).to_string();
    let stranger = Stranger::who_answers("200 OK", &answering);
    let house = House::at(stranger.address);
    let by = [
        "liquidity",
        "order-status",
        "o",
        "--json",
        "--url",
        &house.url,
    ];
    let shown = house.run(&[&by[..], &["--token-file", "tollhouse-data/admin.token"]].concat());
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(!shown.contains(orders), "{shown:?}");
    let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(read["order_id"], *evil);
}
