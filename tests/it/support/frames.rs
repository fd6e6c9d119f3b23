//! HTTP/2 by hand, frame by frame: what no client library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::DEADLINE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames (RFC 9113, section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `SETTINGS_INITIAL_WINDOW_SIZE`
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame that was read.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A frame to write.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Headers in the one form of HPACK that needs no table: literals, never indexed.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(0x10);
        for text in [name, value] {
            text_into(&mut bytes, text.as_bytes());
        }
    }
    bytes
}

/// RFC 7541, section 5.1, with a prefix of 7 bits.
fn text_into(bytes: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 0x7f {
        bytes.push(u8::try_from(text.len()).unwrap());
    } else {
        bytes.push(0x7f);
        let mut rest = text.len() - 0x7f;
        while rest >= 0x80 {
            bytes.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
            rest /= 0x80;
        }
        bytes.push(u8::try_from(rest).unwrap());
    }
    bytes.extend(text);
}

/// The beginning of a request without a body.
pub(crate) fn get(path: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "shop"),
        (":path", path),
    ])
}

pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A connection that has said hello, with these settings.
pub(crate) async fn connect(address: SocketAddr, settings: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
    stream.write_all(&hello).await.unwrap();
    stream
}

/// Reads one frame; `None` at the end.
pub(crate) async fn read(stream: &mut TcpStream) -> Option<Frame> {
    let read = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    };
    timeout(DEADLINE, read).await.expect("a frame in time")
}

/// Reads until a frame of this kind has come, or the end.
pub(crate) async fn until(stream: &mut TcpStream, kind: u8) -> Option<Frame> {
    loop {
        let frame = read(stream).await?;
        if frame.kind == kind {
            return Some(frame);
        }
    }
}
