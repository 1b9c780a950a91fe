//! Compressed chunks of earlier layers, found by what they hold, so that a chunk is compressed only once.
//!
//! ```text
//! record of one blob, little-endian:
//! 0    8   magic "rbuildck"
//! 8    4   version, 2
//! 12   4   n, the number of chunks
//! 16   32  SHA-256 digest of the blob
//! 48   16  what it was compressed by: the start of a digest
//! 64       n × 88 bytes, in the blob's order: id (32), check (16), size in the blob (4),
//!          size in the archive (4), state of the archive's SHA-256 after it (32)
//! ```
//!
//! The id is a BLAKE3 digest of everything that decides the chunk's compressed bytes: encoder version, compression,
//! level, headers and contents. The check is the start of the BLAKE3 digest of the compressed bytes: what a blob gives
//! is used only after it was compared, so a blob that was damaged, replaced or removed only costs time.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::compression::{Compression, make_room};
use super::encode::ENCODER_VERSION;
use crate::oci::{BlockState, Digest};
use crate::sys::bulk::{self, Pace, PageBuffer};

const MAGIC: &[u8; 8] = b"rbuildck";
const VERSION: u32 = 2;
const HEADER: usize = 64;
const ENTRY: usize = 88;

/// No more chunks than this are remembered: about 30 MB of memory, for about 250 GB of layers.
const MOST_CHUNKS: usize = 250_000;

/// What decides a chunk's compressed bytes, as a digest.
pub(super) type ChunkId = [u8; 32];

/// The start of the digest of a chunk's compressed bytes.
pub(super) type Check = [u8; 16];

/// A compressed chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredChunk {
    pub(super) id: ChunkId,
    pub(super) check: Check,
    pub(super) size: u32,
}

/// A chunk's place in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArchivedChunk {
    pub(super) size: u32,
    /// The archive's digest as far as the end of the chunk.
    pub(super) state: BlockState,
}

/// The chunks that one blob consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRecord {
    blob: Digest,
    made_by: Check,
    pub(super) chunks: Vec<(StoredChunk, ArchivedChunk)>,
}

impl ChunkRecord {
    pub(super) fn new(
        blob: Digest,
        compression: Compression,
        chunks: impl IntoIterator<Item = (StoredChunk, ArchivedChunk)>,
    ) -> Self {
        Self { blob, made_by: made_by(compression), chunks: chunks.into_iter().collect() }
    }

    /// Whether this encoder gives the same bytes with a compression.
    pub(super) fn is_made_by(&self, compression: Compression) -> bool {
        self.made_by == made_by(compression)
    }

    /// The blob that the chunks are in.
    #[must_use]
    pub const fn blob(&self) -> Digest {
        self.blob
    }

    /// The bytes to keep. They have no checksum of their own.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.chunks.len() * ENTRY);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(self.chunks.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(self.blob.as_bytes());
        bytes.extend_from_slice(&self.made_by);
        for (stored, archived) in &self.chunks {
            bytes.extend_from_slice(&stored.id);
            bytes.extend_from_slice(&stored.check);
            bytes.extend_from_slice(&stored.size.to_le_bytes());
            bytes.extend_from_slice(&archived.size.to_le_bytes());
            bytes.extend_from_slice(&archived.state.0);
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] gave; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (header, entries) = bytes.split_at_checked(HEADER)?;
        let number = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let count = number(12)? as usize;
        if !header.starts_with(MAGIC) || number(8)? != VERSION || count.checked_mul(ENTRY) != Some(entries.len()) {
            return None;
        }
        let blob = Digest::from_bytes(header[16..48].try_into().ok()?);
        let made_by = header[48..].try_into().ok()?;
        let number = |entry: &[u8]| Some(u32::from_le_bytes(entry.try_into().ok()?));
        let chunk = |entry: &[u8]| {
            let (id, check) = (entry[..32].try_into().ok()?, entry[32..48].try_into().ok()?);
            let stored = StoredChunk { id, check, size: number(&entry[48..52])? };
            let state = BlockState(entry[56..].try_into().ok()?);
            Some((stored, ArchivedChunk { size: number(&entry[52..56])?, state }))
        };
        Some(Self { blob, made_by, chunks: entries.chunks_exact(ENTRY).map(chunk).collect::<Option<_>>()? })
    }
}

/// Where the compressed chunks of earlier layers are.
#[derive(Debug, Default)]
pub struct ChunkMemory {
    known: RwLock<Known>,
    pace: Pace,
}

#[derive(Debug, Default)]
struct Known {
    places: HashMap<ChunkId, Place>,
    blobs: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    check: Check,
    size: u32,
    blob: u32,
}

impl ChunkMemory {
    /// Knows no chunks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the chunks of a blob, which can be read at `path`.
    pub fn add(&self, record: &ChunkRecord, path: &Path) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Ok(blob) = u32::try_from(known.blobs.len()) else { return };
        known.blobs.push(path.to_owned());
        let mut offset = 0;
        for (chunk, _) in &record.chunks {
            if known.places.len() >= MOST_CHUNKS {
                return;
            }
            known.places.insert(chunk.id, Place { offset, check: chunk.check, size: chunk.size, blob });
            offset += u64::from(chunk.size);
        }
    }

    /// Whether a compressed chunk is likely to be found.
    pub(super) fn knows(&self, id: &ChunkId) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).places.contains_key(id)
    }

    /// Reads a compressed chunk into `out`, and gives its size and check; `None` where it must be compressed. `pages` is
    /// memory to use on the way.
    pub(super) fn read(&self, id: &ChunkId, out: &mut Vec<u8>, pages: &mut PageBuffer) -> Option<(usize, Check)> {
        let (place, path) = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let place = *known.places.get(id)?;
            (place, known.blobs[place.blob as usize].clone())
        };
        let size = place.size as usize;
        make_room(out, size);
        // Nothing is kept open: a prune may remove any blob, and there may be many.
        let blob = File::open(path).ok()?;
        bulk::read_exact_at(&blob, &self.pace, &mut out[..size], place.offset, pages).ok()?;
        (check_of(&out[..size]) == place.check).then_some((size, place.check))
    }
}

/// What decides how chunks are compressed.
pub(super) fn way(compression: Compression) -> String {
    format!("{ENCODER_VERSION} {compression:?}")
}

fn made_by(compression: Compression) -> Check {
    check_of(way(compression).as_bytes())
}

/// The check of a chunk's compressed bytes.
pub(super) fn check_of(compressed: &[u8]) -> Check {
    let mut check = [0; 16];
    check.copy_from_slice(&blake3::hash(compressed).as_bytes()[..16]);
    check
}

#[cfg(test)]
#[path = "chunk_memory_tests.rs"]
mod tests;
