//! A client connection that can be ended after another part of the program has taken it over. hyper
//! hands an upgraded connection over to a tunnel. The connection keeps its place until the tunnel
//! drops it. When the grace period ends, it is cut off like all others.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::seats::Guest;

/// A stream that its leash can end.
#[derive(Debug)]
pub(crate) struct Leashed<T> {
    stream: T,
    /// The connection that is told whether bytes wait for the client.
    guest: Guest,
    /// Closes when the stream has to end.
    cut: oneshot::Receiver<Infallible>,
    /// Tells the leash, when dropped, that the stream is gone.
    _gone: oneshot::Sender<Infallible>,
}

/// The handle of a leashed stream. Dropping it ends the stream.
#[derive(Debug)]
#[must_use = "dropping it ends the stream"]
pub(crate) struct Leash {
    _cut: oneshot::Sender<Infallible>,
    gone: oneshot::Receiver<Infallible>,
}

impl Leash {
    /// Waits until the stream has been dropped.
    pub(crate) async fn is_loose(&mut self) {
        // Nothing is ever sent, so this ends when the sender is dropped.
        let _ = (&mut self.gone).await;
    }
}

/// Creates a stream with a leash.
pub(crate) fn leash<T>(stream: T, guest: Guest) -> (Leashed<T>, Leash) {
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
    /// Returns the stream and ends its leash.
    pub(crate) fn into_inner(self) -> T {
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
        // The owner of the stream waits in a read most of the time, so the end is reported here.
        // Writes have a time limit of their own.
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
