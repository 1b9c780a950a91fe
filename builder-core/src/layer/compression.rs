//! How a layer's tar stream is compressed.

use std::io;

use libdeflater::{CompressionLvl, Compressor};

use super::dense;
use crate::oci::media_type;

const GZIP_LEVEL: u8 = 4;

/// At [`GZIP_LEVEL`], one chunk of this many is compressed at the next level: all at the one give layers that are 2.3
/// percent larger than those of `gzip -6`, all at the other take 15 percent longer.
const ONE_FINER_OF: u8 = 4;

const ZSTD_LEVEL: u8 = 3;

/// A text is no compression that rbuild writes.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompressionError {
    /// The name is unknown.
    #[error("`{name}` is not a compression that rbuild writes: want `gzip`, `zstd` or `uncompressed`")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// The level is out of range.
    #[error("`{level}` is not a level of {name}: want a number from {least} to {most}")]
    Level {
        /// The level, as written.
        level: String,
        /// The compression's name.
        name: &'static str,
        /// The lowest level.
        least: u8,
        /// The highest level.
        most: u8,
    },
}

/// A compression and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Gzip: the one that every tool reads.
    Gzip {
        /// 0 (stored) to 12 (smallest).
        level: u8,
    },
    /// Zstandard: smaller and faster, for readers of OCI images only.
    Zstd {
        /// 1 (fastest) to 22 (smallest).
        level: u8,
    },
    /// None.
    Uncompressed,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip { level: GZIP_LEVEL }
    }
}

impl Compression {
    /// Takes the values of the output attributes `compression` and `compression-level`.
    ///
    /// # Errors
    /// When the name is unknown or the level is none of that compression's.
    pub fn parse(name: &str, level: Option<&str>) -> Result<Self, CompressionError> {
        let in_range = |name, least, most, default| match level {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|level| (least..=most).contains(level))
                .ok_or_else(|| CompressionError::Level { level: text.to_owned(), name, least, most }),
        };
        match name {
            "gzip" => Ok(Self::Gzip { level: in_range("gzip", 0, 12, GZIP_LEVEL)? }),
            "zstd" => Ok(Self::Zstd { level: in_range("zstd", 1, 22, ZSTD_LEVEL)? }),
            "uncompressed" => Ok(Self::Uncompressed),
            _ => Err(CompressionError::UnknownName { name: name.to_owned() }),
        }
    }

    /// The media type of a layer that is compressed so.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Gzip { .. } => media_type::LAYER_GZIP,
            Self::Zstd { .. } => media_type::LAYER_ZSTD,
            Self::Uncompressed => media_type::LAYER,
        }
    }

    /// Whether what is written is the archive itself.
    pub(crate) const fn is_none(self) -> bool {
        matches!(self, Self::Uncompressed)
    }

    /// Whether a chunk with this id is compressed at the next level.
    pub(super) const fn is_finer(self, id: &[u8; 32]) -> bool {
        matches!(self, Self::Gzip { level: GZIP_LEVEL }) && id[0].is_multiple_of(ONE_FINER_OF)
    }

    pub(super) fn compressor(self) -> io::Result<ChunkCompressor> {
        Ok(match self {
            Self::Gzip { level } => {
                ChunkCompressor::Gzip(Box::new(Gzip { level, compressor: deflate(level)?, finer: None, others: None }))
            }
            Self::Zstd { level } => ChunkCompressor::Zstd(zstd::bulk::Compressor::new(i32::from(level))?),
            Self::Uncompressed => ChunkCompressor::Uncompressed,
        })
    }
}

fn deflate(level: u8) -> io::Result<Compressor> {
    let level = CompressionLvl::new(i32::from(level)).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(Compressor::new(level))
}

/// Compresses chunks one by one, each into a member (gzip) or frame (zstd) of its own. Nothing comes of a chunk that
/// stays as it is.
pub(super) enum ChunkCompressor {
    Gzip(Box<Gzip>),
    Zstd(zstd::bulk::Compressor<'static>),
    Uncompressed,
}

pub(super) struct Gzip {
    level: u8,
    compressor: Compressor,
    /// That of the next level, made when the first chunk is for it.
    finer: Option<Compressor>,
    /// Made when the first chunk looks like one that can't be compressed.
    others: Option<Others>,
}

struct Others {
    trial: Compressor,
    store: Compressor,
    /// What the trial writes, which nobody reads.
    scratch: Vec<u8>,
}

impl Gzip {
    /// The compressor for a chunk: of the next level where it is to be `finer`, and one that only stores where compressing gains nothing. The member's header has no name
    /// and no time.
    fn compressor_for(&mut self, chunk: &[u8], finer: bool) -> io::Result<&mut Compressor> {
        if self.level == 0 || !dense::is_even(chunk) {
            return self.at_level(finer);
        }
        let others = match &mut self.others {
            Some(others) => others,
            none => none.insert(Others { trial: deflate(1)?, store: deflate(0)?, scratch: Vec::new() }),
        };
        let (trial, scratch) = (&mut others.trial, &mut others.scratch);
        let is_dense = dense::is_dense(chunk, |piece| {
            scratch.resize(trial.deflate_compress_bound(piece.len()), 0);
            // No error is possible: the bound is kept.
            trial.deflate_compress(piece, scratch).unwrap_or(piece.len())
        });
        if is_dense {
            // Taken anew: the borrow above ends with the trial.
            return Ok(&mut self.others.as_mut().expect("it was just made").store);
        }
        self.at_level(finer)
    }

