//! What one pass over the files of a layer found out, for one that compresses them later: they are read again, but not
//! digested.

use std::sync::Arc;

use libdeflater::Crc;

use super::LayerError;
use super::ahead::CompressedAhead;
use super::chunk_memory::ChunkId;
use super::compression::Compression;
use super::hashers::Archived;
use crate::sys::bulk::Way;
use crate::tree::Tree;

/// A layer that was encoded without compression.
#[derive(Debug, Clone)]
pub struct FirstPass {
    pub(super) archived: Archived,
    pub(super) tree: Tree,
    /// What the chunks' ids are made for.
    pub(super) compression: Compression,
    pub(super) chunks: Vec<SeenChunk>,
    pub(super) ahead: Option<Arc<CompressedAhead>>,
}

/// A chunk of the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeenChunk {
    pub(super) id: ChunkId,
    check: u32,
    /// How it was unpacked.
    pub(super) way: Way,
}

impl SeenChunk {
    pub(super) fn new(id: ChunkId, archive: &[u8], way: Way) -> Self {
        Self { id, check: check_of(archive), way }
    }

    /// Makes sure that a chunk's bytes are still those that were seen.
    pub(super) fn compare(&self, archive: &[u8]) -> Result<(), LayerError> {
        if check_of(archive) == self.check { Ok(()) } else { Err(LayerError::Changed) }
    }
}

impl FirstPass {
    /// Whether it helps to compress the layer so.
    pub(super) fn is_for(&self, compression: Compression) -> bool {
        self.compression == compression
    }

    pub(super) fn chunk(&self, number: usize) -> Result<&SeenChunk, LayerError> {
        self.chunks.get(number).ok_or(LayerError::Changed)
    }
}

/// The same check as gzip's, against damage and not against intent: the files are in a store that nobody else writes to.
fn check_of(archive: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(archive);
    crc.sum()
}
