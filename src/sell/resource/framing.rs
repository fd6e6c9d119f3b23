//! Finds the ends of messages in a byte stream, and decides whether the next message may pass as a
//! whole.

/// The framing of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// gRPC: one byte of flags and four bytes of length.
    Grpc,
    /// WebSocket (RFC 6455, section 5.2).
    WebSocket,
}

/// The opcode of a WebSocket close frame, which is the last frame.
const CLOSE: u8 = 8;

/// The position in a stream of messages.
#[derive(Debug)]
pub(super) struct Framing {
    frames: Frames,
    /// Remaining bytes of the current message.
    rest: u64,
    /// Whether the current message is the last one.
    is_last: bool,
}

impl Framing {
    pub(super) fn new(frames: Frames) -> Self {
        Self {
            frames,
            rest: 0,
            is_last: false,
        }
    }

    /// Whether the next byte begins a message.
    pub(super) fn is_between(&self) -> bool {
        self.rest == 0
    }

    /// Whether the sender has announced the end with this message.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Returns how many of these bytes may pass, and whether the stream ends there. `may_pass`
    /// decides for each new message, given the number of bytes before it and its length. Bytes that
    /// remain without an end are an incomplete header. The caller must pass them again in front of
    /// the next data.
    pub(super) fn pass(
        &mut self,
        data: &[u8],
        mut may_pass: impl FnMut(u64, u64) -> bool,
    ) -> (usize, bool) {
        let mut at = 0;
        loop {
            let ahead = data.len() - at;
            let step = usize::try_from(self.rest).map_or(ahead, |rest| rest.min(ahead));
            at += step;
            self.rest -= step as u64;
            if self.rest > 0 || at == data.len() {
                return (at, false);
            }
            let Some(bytes) = self.frames.bytes(&data[at..]) else {
                return (at, false);
            };
            if !may_pass(at as u64, bytes) {
                return (at, true);
            }
            self.is_last |= self.frames == Frames::WebSocket && data[at] & 0xf == CLOSE;
            self.rest = bytes;
        }
    }
}

impl Frames {
    /// The length of the message that begins with these bytes; `None` while its header is
    /// incomplete.
    fn bytes(self, begin: &[u8]) -> Option<u64> {
        match self {
            Self::Grpc => {
                let length = begin.get(1..5)?.try_into().ok()?;
                Some(5 + u64::from(u32::from_be_bytes(length)))
            }
            Self::WebSocket => {
                let second = *begin.get(1)?;
                let mask = if second & 0x80 == 0 { 0 } else { 4 };
                let (head, length) = match second & 0x7f {
                    126 => (
                        4,
                        u16::from_be_bytes(begin.get(2..4)?.try_into().ok()?).into(),
                    ),
                    127 => (10, u64::from_be_bytes(begin.get(2..10)?.try_into().ok()?)),
                    short => (2, short.into()),
                };
                Some(length.saturating_add(head + mask))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes the bytes in pieces of this size. Returns the bytes that passed and the messages that
    /// `may_pass` was asked about.
    fn passed(frames: Frames, stream: &[u8], piece: usize, most: usize) -> (Vec<u8>, Vec<u64>) {
        let mut framing = Framing::new(frames);
        let (mut out, mut asked, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        for piece in stream.chunks(piece) {
            unread.extend_from_slice(piece);
            let (bytes, is_over) = framing.pass(&unread, |_, bytes| {
                asked.push(bytes);
                asked.len() <= most
            });
            out.extend(unread.drain(..bytes));
            if is_over {
                assert!(framing.is_between());
                break;
            }
        }
        (out, asked)
    }

    #[test]
    fn messages_pass_as_a_whole_however_they_come() {
        let mut calls = vec![0, 0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 0, 0, 0];
        calls.extend([1, 0, 0, 1, 0]);
        calls.extend([b'x'; 256]);
        let mut frames = vec![0x81, 3, b'a', b'b', b'c', 0x82, 126, 1, 0];
        frames.extend([b'x'; 256]);
        frames.extend([0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        frames.extend(vec![b'y'; 65_536]);
        frames.extend([0x89, 0x80, 1, 2, 3, 4]);
        for (kind, stream, lengths) in [
            (Frames::Grpc, calls, vec![8, 5, 261]),
            (Frames::WebSocket, frames, vec![5, 260, 65_546, 6]),
        ] {
            for piece in [1, 2, 3, 7, 1_000, 100_000] {
                let (out, asked) = passed(kind, &stream, piece, usize::MAX);
                assert_eq!((&out, &asked), (&stream, &lengths), "{piece}");
                let (out, asked) = passed(kind, &stream, piece, 2);
                let two = usize::try_from(lengths[0] + lengths[1]).unwrap();
                assert_eq!((&out[..], &asked), (&stream[..two], &lengths[..3].to_vec()));
            }
        }
    }

    #[test]
    fn a_websocket_close_frame_is_recognised() {
        let mut framing = Framing::new(Frames::WebSocket);
        assert_eq!(framing.pass(&[0x88, 2, 3, 232], |_, _| true), (4, false));
        assert!(framing.is_last() && framing.is_between());
    }
}
