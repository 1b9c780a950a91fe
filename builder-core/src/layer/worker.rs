//! One chunk at a time from the files to compressed bytes. Each thread that encodes has a worker of its own.

use std::io;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::archive::{Chunk, ChunkFile, ContentPiece, Piece};
use super::chunk_memory::{Check, ChunkId, ChunkMemory, StoredChunk, check_of, way};
use super::compression::ChunkCompressor;
use super::content::ContentReader;
use super::encode::EncodeOptions;
use super::first_pass::{FirstPass, SeenChunk};
use super::prefix::{EarlierChunk, Prefix};
use super::unpack::{Unpacker, Unpacking};
use super::{Compression, LayerError};
use crate::oci::BlockState;
use crate::sys::bulk::{PageBuffer, Way};
use crate::tree::ContentDigest;

/// The memory of one chunk on its way. It is used again for later chunks, and so is what it holds of earlier ones.
#[derive(Default)]
pub(super) struct Buffers {
    archive: PageBuffer,
    archived: usize,
    /// The state of the archive's digest after the chunk; only where its bytes were not read.
    skipped: Option<BlockState>,
    compressed: Vec<u8>,
    compressed_size: usize,
}

impl Buffers {
    /// Holds these bytes of an archive.
    #[cfg(test)]
    pub(super) fn of(archive: &[u8]) -> Self {
        let mut buffers = Self { archived: archive.len(), ..Self::default() };
        buffers.archive.grow(archive.len());
        buffers.archive[..archive.len()].copy_from_slice(archive);
        buffers
    }

    /// The bytes of the archive, or the state of its digest after them where they were not read.
    pub(super) fn archive(&self) -> Result<&[u8], BlockState> {
        self.skipped.map_or_else(|| Ok(&self.archive[..self.archived]), Err)
    }

    /// How many bytes of the archive the chunk is.
    pub(super) const fn archived_size(&self) -> usize {
        self.archived
    }

    /// Compresses the archive.
    pub(super) fn compress(&mut self, compressor: &mut ChunkCompressor, finer: bool) -> io::Result<()> {
        self.compressed_size = compressor.compress(&self.archive[..self.archived], finer, &mut self.compressed)?;
        Ok(())
    }

    /// The compressed bytes.
    pub(super) fn compressed(&self) -> &[u8] {
        &self.compressed[..self.compressed_size]
    }
}

/// What is known of a chunk besides its bytes.
pub(super) struct Made {
    pub(super) digests: Vec<FileDigest>,
    /// What to remember of it, where chunks are remembered.
    pub(super) stored: Option<StoredChunk>,
    /// What to remember of it for a second pass.
    pub(super) seen: Option<SeenChunk>,
}

impl Made {
    fn store(&mut self, id: &ChunkId, size: usize, check: Check) {
        self.stored = u32::try_from(size).ok().map(|size| StoredChunk { id: *id, check, size });
    }
}

/// What a piece says about the digest of its file.
pub(super) struct FileDigest {
    /// Which of the changes the file is.
    number: usize,
    /// Whether the file ends with the piece.
    last: bool,
    digest: PieceDigest,
}

/// The digest of a file, or what it is made from.
#[derive(Clone, Copy)]
pub(super) enum PieceDigest {
    Whole(ContentDigest),
    Part(ChainingValue),
}

/// Makes chunks.
pub(super) struct Worker<'a> {
    compression: Compression,
    compressor: ChunkCompressor,
    memory: Option<&'a ChunkMemory>,
    /// The start of every chunk's id.
    id_start: blake3::Hasher,
    /// Whether a second pass is to come.
    is_first: bool,
    first_pass: Option<&'a FirstPass>,
    /// Of how many changes it is known what they hold.
    known: usize,
    unpacker: Option<Unpacker<'a>>,
    /// For reading blobs.
    pages: PageBuffer,
}

