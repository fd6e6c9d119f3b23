//! Bytes to the server and bytes back, with no client in between that would tidy them up.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::support::DEADLINE;

/// An answer, as it was on the wire.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case, in the order of their lines.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The values of a header's lines, in their order.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.iter().filter(|(known, _)| known == name);
        lines.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Opens a connection from this address.
pub(crate) async fn connect_from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(format!("{address}:0").parse().unwrap())
        .unwrap();
    socket.connect(to).await.unwrap()
}

/// GET on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await.unwrap()
}

/// Sends these bytes and reads one answer; `None` if the connection ends without one.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses early closes while we still write: its answer is there all the same.
    let _ = stream.write_all(bytes).await;
    reply(&mut stream).await
}

/// Reads one answer to its end.
pub(crate) async fn reply(stream: &mut TcpStream) -> Option<Reply> {
    timeout(DEADLINE, read_reply(stream))
        .await
        .expect("an answer in time")
}

async fn read_reply(stream: &mut TcpStream) -> Option<Reply> {
    let head = head(stream).await?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map(|(_, length)| length.parse().unwrap());
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length, 0);
            stream.read_exact(&mut body).await.ok()?;
        }
        // A reset behind the last byte is an end too.
        None => drop(stream.read_to_end(&mut body).await),
    }
    Some(Reply {
        status,
        headers,
        body,
    })
}

/// Reads up to the empty line behind the headers.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Reads until this text has come.
pub(crate) async fn expect(stream: &mut TcpStream, text: &str) {
    let read = async {
        let mut seen = Vec::new();
        while !seen.ends_with(text.as_bytes()) {
            seen.push(stream.read_u8().await.unwrap());
        }
    };
    timeout(DEADLINE, read).await.expect(text);
}

/// Writes one byte at a time, with a pause in front of each, until all are written or the server has had enough.
pub(crate) async fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    let mut tick = interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for byte in bytes {
        tick.tick().await;
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
    }
}
