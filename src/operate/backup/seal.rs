//! The encryption of a backup: ChaCha20-Poly1305 in chunks, with the STREAM construction. A chunk
//! that was changed, moved or cut off is detected before its content is used. Key and salt are new
//! for each file.
//!
//! The layout is `tollhouse-backup` · format, 4 bytes · salt, 32 · key check, 16 · chunks, each
//! with its tag of 16 bytes.

use std::io::{self, BufRead, Read, Write};

use aead_stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit as _};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// The first bytes of every backup.
pub(super) const MAGIC: &[u8; 16] = b"tollhouse-backup";
/// The format that this program writes.
pub(super) const FORMAT: u32 = 1;

const SALT: usize = 32;
const CHECK: usize = 16;
/// The length of magic, format, salt and key check together.
pub(super) const HEADER: usize = 16 + 4 + SALT + CHECK;

/// The number of bytes that are encrypted together. This size needs little memory and costs a tag
/// of 16 bytes per chunk.
const CHUNK: usize = 64 * 1024;
/// The length of the Poly1305 tag.
const TAG: usize = 16;
/// The part of the nonce that STREAM leaves to the caller. Zeros are safe, because each key
/// encrypts only one file.
const NONCE: [u8; 7] = [0; 7];

/// Why a header cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    NoBackup,
    Newer(u32),
    OtherKey,
}

fn derive(key: &[u8; 32], purpose: &[u8], salt: &[u8]) -> [u8; 32] {
    let mut derived = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in [purpose, &FORMAT.to_be_bytes(), salt] {
        derived.update(part);
    }
    derived.finalize().into_bytes().into()
}

fn cipher(key: &[u8; 32], salt: &[u8]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&Key::from(derive(key, b"file", salt)))
}

/// Encrypts the bytes that are written to it.
pub(super) struct Sealer<W> {
    stream: EncryptorBE32<ChaCha20Poly1305>,
    chunk: Vec<u8>,
    into: W,
}

