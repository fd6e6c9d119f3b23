//! Refusals for gRPC clients, which read neither the HTTP status nor the body. They expect a single
//! block of headers that ends the stream and holds the gRPC status ("trailers only").

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE,
};
use http::{HeaderValue, StatusCode};

use super::answer::Title;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The message of a challenge, as aperture words it.
const PAYMENT_REQUIRED: &str = "payment required";

/// A gRPC request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The content type of the answer.
    content_type: HeaderValue,
}

impl Call {
    /// Returns a call if these are the headers of a gRPC request.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE)?;
        let rest = kind.as_bytes().strip_prefix(GRPC.as_bytes())?;
        let content_type = match rest.first() {
            None | Some(b'+' | b';' | b' ') => GRPC,
            // For gRPC from a browser (`application/grpc-web`, `-web-text`), the answer has the
            // type of the request.
            Some(b'-') => kind.clone(),
            Some(_) => return None,
        };
        Some(Self { content_type })
    }

    /// Turns an answer that we generated into a gRPC answer. Leaves an upstream's answer unchanged,
    /// except that scripts may read its gRPC status.
    pub(crate) fn shape(self, mut response: Response) -> Response {
        if response
            .headers()
            .contains_key(ACCESS_CONTROL_EXPOSE_HEADERS)
        {
            // Lets scripts read the call's status when it is in the response head.
            let exposed = HeaderValue::from_static("grpc-status, grpc-message");
            let headers = response.headers_mut();
            headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        let Some(title) = response.extensions().get::<Title>() else {
            return response;
        };
        let (code, message) = if response.status() == StatusCode::PAYMENT_REQUIRED {
            (Code::Internal, PAYMENT_REQUIRED)
        } else {
            (Code::of(response.status()), title.0)
        };
        let (mut head, _) = response.into_parts();
        head.status = StatusCode::OK;
        let headers = &mut head.headers;
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, self.content_type);
        headers.insert("grpc-status", HeaderValue::from(code as u16));
        headers.insert("grpc-message", HeaderValue::from_static(message));
        // Deployed interceptors read only the first line, and expect its scheme under the old name.
        let lines: Vec<_> = headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect();
        headers.remove(WWW_AUTHENTICATE);
        for line in lines.into_iter().rev() {
            headers.append(WWW_AUTHENTICATE, line);
        }
        Response::from_parts(head, Body::empty())
    }
}

/// The gRPC status of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Code {
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::InvalidArgument,
            403 => Self::PermissionDenied,
            404 | 405 | 501 => Self::Unimplemented,
            408 | 504 => Self::DeadlineExceeded,
            413 | 429 | 431 => Self::ResourceExhausted,
            500 | 508 => Self::Internal,
            502 | 503 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_kind() {
        for (kind, answer) in [
            ("application/grpc", Some("application/grpc")),
            ("application/grpc+proto", Some("application/grpc")),
            ("application/grpc;charset=utf-8", Some("application/grpc")),
            (
                "application/grpc-web+proto",
                Some("application/grpc-web+proto"),
            ),
            ("application/grpcx", None),
            ("application/json", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            let call = Call::of(&headers).map(|call| call.content_type);
            assert_eq!(call.as_ref().map(|kind| kind.to_str().unwrap()), answer);
        }
    }
}