impl<'a> Worker<'a> {
    pub(super) fn new(options: &EncodeOptions<'a>, unpacking: Option<&'a Unpacking<'a>>) -> Result<Self, LayerError> {
        let compressor = options.compression.compressor().map_err(|source| LayerError::Compress { source })?;
        let mut id_start = blake3::Hasher::new_derive_key("rbuild 2026 chunk of a layer, version 1");
        let compression = options.later.unwrap_or(options.compression);
        id_start.update(format!("{}\n", way(compression)).as_bytes());
        Ok(Self {
            compression,
            compressor,
            memory: options.memory,
            id_start,
            is_first: options.later.is_some(),
            first_pass: options.first_pass,
            known: options.prefix.map_or(0, Prefix::entries),
            unpacker: unpacking.map(Unpacking::unpacker).transpose()?,
            pages: PageBuffer::default(),
        })
    }

    /// Reads the files of a chunk into `buffers`, digests, unpacks and compresses them. The chunk is the one of this number in
    /// the layer.
    pub(super) fn make(&mut self, number: usize, chunk: &Chunk, buffers: &mut Buffers) -> Result<Made, LayerError> {
        let mut made = Made { digests: Vec::new(), stored: None, seen: None };
        (buffers.archived, buffers.skipped) = (chunk.size, None);
        if let Some(EarlierChunk { id, state }) = chunk.earlier
            && self.remembered(&id, buffers, &mut made)
        {
            buffers.skipped = Some(state);
            return Ok(made);
        }
        buffers.archive.grow(chunk.size);
        if let Some(pass) = self.first_pass {
            let seen = pass.chunk(number)?;
            if self.remembered(&seen.id, buffers, &mut made) {
                return Ok(made);
            }
            self.fill(chunk, buffers, seen.way, None)?;
            seen.compare(&buffers.archive[..chunk.size])?;
            self.compress(&seen.id, buffers, &mut made)?;
            return Ok(made);
        }
        let mut id = self.id_start.clone();
        let way = self.fill(chunk, buffers, Way::Cached, Some((&mut id, &mut made.digests)))?;
        let id = *id.finalize().as_bytes();
        if chunk.earlier.is_some_and(|earlier| earlier.id != id) {
            return Err(LayerError::Changed);
        }
        if self.is_first {
            made.seen = Some(SeenChunk::new(id, &buffers.archive[..chunk.size], way));
        } else if !self.remembered(&id, buffers, &mut made) {
            self.compress(&id, buffers, &mut made)?;
        }
        Ok(made)
    }

    /// Reads the files of a chunk, one that was written in some way in that way. What they hold is added to an id and to
    /// digests, where those are not known. Tells how the last piece of a large file was unpacked.
    fn fill(
        &mut self,
        chunk: &Chunk,
        buffers: &mut Buffers,
        way: Way,
        mut facts: Option<(&mut blake3::Hasher, &mut Vec<FileDigest>)>,
    ) -> Result<Way, LayerError> {
        let mut unpacked = Way::Cached;
        let mut headers = chunk.headers.as_slice();
        let mut rest = &mut buffers.archive[..chunk.size];
        for piece in &chunk.pieces {
            match piece {
                Piece::Headers(length) => {
                    let (now, later) = headers.split_at(*length);
                    headers = later;
                    rest = put(rest, now);
                    if let Some((id, _)) = &mut facts {
                        id.update(&[0]).update(&(now.len() as u64).to_le_bytes()).update(now);
                    }
                }
                Piece::Content(piece) => {
                    let (content, after) = rest.split_at_mut(piece.length);
                    rest = after;
                    let file = &chunk.files[piece.file];
                    unpacked = self.read(file, piece, way, content)?;
                    if let Some((id, digests)) = &mut facts {
                        let digest = digest_of(piece, content);
                        match &digest {
                            PieceDigest::Whole(digest) => id.update(&[1]).update(digest.as_bytes()),
                            PieceDigest::Part(part) => id.update(&[2]).update(part),
                        };
                        if file.number >= self.known {
                            digests.push(FileDigest { number: file.number, last: piece.last, digest });
                        }
                    }
                    if piece.last {
                        rest = put(rest, &[0; 512][..super::header::padding(piece.length as u64)]);
                    }
                }
            }
        }
        Ok(unpacked)
    }

