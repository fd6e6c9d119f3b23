//! Connections that say nothing.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long a port may take to answer: it is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Open sockets that never send a byte; dropping the value closes them.
#[derive(Debug)]
pub struct Idle {
    sockets: Vec<TcpStream>,
}

impl Idle {
    /// Opens so many connections to that address.
    ///
    /// # Errors
    /// When one is refused.
    pub fn open(address: SocketAddr, count: usize) -> Result<Self> {
        let open = || TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
        let sockets = (0..count).map(|_| open());
        let sockets = sockets.collect::<Result<Vec<_>, _>>();
        Ok(Self {
            sockets: sockets.context("failed to open idle connections")?,
        })
    }

    /// How many of them the other side has not closed.
    #[must_use]
    pub fn left(&self) -> usize {
        let is_open = |socket: &&TcpStream| {
            let mut byte = [0];
            let looked = socket
                .set_nonblocking(true)
                .and_then(|()| socket.peek(&mut byte));
            match looked {
                // The end of the stream.
                Ok(0) => false,
                Ok(_) => true,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            }
        };
        self.sockets.iter().filter(is_open).count()
    }
}
