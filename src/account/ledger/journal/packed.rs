//! Compressed lines of a dump. One such line contains some hundred JSON lines, as base64 of gzip, and has a checksum like every
//! other line. This makes dumps and their backups a third as large. A damaged line loses only the lines in it.
//!
//! To read it without Tollhouse, pipe the value of `packed` through `base64 -d | zcat`.

use std::io::{self, Read as _, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::Line;

/// Text that is packed into one line: as much as the packer looks back.
const TEXT_BYTES: usize = 32 * 1024;

/// The longest text that is read out of one line; the last line of ours may go beyond [`TEXT_BYTES`].
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

/// Lines that wait until they are enough to be packed.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// Each as JSON, with a line break.
    text: Vec<u8>,
}

impl Packing {
    /// Takes one more line. Returns all that wait, packed, once they are enough.
    pub(super) fn put(&mut self, line: &Line) -> io::Result<Option<Line>> {
        serde_json::to_writer(&mut self.text, line)?;
        self.text.push(b'\n');
        if self.text.len() < TEXT_BYTES {
            return Ok(None);
        }
        self.take()
    }

    /// Returns all that wait, packed, if there are any.
    pub(super) fn take(&mut self) -> io::Result<Option<Line>> {
        if self.text.is_empty() {
            return Ok(None);
        }
        // Nobody can settle a sale meanwhile, so the quickest way counts.
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(&self.text)?;
        self.text.clear();
        let packed = BASE64_STANDARD.encode(packer.finish()?);
        Ok(Some(Line::Packed(packed)))
    }
}

/// Gives each line that was packed here, in order.
pub(super) fn unpack<E: From<io::Error>>(
    packed: &str,
    mut each: impl FnMut(Line) -> Result<(), E>,
) -> Result<(), E> {
    // Its checksum fits: if it cannot be read, a newer program wrote it.
    let packed = BASE64_STANDARD.decode(packed).map_err(invalid)?;
    let mut text = Vec::new();
    let mut unpacked = GzDecoder::new(&packed[..]).take(TEXT_BYTES_MAX);
    unpacked.read_to_end(&mut text)?;
    for json in text.split(|byte| *byte == b'\n') {
        if !json.is_empty() {
            each(serde_json::from_slice(json).map_err(io::Error::from)?)?;
        }
    }
    Ok(())
}

fn invalid(error: base64::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
