//! A client that speaks HTTP/2.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{DEADLINE, Shop, Sold};

/// A client with one connection.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

impl Client {
    pub(crate) async fn connect(shop: &Shop) -> Self {
        let stream = TcpStream::connect(shop.address).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(async move { drop(connection.await) });
        Self {
            sender,
            _connection: connections,
        }
    }

    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        let mut sender = self.sender.clone();
        timeout(DEADLINE, sender.send_request(request))
            .await
            .expect("an answer in time")
    }

    pub(crate) async fn get(&self, path: &str, sold: Option<&Sold>) -> (StatusCode, String) {
        let mut request = Request::get(format!("http://shop{path}"));
        if let Some(sold) = sold {
            request = request.header("authorization", sold.header());
        }
        let answer = self.send(request.body(Full::default()).unwrap()).await;
        read(answer.unwrap()).await
    }
}

pub(crate) async fn read(answer: Response<Incoming>) -> (StatusCode, String) {
    assert_eq!(answer.version(), Version::HTTP_2);
    let status = answer.status();
    let body = timeout(DEADLINE, answer.into_body().collect())
        .await
        .expect("a body in time")
        .unwrap()
        .to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