    fn at_level(&mut self, finer: bool) -> io::Result<&mut Compressor> {
        match &mut self.finer {
            _ if !finer => Ok(&mut self.compressor),
            Some(compressor) => Ok(compressor),
            none => Ok(none.insert(deflate(self.level + 1)?)),
        }
    }
}

impl ChunkCompressor {
    /// Compresses a chunk into the start of `out`, which grows where it must, and gives the compressed size. `finer` is
    /// what [`Compression::is_finer`] says of it.
    pub(super) fn compress(&mut self, chunk: &[u8], finer: bool, out: &mut Vec<u8>) -> io::Result<usize> {
        let bound = match self {
            Self::Gzip(gzip) => gzip.compressor.gzip_compress_bound(chunk.len()),
            Self::Zstd(_) => zstd::zstd_safe::compress_bound(chunk.len()),
            Self::Uncompressed => return Ok(0),
        };
        make_room(out, bound);
        match self {
            Self::Gzip(gzip) => gzip.compressor_for(chunk, finer)?.gzip_compress(chunk, out).map_err(io::Error::other),
            Self::Zstd(compressor) => compressor.compress_to_buffer(chunk, out.as_mut_slice()),
            Self::Uncompressed => Ok(0),
        }
    }
}

/// Makes a buffer at least this long. What it held may be lost.
///
/// Large ones take memory only as far as they are written: the system gives them zeroed, page by page.
pub(super) fn make_room(buffer: &mut Vec<u8>, size: usize) {
    if buffer.len() < size {
        // Given back first.
        *buffer = Vec::new();
        *buffer = vec![0; size.next_power_of_two()];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can't be compressed is stored, whatever the level, and read back all the same.
    #[test]
    fn noise_is_stored() {
        use std::io::Read as _;
        let mut noise = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let gzip = |level, bytes: &[u8]| {
            let mut out = Vec::new();
            let size = Compression::Gzip { level }.compressor().unwrap().compress(bytes, false, &mut out).unwrap();
            out.truncate(size);
            out
        };
        let stored = gzip(0, &noise);
        for level in [1, 4, 9] {
            let found = gzip(level, &noise);
            assert!(found[10..] == stored[10..], "level {level}");
            let mut read = Vec::new();
            flate2::read::MultiGzDecoder::new(found.as_slice()).read_to_end(&mut read).unwrap();
            assert!(read == noise && found.len() < noise.len() + 200);
        }
        let text = b"to be or not to be, ".repeat(50_000);
        assert!(gzip(4, &text).len() < text.len() / 50);
    }

    #[test]
    fn one_chunk_of_four_is_finer_unless_another_level_was_asked_for() {
        let text: Vec<u8> =
            (0..60_000_u32).flat_map(|n| format!("{} ", n.wrapping_mul(n) % 9973).into_bytes()).collect();
        let gzip = |level, finer| {
            let mut out = Vec::new();
            let size = Compression::Gzip { level }.compressor().unwrap().compress(&text, finer, &mut out).unwrap();
            out.truncate(size);
            out
        };
        assert!(gzip(4, true) == gzip(5, false) && gzip(4, true).len() < gzip(4, false).len());
        let finer = |compression: Compression| (0..=255).filter(|n| compression.is_finer(&[*n; 32])).count();
        let others = [Compression::Gzip { level: 5 }, Compression::Zstd { level: 4 }, Compression::Uncompressed];
        assert_eq!((finer(Compression::default()), others.map(finer)), (64, [0; 3]));
    }

    #[test]
    fn names_and_levels() {
        for (name, level, want) in [
            ("gzip", None, Some(Compression::Gzip { level: 4 })),
            ("gzip", Some("9"), Some(Compression::Gzip { level: 9 })),
            ("gzip", Some("13"), None),
            ("gzip", Some("-1"), None),
            ("zstd", None, Some(Compression::Zstd { level: 3 })),
            ("zstd", Some("0"), None),
            ("uncompressed", Some("5"), Some(Compression::Uncompressed)),
            ("estargz", None, None),
        ] {
            assert_eq!(Compression::parse(name, level).ok(), want, "{name} {level:?}");
        }
    }
}