    /// Reads a piece of a file, and unpacks it; tells how.
    fn read(
        &mut self,
        file: &ChunkFile,
        piece: &ContentPiece,
        way: Way,
        content: &mut [u8],
    ) -> Result<Way, LayerError> {
        ContentReader::open(&file.change, file.size)?.fill_by(way, content, piece.offset)?;
        if file.number < self.known {
            // Its digest is not made of what was read: it must still be in the state that the digest is known of.
            ContentReader::open(&file.change, file.size)?;
        }
        if let Some(unpacker) = &mut self.unpacker {
            return unpacker.write(file, piece.offset, content);
        }
        Ok(Way::Cached)
    }

    /// Takes a chunk from a blob that holds it, where one does, or as it was compressed ahead.
    fn remembered(&mut self, id: &ChunkId, buffers: &mut Buffers, made: &mut Made) -> bool {
        let out = &mut buffers.compressed;
        let known = self.memory.and_then(|memory| memory.read(id, out, &mut self.pages));
        let known = known.or_else(|| self.first_pass?.ahead.as_ref()?.take(id, out));
        let Some((size, check)) = known else { return false };
        buffers.compressed_size = size;
        made.store(id, size, check);
        true
    }

    fn compress(&mut self, id: &ChunkId, buffers: &mut Buffers, made: &mut Made) -> Result<(), LayerError> {
        let finer = self.compression.is_finer(id);
        buffers.compress(&mut self.compressor, finer).map_err(|source| LayerError::Compress { source })?;
        if self.memory.is_some() {
            made.store(id, buffers.compressed_size, check_of(buffers.compressed()));
        }
        Ok(())
    }
}

fn digest_of(piece: &ContentPiece, content: &[u8]) -> PieceDigest {
    if piece.is_whole() {
        return PieceDigest::Whole(blake3::hash(content));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(piece.offset);
    PieceDigest::Part(hasher.update(content).finalize_non_root())
}

fn put<'b>(rest: &'b mut [u8], bytes: &[u8]) -> &'b mut [u8] {
    let (now, later) = rest.split_at_mut(bytes.len());
    now.copy_from_slice(bytes);
    later
}

/// The digests of files, put together from the digests of their pieces in order.
#[derive(Default)]
pub(super) struct Digests {
    parts: Vec<ChainingValue>,
}

impl Digests {
    /// Takes the digest of the next piece; gives the file's number and digest where the file ends with it.
    pub(super) fn add(&mut self, piece: &FileDigest) -> Option<(usize, ContentDigest)> {
        let digest = match piece.digest {
            PieceDigest::Whole(digest) => digest,
            PieceDigest::Part(part) => {
                self.parts.push(part);
                if !piece.last {
                    return None;
                }
                let digest = merge(&self.parts);
                self.parts.clear();
                digest
            }
        };
        Some((piece.number, digest))
    }
}

/// The digest of a file of more than one piece. All but the last piece have the same size, a power of two.
fn merge(parts: &[ChainingValue]) -> ContentDigest {
    let (left, right) = parts.split_at(left_half(parts.len()));
    merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash)
}

fn subtree(parts: &[ChainingValue]) -> ChainingValue {
    match parts {
        [part] => *part,
        parts => {
            let (left, right) = parts.split_at(left_half(parts.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// How many of two or more parts BLAKE3's tree has on its left: the largest power of two that leaves a right side.
const fn left_half(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_pieces_make_the_digest_of_the_file() {
        const PIECE: usize = 4096;
        let bytes: Vec<u8> = (0..10 * PIECE).map(|n| (n / 7 % 251) as u8).collect();
        for length in (PIECE + 1..bytes.len()).step_by(1000).chain((2..10).map(|n| n * PIECE)) {
            let parts: Vec<_> = bytes[..length]
                .chunks(PIECE)
                .enumerate()
                .map(|(index, piece)| {
                    let mut hasher = blake3::Hasher::new();
                    hasher.set_input_offset((index * PIECE) as u64);
                    hasher.update(piece).finalize_non_root()
                })
                .collect();
            assert_eq!(merge(&parts), blake3::hash(&bytes[..length]), "{length} bytes");
        }
    }
}
