//! Messages on a connection, as far as their lengths go: where one ends, and whether the next one may pass as a whole.

/// How messages are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// gRPC's: a flag, and the length in four bytes.
    Grpc,
    /// WebSocket's (RFC 6455, section 5.2).
    WebSocket,
}

/// WebSocket's opcode of a frame behind which there is none.
const CLOSE: u8 = 8;

/// How far a stream of messages has passed.
#[derive(Debug)]
pub(super) struct Framing {
    frames: Frames,
    /// Bytes of the current message that are still to pass.
    rest: u64,
    /// Whether the last message has begun.
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

    /// Whether the sender has said that there is no other message behind this one.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// How many of these bytes pass, and whether that is all: `may_pass` says of each message that begins in them whether it does,
    /// by what passes before it and by its length. What is left over without an end is the beginning of a head, and comes again
    /// before what follows it.
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
    /// How long the message is that begins so; `None` while its head is not all there.
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

    /// Passes the bytes in pieces of this size, and says what came through and which messages were asked for.
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
    fn the_farewell_of_a_websocket_is_seen() {
        let mut framing = Framing::new(Frames::WebSocket);
        assert_eq!(framing.pass(&[0x88, 2, 3, 232], |_, _| true), (4, false));
        assert!(framing.is_last() && framing.is_between());
    }
}
