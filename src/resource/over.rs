//! How each protocol says that an answer is over before its end: the one place that knows. Clients take what just breaks off for
//! an accident, and ask again.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body::Frame;

use crate::gate::Over;

use super::framing::{Frames, Framing};
use super::headers::is_call;

/// What an answer is spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// Something that has no words for it: it breaks off.
    Plain,
    /// gRPC: trailers.
    Grpc,
    /// gRPC for browsers: trailers in the body.
    GrpcWeb,
}

/// Why a switched connection ends.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Ending {
    /// Its client may have no more of it.
    #[error(transparent)]
    Over(#[from] Over),
    /// Nobody has said anything for too long.
    #[error("it was silent for too long")]
    Silent,
}

impl Speech {
    /// By the head of an answer; what comes over HTTP/1.1 is no gRPC.
    pub(super) fn of(headers: &HeaderMap, can_be_call: bool) -> Self {
        if !is_call(headers) {
            return Self::Plain;
        }
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let web = kind.and_then(|kind| kind.strip_prefix(b"application/grpc-web"));
        match web {
            // In base64 no message is told from the next one.
            Some(rest) if rest.starts_with(b"-text") => Self::Plain,
            Some(_) => Self::GrpcWeb,
            None if can_be_call => Self::Grpc,
            None => Self::Plain,
        }
    }

    /// Its messages, where they are told apart.
    pub(super) fn framing(self) -> Option<Framing> {
        match self {
            Self::Plain => None,
            Self::Grpc | Self::GrpcWeb => Some(Framing::new(Frames::Grpc)),
        }
    }

    /// What comes behind the last message.
    pub(super) fn last_words(self, over: Over) -> Option<Frame<Bytes>> {
        match self {
            Self::Plain => None,
            Self::Grpc => Some(Frame::trailers(trailers(over))),
            Self::GrpcWeb => Some(Frame::data(trailers_in_body(over))),
        }
    }
}

/// The status of gRPC, and a line for people.
fn grpc(over: Over) -> (&'static str, &'static str) {
    match over {
        // RESOURCE_EXHAUSTED
        Over::UsedUp => ("8", "what was bought is used up"),
        // PERMISSION_DENIED
        Over::Revoked => ("7", "the token is revoked"),
    }
}

fn trailers(over: Over) -> HeaderMap {
    let (status, message) = grpc(over);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers
}

/// A message with the highest bit of its flag set (PROTOCOL-WEB of gRPC).
fn trailers_in_body(over: Over) -> Bytes {
    let (status, message) = grpc(over);
    let text = format!("grpc-status:{status}\r\ngrpc-message:{message}\r\n");
    let mut frame = BytesMut::with_capacity(5 + text.len());
    frame.put_u8(0x80);
    frame.put_u32(u32::try_from(text.len()).expect("it is a line or two"));
    frame.put_slice(text.as_bytes());
    frame.freeze()
}

impl Ending {
    /// WebSocket's close frame (RFC 6455, section 5.5.1): 1008 where a policy ends it, 1001 where we go away.
    pub(super) fn close_frame(self) -> Bytes {
        let (code, reason) = match self {
            Self::Over(Over::UsedUp) => (1_008, "what was bought is used up"),
            Self::Over(Over::Revoked) => (1_008, "the token is revoked"),
            Self::Silent => (1_001, "silent for too long"),
        };
        let mut frame = BytesMut::with_capacity(4 + reason.len());
        frame.put_u8(0x88);
        frame.put_u8(u8::try_from(2 + reason.len()).expect("a reason is short"));
        frame.put_u16(code);
        frame.put_slice(reason.as_bytes());
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_kind() {
        for (kind, can_be_call, speech) in [
            ("application/grpc", true, Speech::Grpc),
            ("application/grpc+proto", true, Speech::Grpc),
            ("application/grpc", false, Speech::Plain),
            ("application/grpc-web+proto", true, Speech::GrpcWeb),
            ("application/grpc-web", false, Speech::GrpcWeb),
            ("application/grpc-web-text", true, Speech::Plain),
            ("application/json", true, Speech::Plain),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(Speech::of(&headers, can_be_call), speech, "{kind}");
        }
    }

    #[test]
    fn last_words_are_what_each_protocol_reads() {
        let Some(Ok(trailers)) = Speech::Grpc
            .last_words(Over::Revoked)
            .map(Frame::into_trailers)
        else {
            panic!("gRPC says it in trailers")
        };
        assert_eq!(trailers["grpc-status"], "7");
        let Some(Ok(body)) = Speech::GrpcWeb
            .last_words(Over::UsedUp)
            .map(Frame::into_data)
        else {
            panic!("grpc-web says it in the body")
        };
        let (head, text) = body.split_at(5);
        assert_eq!(head, [0x80, 0, 0, 0, u8::try_from(text.len()).unwrap()]);
        assert!(text.starts_with(b"grpc-status:8\r\n"));
        let close = Ending::from(Over::UsedUp).close_frame();
        assert_eq!(usize::from(close[1]), close.len() - 2);
        assert_eq!(close[..4], [0x88, close[1], 3, 240]);
    }
}
