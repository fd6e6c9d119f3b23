//! The PROXY protocol, versions 1 and 2: a header at the start of each connection, in which a proxy
//! names its client.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::detect::Rewound;

/// The longest header of version 1, by its specification.
const V1_BYTES_MAX: usize = 107;

/// The length of a version 2 header before its addresses.
const V2_START_BYTES: usize = 16;

/// The longest header of version 2. Addresses take at most 216 bytes. Load balancers add more, such
/// as the TLS client's name or the network of its origin.
const V2_BYTES_MAX: usize = 4 * 1024;

/// The reason why a PROXY header is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The stream ended inside the header.
    #[error("it broke off")]
    BrokenOff,
    /// The header exceeds the limit.
    #[error("it is too long")]
    TooLong,
    /// The header is not valid in version 1.
    #[error(transparent)]
    V1(#[from] v1::BinaryParseError),
    /// The header is not valid in version 2.
    #[error(transparent)]
    V2(#[from] v2::ParseError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header, and returns the stream after it and the client. The client is `None` if the
/// proxy connected on its own behalf, as in a health check, or does not know the client.
pub(super) async fn read<T: AsyncRead + Unpin>(
    mut stream: T,
) -> Result<(Rewound<T>, Option<SocketAddr>), ProxyError> {
    let mut bytes = BytesMut::with_capacity(V2_BYTES_MAX);
    let length = loop {
        if let Some(length) = length(&bytes)? {
            break length;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(ProxyError::BrokenOff);
        }
    };
    let header = bytes.split_to(length);
    let client = if header.starts_with(v2::PROTOCOL_PREFIX) {
        let header = v2::Header::try_from(&header[..])?;
        match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
                Some((ip.source_address, ip.source_port).into())
            }
            (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
                Some((ip.source_address, ip.source_port).into())
            }
            (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_))
            | (v2::Command::Local, _) => None,
        }
    } else {
        match v1::Header::try_from(&header[..])?.addresses {
            v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Unknown => None,
        }
    };
    Ok((Rewound::new(bytes.freeze(), stream), client))
}

