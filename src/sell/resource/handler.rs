//! The answer of a service in the same program. The gate treats it like an upstream, without a
//! network in between.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tower::{Service, ServiceExt as _};

#[cfg(doc)]
use crate::account::ledger::Left;
use crate::protocol::l402::credential;
use crate::sell::gate::Permit;

use super::delivered::{Delivered, Shape};
use super::downstream::{Body, BoxError};
use super::failure::Unserved;
use super::names::sends_on;
use super::{cache, headers};

/// Calls the service with the request, without the credential, and uses up the permit. `held` is
/// dropped with the body of the answer.
///
/// The use goes back to the holder if the service fails, panics, answers 5xx, or breaks off before
/// the first byte of its answer. If the client hangs up before the answer, the use counts.
///
/// The response's extensions contain the [rest](Left) of the grant. The call fails if other
/// requests used up the grant while the service was working.
pub async fn call<S, B, R>(
    permit: Permit,
    mut request: Request<B>,
    service: S,
    held: impl Send + Unpin + 'static,
) -> Result<Result<Response<Body>, Unserved>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    credential::strip(request.headers_mut());
    headers::remove_ours(request.headers_mut());
    let is_head = *request.method() == Method::HEAD;
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let at_work = AtWork(Some(permit));
    // Waits for the service to be ready only now, so that unpaid requests take no capacity from
    // paid ones.
    let answered = service.oneshot(request).await;
    let permit = at_work.end();
    match answered {
        Ok(response) => {
            let sends_on = sends_on(is_read, response.status(), response.headers(), |_| false);
            Ok(answer(response, permit, held, (is_head, sends_on)).await)
        }
        Err(error) => {
            permit.give_back();
            Err(error)
        }
    }
}

/// Builds the response for the client from the service's answer.
async fn answer<R>(
    response: Response<R>,
    permit: Permit,
    held: impl Send + Unpin + 'static,
    (is_head, sends_on): (bool, bool),
) -> Result<Response<Body>, Unserved>
where
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (mut parts, body) = response.into_parts();
    let body = Held {
        inner: Box::pin(body),
        _held: held,
    };
    let shape = Shape {
        is_head,
        sends_on,
        can_be_call: true,
        is_open_ended: false,
    };
    let (body, left) = Delivered::of_answer(body, permit, &parts, shape).await?;
    cache::keep_private(&mut parts.headers);
    parts.extensions.insert(left);
    Ok(Response::from_parts(parts, body))
}

/// A permit while the service works. If the service panics, the use goes back. If the client hangs
/// up, the use counts.
struct AtWork(Option<Permit>);

impl AtWork {
    fn end(mut self) -> Permit {
        self.0.take().expect("only this takes it, once")
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(permit) = self.0.take()
        {
            permit.give_back();
        }
    }
}

/// A body with a value that is dropped together with the body.
struct Held<R, T> {
    pub(super) inner: Pin<Box<R>>,
    pub(super) _held: T,
}

impl<R, T> HttpBody for Held<R, T>
where
    R: HttpBody<Data = Bytes>,
    R::Error: Into<BoxError>,
    T: Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = self.inner.as_mut().poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
