//! A connection to a server that records when it was opened, and whether it closed before an answer
//! began.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A TCP connection, with or without TLS.
type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// The recorded state of a connection. The client returns it with every error.
#[derive(Clone, Debug)]
pub(super) struct Line(Arc<Known>);

#[derive(Debug)]
struct Known {
    pub(super) opened: Instant,
    /// Whether bytes have arrived since we last sent any.
    pub(super) is_answering: AtomicBool,
    /// Whether the server has closed the connection.
    pub(super) has_ended: AtomicBool,
}

impl Line {
    /// The time when the connection was opened.
    pub(super) fn opened(&self) -> Instant {
        self.0.opened
    }

    /// Whether the server has closed the connection.
    pub(super) fn has_ended(&self) -> bool {
        self.0.has_ended.load(Ordering::Relaxed)
    }

    /// Whether bytes have arrived since we last sent any.
    pub(super) fn is_answering(&self) -> bool {
        self.0.is_answering.load(Ordering::Relaxed)
    }

    fn note(&self, is_answering: bool) {
        // The flag changes only twice per request, while this code runs far more often.
        if self.0.is_answering.load(Ordering::Relaxed) != is_answering {
            self.0.is_answering.store(is_answering, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

/// A connection that records its state.
#[derive(Debug)]
pub(super) struct Told {
    inner: TokioIo<Stream>,
    line: Line,
}

impl Told {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            inner: TokioIo::new(stream),
            line: Line(Arc::new(Known {
                opened: Instant::now(),
                is_answering: AtomicBool::new(false),
                has_ended: AtomicBool::new(false),
            })),
        }
    }

    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) if *bytes > 0 => self.line.note(false),
            Poll::Ready(Err(_)) => self.line.end(),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        written
    }
}

impl Connection for Told {
    fn connected(&self) -> Connected {
        self.inner.inner().connected().extra(self.line.clone())
    }
}

impl AsyncRead for Told {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        match &read {
            Poll::Ready(Ok(())) if buffer.remaining() < room => self.line.note(true),
            Poll::Ready(Ok(())) if room == 0 => {}
            Poll::Ready(_) => self.line.end(),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Told {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
