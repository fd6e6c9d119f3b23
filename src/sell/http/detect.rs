//! Detects the HTTP version that a client speaks from its first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// The start of every HTTP/2 connection (RFC 9113, section 3.4). An HTTP/1.1 request cannot start
/// like this.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The two protocols that one port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// The size of the first read. Most requests fit into it, so hyper sees at once whether one is
/// malformed.
const START_BYTES: usize = 4 * 1024;

/// The first bytes of a connection, which reveal its protocol.
#[derive(Debug, Default)]
pub(crate) struct Start {
    bytes: BytesMut,
}

impl Start {
    /// Reads until the protocol is known. If this is cancelled, the bytes read so far are kept.
    pub(crate) async fn read<T: AsyncRead + Unpin>(
        &mut self,
        stream: &mut T,
    ) -> io::Result<Protocol> {
        self.bytes.reserve(START_BYTES);
        loop {
            let read = stream.read_buf(&mut self.bytes).await?;
            if self.bytes.starts_with(PREFACE) {
                return Ok(Protocol::Http2);
            }
            if read == 0 || !PREFACE.starts_with(&self.bytes) {
                return Ok(Protocol::Http1);
            }
        }
    }

    /// Whether the client has sent nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Puts the bytes back in front of the stream.
    pub(crate) fn rewind<T>(self, stream: T) -> Rewound<T> {
        Rewound::new(self.bytes.freeze(), stream)
    }
}

/// A stream with its first bytes put back.
#[derive(Debug)]
pub(crate) struct Rewound<T> {
    start: Bytes,
    stream: T,
}

impl<T> Rewound<T> {
    pub(crate) fn new(start: Bytes, stream: T) -> Self {
        Self { start, stream }
    }

    /// The inner stream.
    pub(crate) fn inner(&self) -> &T {
        &self.stream
    }

    /// Returns the inner stream, and drops those first bytes that were not read again.
    pub(crate) fn into_inner(self) -> T {
        self.stream
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.start.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let taken = self.start.len().min(buffer.remaining());
        buffer.put_slice(&self.start[..taken]);
        self.start.advance(taken);
        if self.start.is_empty() {
            // An empty slice would keep the whole buffer allocated.
            self.start = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(sent: &[u8]) -> (Protocol, Vec<u8>) {
        let mut stream = sent;
        let mut start = Start::default();
        let protocol = start.read(&mut stream).await.unwrap();
        let mut all = Vec::new();
        start.rewind(stream).read_to_end(&mut all).await.unwrap();
        (protocol, all)
    }

    #[tokio::test]
    async fn the_preface_tells_and_nothing_is_lost() {
        let long = [&PREFACE[..], b"settings and more"].concat();
        for (sent, protocol) in [
            (&long[..], Protocol::Http2),
            (PREFACE, Protocol::Http2),
            (&PREFACE[..23], Protocol::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", Protocol::Http1),
            (b"PRI /x HTTP/1.1\r\n\r\n", Protocol::Http1),
            (
                b"GET /a/long/path HTTP/1.1\r\nHost: x\r\n\r\n",
                Protocol::Http1,
            ),
            (b"", Protocol::Http1),
        ] {
            assert_eq!(told(sent).await, (protocol, sent.to_vec()));
        }
    }
}
