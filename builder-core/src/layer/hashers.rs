//! The digests of a layer's bytes, archived and compressed, made while they pass by.

use super::chunk_memory::ArchivedChunk;
use super::first_pass::FirstPass;
use super::worker::Buffers;
use crate::oci::{BlockHasher, DiffId, Digest, Hasher};

/// What is known of a whole archive.
#[derive(Debug, Clone)]
pub(super) struct Archived {
    pub(super) diff_id: DiffId,
    pub(super) size: u64,
    pub(super) chunks: Vec<ArchivedChunk>,
}

/// Finds out the digest of an archive, where it is not known.
pub(super) enum ArchiveHasher {
    Known(Archived),
    New(BlockHasher, Vec<ArchivedChunk>),
}

impl ArchiveHasher {
    pub(super) fn new(first_pass: Option<&FirstPass>) -> Self {
        let new = || Self::New(BlockHasher::default(), Vec::new());
        first_pass.map_or_else(new, |pass| Self::Known(pass.archived.clone()))
    }

    pub(super) fn update(&mut self, chunk: &Buffers) {
        let Self::New(hasher, chunks) = self else { return };
        match chunk.archive() {
            Ok(bytes) => hasher.update(bytes),
            Err(state) => hasher.skip(chunk.archived_size() as u64, state),
        }
        let size = u32::try_from(chunk.archived_size()).expect("chunks have less than 4 GiB");
        chunks.push(ArchivedChunk { size, state: hasher.state() });
    }

    pub(super) fn finish(self) -> Archived {
        match self {
            Self::Known(archived) => archived,
            Self::New(hasher, chunks) => Archived { size: hasher.length(), diff_id: DiffId(hasher.finish()), chunks },
        }
    }
}

/// Finds out the digest of what is written.
pub(super) enum BlobHasher {
    /// That of the archive, which is not compressed.
    SameAsArchive,
    New(Hasher),
}

impl BlobHasher {
    pub(super) fn new(is_plain: bool) -> Self {
        if is_plain { Self::SameAsArchive } else { Self::New(Hasher::new()) }
    }

    pub(super) fn update(&mut self, chunk: &Buffers) {
        if let Self::New(hasher) = self {
            hasher.update(chunk.compressed());
        }
    }

    pub(super) fn finish(self, archived: &Archived) -> Digest {
        match self {
            Self::SameAsArchive => archived.diff_id.0,
            Self::New(hasher) => hasher.finish(),
        }
    }
}
