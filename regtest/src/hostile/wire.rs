//! A proxy between a node that dials and the merchant, which can pass bytes slowly, hold them, and cut the connection.
//!
//! BOLT 8 encrypts even the lengths of messages, so the wire cannot read them. It does not need to: while it passes one byte at a
//! time, the dialling node acts on a message before the next message is through, and the wire is held at that moment.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::parent;
use crate::port;

/// How long the runtime's tasks may take to end.
const RUNTIME_STOP: Duration = Duration::from_secs(1);
/// The most bytes that are read at once; a wire that is held keeps no more than these.
const CHUNK_BYTES: usize = 4_096;

/// How the bytes of one direction are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Free,
    /// They pass one by one, with this pause after each.
    Drips(Duration),
    /// They wait; the connection stays open.
    Held,
    /// The connection ends, and new ones end at once.
    Cut,
}

/// A running wire; dropping it closes every connection.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    to_merchant: watch::Sender<Flow>,
    to_dialler: watch::Sender<Flow>,
    runtime: Option<Runtime>,
}

impl Wire {
    /// Listens at a port of its own and passes connections on to this address.
    ///
    /// # Errors
    /// When no port is free.
    pub fn to(merchant: SocketAddr) -> Result<Self> {
        Self::from(Ipv4Addr::LOCALHOST, merchant)
    }

    /// Like [`Wire::to`], except that the merchant sees all connections come from this address of the machine, and so from its
    /// /24.
    ///
    /// # Errors
    /// When no port is free.
    pub fn from(source: Ipv4Addr, merchant: SocketAddr) -> Result<Self> {
        let address = port::free()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("wire")
            .enable_all()
            .build()
            .context("failed to build the wire's runtime")?;
        let listener = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .context("failed to listen")?;
        let listener = {
            let _of_its_own = runtime.enter();
            TcpListener::from_std(listener).context("failed to listen")?
        };
        let (to_merchant, _) = watch::channel(Flow::Free);
        let (to_dialler, _) = watch::channel(Flow::Free);
        let flows = Arc::new((to_merchant.clone(), to_dialler.clone()));
        let connections = runtime.handle().clone();
        runtime.spawn(async move {
            while let Ok((dialler, _)) = listener.accept().await {
                let flows = Arc::clone(&flows);
                connections.spawn(async move {
                    let (to_merchant, to_dialler) = (flows.0.subscribe(), flows.1.subscribe());
                    let Ok(merchant) = connect(source, merchant).await else {
                        return;
                    };
                    let (dialler_reads, dialler_writes) = dialler.into_split();
                    let (merchant_reads, merchant_writes) = merchant.into_split();
                    // The end of either direction ends both, because the halves of the other direction are dropped.
                    tokio::select! {
                        () = carry(dialler_reads, merchant_writes, to_merchant) => {}
                        () = carry(merchant_reads, dialler_writes, to_dialler) => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            to_merchant,
            to_dialler,
            runtime: Some(runtime),
        })
    }

    /// The address to dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets how the bytes that the dialling node sends are passed on from now on.
    pub fn to_merchant(&self, flow: Flow) {
        self.to_merchant.send_replace(flow);
    }

    /// Sets how the bytes that the merchant sends are passed on from now on.
    pub fn to_dialler(&self, flow: Flow) {
        self.to_dialler.send_replace(flow);
    }

    /// Sets how the bytes of both directions are passed on from now on.
    pub fn both(&self, flow: Flow) {
        self.to_dialler(flow);
        self.to_merchant(flow);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            parent::off_runtime(|| runtime.shutdown_timeout(RUNTIME_STOP));
        }
    }
}

async fn connect(source: Ipv4Addr, merchant: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(merchant).await
}

/// Carries bytes until one side closes, or the direction is cut.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, flow: watch::Receiver<Flow>) {
    let mut until_cut = flow.clone();
    tokio::select! {
        _ = until_cut.wait_for(|flow| *flow == Flow::Cut) => {}
        () = carry_on(&mut from, &mut to, flow) => {}
    }
}

async fn carry_on(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut flow: watch::Receiver<Flow>,
) {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let mut left = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => &chunk[..read],
        };
        while !left.is_empty() {
            let now = *flow.borrow_and_update();
            let part = match now {
                Flow::Free => left.len(),
                Flow::Drips(_) => 1,
                Flow::Held | Flow::Cut => {
                    if flow.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            if to.write_all(&left[..part]).await.is_err() {
                return;
            }
            left = &left[part..];
            if let Flow::Drips(pause) = now {
                sleep_until(Instant::now() + pause).await;
            }
        }
    }
}
