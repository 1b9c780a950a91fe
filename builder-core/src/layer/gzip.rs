//! Gzip members one after another, decompressed without their checksums: for data whose SHA-256 is checked.
//!
//! ```text
//! member   1f 8b 08 FLAGS  time:4  extra-flags  system
//!          [length:2 extra]  [name 00]  [comment 00]  [header-CRC:2]     as FLAGS say
//!          DEFLATE data  CRC-32:4  size:4
//! ```
//!
//! RFC 1952. The CRC-32 of a layer takes as long as a quarter of its decompression, and its diff ID says more.

use std::io::{self, BufRead, Read};

use flate2::{Decompress, FlushDecompress, Status};

const FIXED_HEADER: usize = 10;
const TRAILER: usize = 8;

/// Bits of FLAGS.
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// Reads what the members of a gzip stream hold.
pub(super) struct UncheckedGzip<R> {
    compressed: R,
    inflate: Decompress,
    /// Whether a member's data comes next, and not a header or the end.
    in_member: bool,
}

impl<R: BufRead> UncheckedGzip<R> {
    /// Begins at a member's header.
    pub(super) fn new(compressed: R) -> Self {
        Self { compressed, inflate: Decompress::new(false), in_member: false }
    }

    /// Passes over a member's header; false at the end of all members.
    fn begin_member(&mut self) -> io::Result<bool> {
        if self.compressed.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let header: [u8; FIXED_HEADER] = self.take()?;
        let flags = header[3];
        if header[..3] != [0x1f, 0x8b, 8] || flags & RESERVED != 0 {
            return Err(invalid("it has no gzip header where one should be"));
        }
        if flags & EXTRA != 0 {
            let length = u64::from(u16::from_le_bytes(self.take()?));
            if io::copy(&mut self.compressed.by_ref().take(length), &mut io::sink())? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        for text in [NAME, COMMENT] {
            if flags & text != 0 {
                self.skip_text()?;
            }
        }
        if flags & HEADER_CRC != 0 {
            self.take::<2>()?;
        }
        self.inflate.reset(false);
        Ok(true)
    }

    fn end_member(&mut self) -> io::Result<()> {
        let trailer: [u8; TRAILER] = self.take()?;
        let size = u32::from_le_bytes([trailer[4], trailer[5], trailer[6], trailer[7]]);
        // The size is one modulo 2^32 (RFC 1952, 2.3.1).
        if size == self.inflate.total_out() as u32 {
            Ok(())
        } else {
            Err(invalid("a member has another size than it says"))
        }
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.compressed.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_text(&mut self) -> io::Result<()> {
        loop {
            let available = self.compressed.fill_buf()?;
            if available.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (end, count) = match available.iter().position(|&byte| byte == 0) {
                Some(at) => (true, at + 1),
                None => (false, available.len()),
            };
            self.compressed.consume(count);
            if end {
                return Ok(());
            }
        }
    }
}

impl<R: BufRead> Read for UncheckedGzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_member {
                self.in_member = self.begin_member()?;
                if !self.in_member {
                    return Ok(0);
                }
            }
            let input = self.compressed.fill_buf()?;
            let is_end = input.is_empty();
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, buffer, FlushDecompress::None);
            let (read, written) = (self.inflate.total_in() - read, self.inflate.total_out() - written);
            self.compressed.consume(read as usize);
            match status.map_err(|error| invalid(&error.to_string()))? {
                Status::StreamEnd => {
                    self.end_member()?;
                    self.in_member = false;
                }
                Status::Ok | Status::BufError if is_end && written == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Status::Ok | Status::BufError => {}
            }
            if written > 0 {
                return Ok(written as usize);
            }
        }
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder};

    use super::*;

    /// A member with everything that a header may have.
    fn member(text: &[u8]) -> Vec<u8> {
        let builder = GzBuilder::new().filename("name").comment("a comment").extra(vec![7; 300]).mtime(5);
        let mut writer = builder.write(Vec::new(), Compression::new(6));
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8], buffer: usize) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        io::BufReader::with_capacity(buffer, UncheckedGzip::new(io::BufReader::with_capacity(buffer, bytes)))
            .read_to_end(&mut found)
            .map(|_| found)
    }

    #[test]
    fn reads_what_was_compressed_whatever_the_buffers() {
        let text = b"to be or not to be, ".repeat(3000);
        let several = [member(&text), member(b""), member(b"x")].concat();
        let want = [&text[..], b"x"].concat();
        for buffer in [1, 7, 512, 1 << 20] {
            assert!(read(&several, buffer).unwrap() == want, "{buffer}");
        }
    }

    #[test]
    fn refuses_what_is_cut_off_or_no_member() {
        let whole = member(b"some text that is long enough to be compressed, compressed, compressed");
        for length in 1..whole.len() {
            assert!(read(&whole[..length], 64).is_err(), "{length}");
        }
        let change = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            read(&bytes, 64)
        };
        assert!(change(0, 0).is_err() && change(2, 7).is_err() && change(3, 0xff).is_err());
        let size = whole.len() - 4;
        assert!(change(size, whole[size] ^ 1).is_err(), "another size");
        assert!(change(size - 1, whole[size - 1] ^ 1).is_ok(), "the CRC-32 is not looked at");
        let trailing = [&whole[..], b"trailing"].concat();
        assert!(read(&trailing, 64).is_err());
    }
}
