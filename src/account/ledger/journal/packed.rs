//! Compressed lines of a dump. One such line contains about a hundred JSON lines, as base64 of
//! gzip, and has a checksum like every other line. Compression shrinks dumps and their backups to a
//! third. A damaged line loses only the lines in it.
//!
//! To read a packed line without Tollhouse, pipe the value of `packed` through `base64 -d | zcat`.

use std::io::{self, Read as _, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::line::Line;

/// The text packed into one line. The compressor looks back no further than this.
const TEXT_BYTES: usize = 32 * 1024;

/// The longest text unpacked from one line. The last JSON line may make the text longer than
/// [`TEXT_BYTES`].
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

/// Lines that wait until there are enough of them to pack.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// The waiting lines as JSON, each with a line break.
    text: Vec<u8>,
}

impl Packing {
    /// Adds a line. Returns all waiting lines, packed, once there are enough of them.
    pub(super) fn put(&mut self, line: &Line) -> io::Result<Option<Line>> {
        serde_json::to_writer(&mut self.text, line)?;
        self.text.push(b'\n');
        if self.text.len() < TEXT_BYTES {
            return Ok(None);
        }
        self.take()
    }

    /// Returns all waiting lines, packed. Returns `None` if no line waits.
    pub(super) fn take(&mut self) -> io::Result<Option<Line>> {
        if self.text.is_empty() {
            return Ok(None);
        }
        // Settlements wait while a dump is written, so speed matters most.
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(&self.text)?;
        self.text.clear();
        let packed = BASE64_STANDARD.encode(packer.finish()?);
        Ok(Some(Line::Packed(packed)))
    }
}

/// Calls `each` for every packed line, in order.
pub(super) fn unpack<E: From<io::Error>>(
    packed: &str,
    mut each: impl FnMut(Line) -> Result<(), E>,
) -> Result<(), E> {
    // The checksum is right, so a line that cannot be unpacked was written by a newer program.
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
