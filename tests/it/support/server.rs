//! Small servers behind the shop that do one thing.

use std::net::SocketAddr;

use axum::Router;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A server; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Server {
    /// Serves what the router of this address serves.
    pub(crate) async fn routing(router: impl FnOnce(SocketAddr) -> Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router(address);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            _serving: serving,
        }
    }

    /// Sends these bytes in answer to every request, and closes the connection.
    pub(crate) async fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        Self::sending(bytes.into(), false).await
    }

    /// The same, but keeps the connections open.
    pub(crate) async fn holding(bytes: impl Into<Vec<u8>>) -> Self {
        Self::sending(bytes.into(), true).await
    }

    async fn sending(bytes: Vec<u8>, holds: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // Clients may have left already.
                let _ = stream.read(&mut [0; 16 * 1024]).await;
                let _ = stream.write_all(&bytes).await;
                held.extend(holds.then_some(stream));
            }
        });
        Self {
            address,
            _serving: serving,
        }
    }
}
