//! Changes encoded as a layer: archived, compressed and hashed in one pass.

use std::io;
use std::num::NonZeroUsize;
use std::thread;

use super::archive::{estimate, write_archive};
use super::border::BIG_FILE;
use super::pipeline;
use super::{Compression, LayerError};
use crate::oci::{DiffId, Digest, Hasher};
use crate::tree::{Change, Tree};

/// The version of the bytes that [`encode`] gives for the same changes. It is kept with every layer, so that a changed
/// encoder never gives a layer another digest unasked.
pub const ENCODER_VERSION: u32 = 1;

/// How a layer is encoded.
#[derive(Debug, Clone, Copy, Default)]
pub struct EncodeOptions {
    /// The compression.
    pub compression: Compression,
    /// How many threads compress; `None` for one per processor. The bytes are the same for any number.
    pub threads: Option<NonZeroUsize>,
}

/// What came of encoding a layer.
#[derive(Debug, Clone)]
pub struct EncodedLayer {
    /// The digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// The digest of the bytes that were written.
    pub digest: Digest,
    /// The number of bytes that were written.
    pub size: u64,
    /// The size of the uncompressed archive in bytes.
    pub uncompressed_size: u64,
    /// The media type of what was written.
    pub media_type: &'static str,
    /// The layer's entries, with the digests of their contents.
    pub tree: Tree,
}

/// Encodes sorted changes on all processors.
///
/// Each file is read once, from its start to its end.
///
/// # Errors
/// When a file can't be read or changed its size, an entry can't be told by a layer, or `out` takes no more bytes.
/// What `out` then holds is of no use.
pub fn encode(
    changes: &[Change],
    compression: Compression,
    out: &mut dyn io::Write,
) -> Result<EncodedLayer, LayerError> {
    encode_with(changes, EncodeOptions { compression, threads: None }, out)
}

/// Encodes sorted changes as `options` say; else as [`encode`].
///
/// # Errors
/// As for [`encode`].
pub fn encode_with(
    changes: &[Change],
    options: EncodeOptions,
    out: &mut dyn io::Write,
) -> Result<EncodedLayer, LayerError> {
    let threads = options.threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let mut output = Output { out, hasher: Hasher::new(), size: 0 };
    // Starting threads costs more than they gain for a layer of one chunk.
    let archived = if threads == 1 || estimate(changes) <= BIG_FILE {
        encode_alone(changes, options.compression, &mut output)?
    } else {
        pipeline::run(changes, options.compression, threads, &mut |member| output.write(member))?
    };
    Ok(EncodedLayer {
        diff_id: archived.diff_id,
        digest: output.hasher.finish(),
        size: output.size,
        uncompressed_size: archived.size,
        media_type: options.compression.media_type(),
        tree: archived.tree,
    })
}

/// What is known of the archive before its compression.
pub(super) struct Archived {
    pub(super) diff_id: DiffId,
    pub(super) size: u64,
    pub(super) tree: Tree,
}

struct Output<'a> {
    out: &'a mut dyn io::Write,
    hasher: Hasher,
    size: u64,
}

impl Output<'_> {
    fn write(&mut self, member: &[u8]) -> Result<(), LayerError> {
        self.hasher.update(member);
        self.size += member.len() as u64;
        self.out.write_all(member).map_err(|source| LayerError::Write { source })
    }
}

fn encode_alone(changes: &[Change], compression: Compression, output: &mut Output<'_>) -> Result<Archived, LayerError> {
    let compress_error = |source| LayerError::Compress { source };
    let mut compressor = compression.compressor().map_err(compress_error)?;
    let mut hasher = Hasher::new();
    let mut size = 0;
    let tree = write_archive(changes, &mut |chunk| {
        hasher.update(&chunk);
        size += chunk.len() as u64;
        output.write(&compressor.compress(&chunk).map_err(compress_error)?)?;
        Ok(chunk)
    })?;
    Ok(Archived { diff_id: DiffId(hasher.finish()), size, tree })
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
