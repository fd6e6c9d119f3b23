//! A client's connection that is handed out and still ends when we say so. An upgraded connection leaves hyper for a tunnel
//! somewhere else in the program: its place among the connections stays taken until the tunnel lets go of it, and the end of
//! the program's grace cuts it off like every other.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::seats::Guest;

/// A stream on a leash.
#[derive(Debug)]
pub(super) struct Leashed<T> {
    stream: T,
    /// The connection, which learns whether bytes wait for the client.
    guest: Guest,
    /// Closed when the stream is to end.
    cut: oneshot::Receiver<Infallible>,
    /// Dropped with the stream.
    _gone: oneshot::Sender<Infallible>,
}

/// The other end: dropped, it ends the stream.
#[derive(Debug)]
#[must_use = "dropping it ends the stream"]
pub(super) struct Leash {
    _cut: oneshot::Sender<Infallible>,
    gone: oneshot::Receiver<Infallible>,
}

impl Leash {
    /// Waits until nobody has the stream any more.
    pub(super) async fn is_loose(&mut self) {
        // Nothing is ever sent, so it ends when the sender is dropped.
        let _ = (&mut self.gone).await;
    }
}

/// Puts a stream on a leash.
pub(super) fn leash<T>(stream: T, guest: Guest) -> (Leashed<T>, Leash) {
    let (cut_sender, cut) = oneshot::channel();
    let (gone_sender, gone) = oneshot::channel();
    let leashed = Leashed {
        stream,
        guest,
        cut,
        _gone: gone_sender,
    };
    let leash = Leash {
        _cut: cut_sender,
        gone,
    };
    (leashed, leash)
}

impl<T> Leashed<T> {
    /// The stream, for good.
    pub(super) fn into_inner(self) -> T {
        self.stream
    }

    fn note<R>(&self, written: Poll<R>) -> Poll<R> {
        self.guest.note_writing(written.is_pending());
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Leashed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever has it waits for its bytes most of the time, so this is where it hears of the end; what is written has a
        // limit of its own.
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => Pin::new(&mut self.cut)
                .poll(cx)
                .map(|_| Err(io::ErrorKind::ConnectionAborted.into())),
            read @ Poll::Ready(_) => read,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Leashed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
