//! Idle connections, which never send a byte.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// The address of this machine that they come from; no other peer in a test uses it.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How long a port may take to answer: it is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects from [`FROM`]; `None` if the connection is refused.
pub(super) async fn connect(to: SocketAddr) -> Result<Option<TcpStream>> {
    let socket = TcpSocket::new_v4().context("failed to make a socket")?;
    socket
        .bind(SocketAddr::from((FROM, 0)))
        .context("failed to bind a socket")?;
    let connected = timeout(CONNECT_TIMEOUT, socket.connect(to)).await;
    Ok(connected.ok().and_then(Result::ok))
}

/// Sockets that never send a byte; dropping the value closes them.
#[derive(Debug)]
pub struct Idle {
    sockets: Vec<TcpStream>,
}

impl Idle {
    /// Opens this many connections to this address, all from an address that no other peer in a test uses. Refused connections
    /// are left out.
    ///
    /// # Errors
    /// When this process has no more sockets.
    pub async fn open(to: SocketAddr, count: usize) -> Result<Self> {
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            sockets.extend(connect(to).await?);
        }
        Ok(Self { sockets })
    }

    /// The number of connections that the other side has not closed.
    #[must_use]
    pub fn left(&self) -> usize {
        let is_open = |socket: &&TcpStream| match socket.try_read(&mut [0; 64]) {
            // The end of the stream.
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        self.sockets.iter().filter(is_open).count()
    }
}
