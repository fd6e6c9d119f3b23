//! Tracks the requests of HTTP/2 connections. One connection has many, so only a count shows when
//! it is idle. A client can also stop reading one answer while the connection itself makes
//! progress.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::seats::Held;
use super::slots::{Place, Places};

/// The HTTP/2 requests of a listener.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    places: Places,
    /// How long a client may take no data of an answer.
    timeout: Duration,
    /// How long a client may take no data of an answer that we generate. Shorter, because such
    /// answers are small and often go to clients that have not paid.
    own_timeout: Duration,
    tracker: TaskTracker,
}

impl Streams {
    /// Creates a tracker with these places and limits.
    pub(super) fn new(
        places: Places,
        timeout: Duration,
        own_timeout: Duration,
        tracker: TaskTracker,
    ) -> Self {
        Self {
            places,
            timeout,
            own_timeout: own_timeout.min(timeout),
            tracker,
        }
    }

    /// Creates the tracker for one connection.
    pub(super) fn of_a_connection(&self) -> StreamsOf {
        StreamsOf {
            all: self.clone(),
            running: watch::Sender::new(0),
            begun: Arc::default(),
        }
    }
}

/// The HTTP/2 requests of one connection, and the executor that hyper runs them on.
#[derive(Clone, Debug)]
pub(super) struct StreamsOf {
    all: Streams,
    /// The number of running requests.
    running: watch::Sender<usize>,
    /// The latest request, until hyper runs it. hyper calls the service, and then directly passes
    /// the resulting future to its executor. A lock, because hyper calls both through shared
    /// references.
    begun: Arc<Mutex<Option<Stream>>>,
}

impl StreamsOf {
    /// Begins a request.
    pub(super) fn begin(&self) -> Arc<Progress> {
        self.running.send_modify(|running| *running += 1);
        let progress = Arc::new(Progress::new());
        let stream = Stream {
            progress: Arc::clone(&progress),
            running: self.running.clone(),
        };
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        progress
    }

    /// The listener's places.
    pub(super) fn places(&self) -> &Places {
        &self.all.places
    }

    /// How long a client may take no data of an answer that we generate.
    pub(super) fn own_timeout(&self) -> Duration {
        self.all.own_timeout
    }

    /// Waits until the connection has had no requests for this long.
    pub(super) async fn are_idle(&self, time: Duration) {
        let mut running = self.running.subscribe();
        loop {
            // The sender is part of `self`, so the channel is open.
            let _ = running.wait_for(|running| *running == 0).await;
            if tokio::time::timeout(time, running.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl<F> hyper::rt::Executor<F> for StreamsOf
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, answering: F) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = begun.take() else {
            self.all.tracker.spawn(answering);
            return;
        };
        let timeout = self.all.timeout;
        self.all.tracker.spawn(async move {
            tokio::select! {
                _ = answering => {}
                // Dropping the answer resets its stream.
                () = stream.progress.stalls(timeout) => {
                    tracing::debug!("Gave up on an answer that its client does not take");
                }
            }
        });
    }
}

/// A running request. Dropping it counts the request as ended.
#[derive(Debug)]
struct Stream {
    progress: Arc<Progress>,
    running: watch::Sender<usize>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.running.send_modify(|running| *running -= 1);
    }
}

/// Whether an answer waits for us or for its client.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    /// When data was last offered to the client, in milliseconds after the beginning; 0 while the
    /// client waits for us.
    offered_ms: AtomicU64,
    /// A shorter timeout, which is set at most once. A `std` lock: held to read or set it.
    sooner: OnceLock<Duration>,
    /// Notified when the shorter timeout is set.
    hurried: Notify,
}

impl Progress {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            offered_ms: AtomicU64::new(0),
            sooner: OnceLock::new(),
            hurried: Notify::new(),
        }
    }

    /// Sets a shorter timeout for the client.
    pub(super) fn hurry(&self, timeout: Duration) {
        // This is called once for each answer.
        let _ = self.sooner.set(timeout);
        self.hurried.notify_one();
    }

    fn offer(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.offered_ms.store(now.max(1), Ordering::Relaxed);
    }

    fn take(&self) {
        self.offered_ms.store(0, Ordering::Relaxed);
    }

    /// Waits until the client has taken no data for this long. This can take up to twice as long,
    /// because more frequent checks would slow down every answer.
    async fn stalls(&self, timeout: Duration) {
        loop {
            let timeout = self.sooner.get().map_or(timeout, |sooner| *sooner);
            let offered_ms = self.offered_ms.load(Ordering::Relaxed);
            let since = match offered_ms {
                0 => Instant::now(),
                ms => self.begun + Duration::from_millis(ms),
            };
            tokio::select! {
                () = tokio::time::sleep_until(since + timeout) => {}
                () = self.hurried.notified() => continue,
            }
            if offered_ms != 0 && offered_ms == self.offered_ms.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// An answer's body that records whether the answer waits for us or for the client.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    progress: Arc<Progress>,
    /// The place of the request, which is freed with the body.
    _place: Option<Arc<Place>>,
}

impl<B> Watched<B> {
    pub(super) fn new(body: B, progress: Arc<Progress>, place: Option<Arc<Place>>) -> Self {
        // hyper polls for the first frame when it has room for it.
        progress.offer();
        Self {
            body,
            progress,
            _place: place,
        }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() {
            self.progress.take();
        } else {
            self.progress.offer();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body that keeps the place of its connection until it is sent.
#[derive(Debug)]
pub(super) struct Holding<B> {
    body: B,
    _asking: Held,
    /// The mark of a paid request.
    _paying: Option<Arc<Held>>,
}

impl<B> Holding<B> {
    pub(super) fn new(body: B, asking: Held, paying: Option<Arc<Held>>) -> Self {
        Self {
            body,
            _asking: asking,
            _paying: paying,
        }
    }
}

impl<B: Body + Unpin> Body for Holding<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
