//! Tells clients in their own protocol that an answer ends early. Otherwise clients take the end
//! for a network error and retry.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body::Frame;

use crate::sell::gate::Over;

use super::framing::{Frames, Framing};
use super::headers::is_call;

/// The protocol of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// Any other protocol: the answer breaks off without a reason.
    Plain,
    /// gRPC: the status is in the trailers.
    Grpc,
    /// grpc-web: the status is in a last frame of the body.
    GrpcWeb,
}

/// The reason why a switched connection ends.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Ending {
    /// The grant ends here.
    #[error(transparent)]
    Over(#[from] Over),
    /// No bytes were sent for too long.
    #[error("no data for too long")]
    Silent,
}

impl Speech {
    /// Detects the protocol by the head of an answer. Over HTTP/1.1, an answer is never gRPC.
    pub(super) fn of(headers: &HeaderMap, can_be_call: bool) -> Self {
        if !is_call(headers) {
            return Self::Plain;
        }
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let web = kind.and_then(|kind| kind.strip_prefix(b"application/grpc-web"));
        match web {
            // Messages in base64 text are not parsed.
            Some(rest) if rest.starts_with(b"-text") => Self::Plain,
            Some(_) => Self::GrpcWeb,
            None if can_be_call => Self::Grpc,
            None => Self::Plain,
        }
    }

    /// The message format, if it is known.
    pub(super) fn framing(self) -> Option<Framing> {
        match self {
            Self::Plain => None,
            Self::Grpc | Self::GrpcWeb => Some(Framing::new(Frames::Grpc)),
        }
    }

    /// The frame to send after the last message.
    pub(super) fn last_words(self, over: Over) -> Option<Frame<Bytes>> {
        match self {
            Self::Plain => None,
            Self::Grpc => Some(Frame::trailers(trailers(over))),
            Self::GrpcWeb => Some(Frame::data(trailers_in_body(over))),
        }
    }
}

/// The gRPC status code and message.
fn grpc(over: Over) -> (&'static str, &'static str) {
    match over {
        // RESOURCE_EXHAUSTED
        Over::UsedUp => ("8", "the grant is used up"),
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

/// A grpc-web trailer frame: a message with the highest bit of its flags set.
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
    /// Builds a WebSocket close frame (RFC 6455, section 5.5.1): 1008 for a policy, 1001 for going
    /// away.
    pub(super) fn close_frame(self) -> Bytes {
        let (code, reason) = match self {
            Self::Over(Over::UsedUp) => (1_008, "the grant is used up"),
            Self::Over(Over::Revoked) => (1_008, "the token is revoked"),
            Self::Silent => (1_001, "no data for too long"),
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
    fn the_protocol_is_detected_by_the_content_type() {
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
    fn each_protocol_gets_its_own_final_status() {
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