/// The length of the header; `None` until the whole header has arrived, because the parsers need
/// all of it.
fn length(bytes: &[u8]) -> Result<Option<usize>, ProxyError> {
    let prefix = &v2::PROTOCOL_PREFIX[..bytes.len().min(v2::PROTOCOL_PREFIX.len())];
    if bytes.starts_with(prefix) {
        let Some(length) = bytes.get(V2_START_BYTES - 2..V2_START_BYTES) else {
            return Ok(None);
        };
        let length = V2_START_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length > V2_BYTES_MAX {
            return Err(ProxyError::TooLong);
        }
        return Ok((bytes.len() >= length).then_some(length));
    }
    // If the header is malformed, the parser reports the error.
    let start = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let end = start.windows(2).position(|pair| pair == b"\r\n");
    match end {
        Some(end) => Ok(Some(end + 2)),
        None if bytes.len() >= V1_BYTES_MAX => Err(ProxyError::TooLong),
        None if !v1::PROTOCOL_PREFIX
            .as_bytes()
            .starts_with(&start[..start.len().min(5)]) =>
        {
            Ok(Some(bytes.len()))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    async fn told(sent: &[u8]) -> Result<(Option<String>, Vec<u8>), ProxyError> {
        let (mut stream, client) = read(sent).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        Ok((client.map(|client| client.to_string()), rest))
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let start = [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length];
        [&start.concat(), payload].concat()
    }

    fn v4() -> Vec<u8> {
        vec![203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 0x00, 0x50]
    }

    #[tokio::test]
    async fn both_versions_say_who_it_is_and_leave_the_rest() {
        let v6 = [
            &[0x20, 1, 0x0d, 0xb8],
            &[0; 12][..],
            &[0; 16],
            &[0, 7, 0, 80],
        ]
        .concat();
        let more = [&v4()[..], &[4, 0, 1, 0xff]].concat();
        for (header, client) in [
            (
                b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(),
                Some("203.0.113.9:4660"),
            ),
            (
                b"PROXY TCP6 2001:db8::9 ::1 7 80\r\n".to_vec(),
                Some("[2001:db8::9]:7"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ff:: ff:: 1 1\r\n".to_vec(), None),
            (v2(1, 0x11, &v4()), Some("203.0.113.9:4660")),
            (v2(1, 0x11, &more), Some("203.0.113.9:4660")),
            (v2(1, 0x21, &v6), Some("[2001:db8::]:7")),
            (v2(1, 0x31, &[0; 216]), None),
            (v2(1, 0x31, &[0; 230]), None),
            (v2(1, 0x00, &[]), None),
            (v2(0, 0x11, &v4()), None),
            (v2(0, 0x00, &[]), None),
        ] {
            for rest in [&b""[..], b"GET / HTTP/1.1\r\n\r\n"] {
                let sent = [&header, rest].concat();
                let told = told(&sent).await.unwrap();
                assert_eq!(told, (client.map(str::to_owned), rest.to_vec()));
            }
        }
    }

    #[tokio::test]
    async fn pieces_make_a_whole() {
        for header in [
            b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(),
            v2(1, 0x11, &v4()),
        ] {
            let (mut near, far) = tokio::io::duplex(1);
            let write = tokio::io::AsyncWriteExt::write_all(&mut near, &header);
            let (written, read) = tokio::join!(write, read(far));
            written.unwrap();
            let client = read.unwrap().1.unwrap().to_string();
            assert_eq!(client, "203.0.113.9:4660");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        for sent in [
            b"".to_vec(),
            b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00".to_vec(),
            b"PROXY".to_vec(),
            b"PROXY \r\n".to_vec(),
            b"PROXY TCP4\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::9 ::1 7 80\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 99999 80\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\n".to_vec(),
            b"proxy TCP4 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
            v2(1, 0x11, &v4()[..11]),
            v2(1, 0x21, &v4()),
            v2(1, 0x31, &[0; 100]),
            v2(2, 0x11, &v4()),
            v2(1, 0x41, &v4()),
            v2(1, 0x11, &[0; 5_000]),
            v2(1, 0x11, &v4())[..20].to_vec(),
        ] {
            let shown = String::from_utf8_lossy(&sent).into_owned();
            assert!(told(&sent).await.is_err(), "{shown:?}");
        }
    }

    /// Hands out one byte at a time.
    struct Dripping<'a>(&'a [u8]);

    impl AsyncRead for Dripping<'_> {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            if let Some((byte, rest)) = self.0.split_first() {
                into.put_slice(&[*byte]);
                self.0 = rest;
            }
            std::task::Poll::Ready(Ok(()))
        }
    }

    /// The start of a connection.
    fn fuzz_target(input: &[u8]) {
        let told = told(input).now_or_never().expect("all bytes are there");
        let dripping = read(Dripping(input)).now_or_never();
        let dripped = dripping.expect("all bytes are there");
        let Ok((client, rest)) = told else {
            assert!(dripped.is_err(), "refused, but not in pieces");
            return;
        };
        let header = input.strip_suffix(&*rest).expect("the rest is unchanged");
        assert!(header.len() <= V2_BYTES_MAX, "the header is too long");
        let end = match header.strip_prefix(v2::PROTOCOL_PREFIX) {
            Some(more) => V2_START_BYTES + usize::from(u16::from_be_bytes([more[2], more[3]])),
            None => header.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2,
        };
        assert_eq!(header.len(), end, "the rest begins behind the header");
        let (_, same) = dripped.expect("accepted, but not in pieces");
        assert_eq!(same.map(|client| client.to_string()), client);
    }

    #[test]
    fn fuzz_proxy_header() {
        regtest::fuzz::check("proxy_header", fuzz_target);
    }
}
