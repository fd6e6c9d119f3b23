//! Other users of this machine, who can find the relay's port and not its path.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::oracle::Oracle;
use super::{Asked, TIP};

/// More than the relay serves at once.
const CROWD: usize = 40;

/// Where the relay listens, and the path below which it answers.
fn place(asked: &Asked) -> (String, String) {
    let rest = asked.relay.url().strip_prefix("http://").unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    (address.to_owned(), format!("/{path}"))
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_keeps_the_node_from_nothing() {
    let oracle = Oracle::start(110).await;
    let asked = Asked::before(&[&oracle]).await;
    let (address, _) = place(&asked);
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut stranger = TcpStream::connect(&*address).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a request.
            stranger.write_all(b"GET / HT").await.unwrap();
        }
        crowd.push(stranger);
    }
    let waiting = timeout(Duration::from_secs(3), asked.good(TIP));
    waiting.await.expect("the node is answered at once");
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_said_is_closed() {
    let oracle = Oracle::start(110).await;
    let asked = Asked::before(&[&oracle]).await;
    let (address, path) = place(&asked);
    let mut silent = TcpStream::connect(&*address).await.unwrap();
    // Also one that has asked before.
    let mut known = TcpStream::connect(&*address).await.unwrap();
    let request = format!("GET {path}{TIP} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    known.write_all(request.as_bytes()).await.unwrap();
    for connection in [&mut silent, &mut known] {
        let mut heard = Vec::new();
        let closed = timeout(Duration::from_secs(15), connection.read_to_end(&mut heard));
        closed.await.expect("it is closed").unwrap();
    }
}