impl<W: Write> Sealer<W> {
    /// Draws a salt and writes the header.
    pub(super) fn begin(key: &[u8; 32], mut into: W) -> io::Result<Self> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt)?;
        into.write_all(MAGIC)?;
        into.write_all(&FORMAT.to_be_bytes())?;
        into.write_all(&salt)?;
        into.write_all(&derive(key, b"check", &salt)[..CHECK])?;
        Ok(Self {
            stream: EncryptorBE32::from_aead(cipher(key, &salt), &NONCE.into()),
            chunk: Vec::with_capacity(CHUNK + TAG),
            into,
        })
    }

    /// Writes the last chunk. Without it the backup cannot be read.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let sealed = self.stream.encrypt_last(&*self.chunk).map_err(too_long)?;
        self.into.write_all(&sealed)?;
        Ok(self.into)
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Seal a full chunk only when more bytes follow, because the last chunk is sealed
        // differently.
        if self.chunk.len() == CHUNK {
            let sealed = self.stream.encrypt_next(&*self.chunk).map_err(too_long)?;
            self.into.write_all(&sealed)?;
            self.chunk.clear();
        }
        let room = (CHUNK - self.chunk.len()).min(bytes.len());
        self.chunk.extend_from_slice(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// The error after 2^32 chunks, which are 256 TiB.
fn too_long(_: chacha20poly1305::aead::Error) -> io::Error {
    io::Error::other("a backup has at most 256 TiB")
}

/// Decrypts the bytes that are read from it. A changed chunk is an error before any byte of the
/// chunk is returned. Only reading to the end proves that nothing was cut off.
pub(super) struct Opener<R> {
    /// The decryptor; `None` after the last chunk.
    stream: Option<DecryptorBE32<ChaCha20Poly1305>>,
    sealed: R,
    chunk: Vec<u8>,
    /// The number of bytes of the chunk that were already returned.
    given: usize,
}

impl<R: BufRead> Opener<R> {
    /// Checks a header. `sealed` must continue behind the header.
    pub(super) fn begin(
        key: &[u8; 32],
        header: &[u8; HEADER],
        sealed: R,
    ) -> Result<Self, Unopened> {
        let (magic, rest) = header.split_at(MAGIC.len());
        let (format, rest) = rest.split_at(4);
        let (salt, check) = rest.split_at(SALT);
        if magic != MAGIC {
            return Err(Unopened::NoBackup);
        }
        let format = format
            .iter()
            .fold(0, |format, byte| (format << 8) | u32::from(*byte));
        if format != FORMAT {
            return Err(Unopened::Newer(format));
        }
        let right = derive(key, b"check", salt);
        if !bool::from(right[..CHECK].ct_eq(check)) {
            return Err(Unopened::OtherKey);
        }
        Ok(Self {
            stream: Some(DecryptorBE32::from_aead(cipher(key, salt), &NONCE.into())),
            sealed,
            chunk: Vec::new(),
            given: 0,
        })
    }

    /// Decrypts the next chunk. After the last chunk, `chunk` is empty.
    fn next_chunk(&mut self) -> io::Result<()> {
        self.chunk.clear();
        self.given = 0;
        let Some(mut stream) = self.stream.take() else {
            return Ok(());
        };
        let mut sealed = Vec::with_capacity(CHUNK + TAG);
        (&mut self.sealed)
            .take((CHUNK + TAG) as u64)
            .read_to_end(&mut sealed)?;
        let is_last = self.sealed.fill_buf()?.is_empty();
        match (stream.decrypt_next(&*sealed), is_last) {
            (Ok(chunk), false) => {
                self.chunk = chunk;
                self.stream = Some(stream);
            }
            (Ok(_), true) => return Err(damaged("it is cut short")),
            (Err(_), false) => return Err(damaged("it was changed")),
            (Err(_), true) => {
                let opened = stream.decrypt_last(&*sealed);
                self.chunk = opened.map_err(|_| damaged("it was changed, or cut short"))?;
            }
        }
        Ok(())
    }
}

fn damaged(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<R: BufRead> Read for Opener<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.chunk.len() {
            self.next_chunk()?;
        }
        let left = &self.chunk[self.given..];
        let given = left.len().min(into.len());
        into[..given].copy_from_slice(&left[..given]);
        self.given += given;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::begin(&KEY, Vec::new()).unwrap();
        sealer.write_all(bytes).unwrap();
        sealer.finish().unwrap()
    }

    fn opened(key: &[u8; 32], sealed: &[u8]) -> io::Result<Vec<u8>> {
        let (header, body) = sealed.split_first_chunk::<HEADER>().unwrap();
        let mut opener = Opener::begin(key, header, body)
            .map_err(|unopened| io::Error::other(format!("{unopened:?}")))?;
        let mut bytes = Vec::new();
        opener.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn what_is_sealed_is_read_back_whatever_its_length() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let sealed = sealed(&bytes);
            assert_eq!(opened(&KEY, &sealed).unwrap(), bytes, "{length}");
        }
    }

    #[test]
    fn no_two_files_are_alike() {
        assert_ne!(sealed(b"the same"), sealed(b"the same"));
    }

    #[test]
    fn whatever_is_cut_off_or_changed_is_seen() {
        let whole = sealed(&vec![1; 2 * CHUNK + 5]);
        for length in [
            HEADER,
            HEADER + 1,
            HEADER + CHUNK + TAG,
            HEADER + 2 * (CHUNK + TAG),
            whole.len() - 1,
        ] {
            assert!(opened(&KEY, &whole[..length]).is_err(), "{length}");
        }
        for at in (0..whole.len()).step_by(997).chain([whole.len() - 1]) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(opened(&KEY, &changed).is_err(), "{at}");
        }
        let chunks = &whole[HEADER..];
        let (first, second) = (
            &chunks[..CHUNK + TAG],
            &chunks[CHUNK + TAG..2 * (CHUNK + TAG)],
        );
        let swapped = [
            &whole[..HEADER],
            second,
            first,
            &chunks[2 * (CHUNK + TAG)..],
        ]
        .concat();
        assert!(opened(&KEY, &swapped).is_err());
        let longer = [&*whole, &[0]].concat();
        assert!(opened(&KEY, &longer).is_err());
    }

    #[test]
    fn another_key_is_told_from_damage() {
        let error = opened(&[8; 32], &sealed(b"secret")).unwrap_err();
        assert_eq!(error.to_string(), "OtherKey");
    }

    /// The content of the backups in the corpus that are whole.
    const KNOWN: &[u8] = b"what was sealed";

    /// A file that is said to be a backup.
    fn fuzz_target(input: &[u8]) {
        if input.len() < HEADER {
            return;
        }
        if let Ok(bytes) = opened(&KEY, input) {
            assert_eq!(bytes, KNOWN, "a forged backup was opened");
        }
    }

    #[test]
    fn fuzz_backup_header() {
        regtest::fuzz::check("backup_header", fuzz_target);
    }
}
