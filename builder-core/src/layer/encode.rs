//! Changes encoded as a layer: read, archived, unpacked, compressed and hashed in one pass.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::{Ahead, CompressedAhead};
use super::archive::{Layout, estimate, recorded, unreadable};
use super::border::BIG_FILE;
use super::chunk_memory::{ChunkMemory, ChunkRecord, StoredChunk};
use super::first_pass::{FirstPass, SeenChunk};
use super::hashers::{ArchiveHasher, Archived, BlobHasher};
use super::prefix::Prefix;
use super::unpack::Unpacking;
use super::worker::{Buffers, Digests, Made, Worker};
use super::{Compression, LayerError, pipeline};
use crate::oci::{DiffId, Digest};
use crate::sys::bulk::Pace;
use crate::sys::threads::{idle_processors, processors};
use crate::tree::{ChangeList, Changes, Content, ContentDigest, Tree, TreeBuilder, TreeEntry};

/// The version of the bytes that [`encode`] gives for the same changes. It is kept with every layer, so that a changed
/// encoder never gives a layer another digest unasked.
pub const ENCODER_VERSION: u32 = 3;

/// More threads than this would take more memory than they save time.
const MOST_THREADS: usize = 10;

/// How a layer is encoded.
#[derive(Debug, Clone, Copy, Default)]
pub struct EncodeOptions<'a> {
    /// The compression.
    pub compression: Compression,
    /// How many threads compress; `None` for one more than there are processors. The bytes are the same for any number.
    pub threads: Option<NonZeroUsize>,
    /// Chunks that were compressed before. The bytes are the same with any or none.
    pub memory: Option<&'a ChunkMemory>,
    /// An earlier layer that begins like this one: of that, no file is read whose chunk is in the memory. It helps only where
    /// nothing is unpacked.
    pub prefix: Option<&'a Prefix>,
    /// An existing empty folder that the changes are unpacked into, as [`super::unpack_changes`] does.
    pub unpack_into: Option<&'a Path>,
    /// How large files are unpacked; `None` for the page cache.
    pub pace: Option<&'a Pace>,
    /// A folder for temporary files, which keep memory small for a layer of many entries.
    pub temporary_folder: Option<&'a Path>,
    /// The compression of a second pass that is to come, where there is none now: the first one finds out what it needs.
    /// Where there is a folder for temporary files, idle processors compress some chunks already.
    pub later: Option<Compression>,
    /// What the first pass found out of the same changes. It helps where it is for this compression, and nothing is unpacked.
    pub first_pass: Option<&'a FirstPass>,
    /// Grows by the bytes of the archive that are written.
    pub progress: Option<&'a AtomicU64>,
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
    /// The chunks of what was written, for a [`ChunkMemory`]; only where one was given and it can help later.
    pub chunks: Option<ChunkRecord>,
    /// What helps a second pass; only where one is to come.
    pub first_pass: Option<FirstPass>,
}

/// Encodes sorted changes on all processors.
///
/// Each file is read once.
///
/// # Errors
/// When a file can't be read or changed its size, an entry can't be told by a layer, or `out` takes no more bytes.
/// What `out` then holds is of no use.
pub fn encode(
    changes: &ChangeList,
    compression: Compression,
    out: &mut dyn io::Write,
) -> Result<EncodedLayer, LayerError> {
    encode_with(changes, &EncodeOptions { compression, ..EncodeOptions::default() }, out)
}

/// Encodes sorted changes as `options` say; else as [`encode`].
///
/// # Errors
/// As for [`encode`], and when the folder to unpack into can't be written.
pub fn encode_with(
    changes: &ChangeList,
    options: &EncodeOptions<'_>,
    out: &mut dyn io::Write,
) -> Result<EncodedLayer, LayerError> {
    let unpacking = options.unpack_into.map(|folder| Unpacking::new(changes, folder, options.pace.cloned()));
    let begin = || unpacking.as_ref().map_or(Ok(()), Unpacking::begin);
    let is_large = is_large(changes);
    let options = options.that_apply(is_large);
    let (compression, prefix) = (options.compression, options.prefix);
    let plain = compression.is_none();
    // Starting threads costs more than they gain for a layer of one chunk, and so does asking how many there may be.
    let wanted = || options.threads.map_or_else(usual_threads, NonZeroUsize::get);
    let threads = if is_large { wanted().min(MOST_THREADS) } else { 1 };
    let workers = (0..threads).map(|_| Worker::new(&options, unpacking.as_ref()));
    let workers = workers.collect::<Result<Vec<_>, _>>()?;

    let records = Records {
        changes,
        rest: changes.iter(),
        number: 0,
        known: Box::new(prefix.into_iter().flat_map(Prefix::digests)),
        tree: TreeBuilder::new(options.temporary_folder),
    };
    let digests = Digests::default();
    let (chunks, seen) = (Vec::new(), Vec::new());
    let progress = options.progress;
    let mut output = Output { out, size: 0, digests, records, chunks, seen, progress };
    let (archive, blob) = (ArchiveHasher::new(options.first_pass), BlobHasher::new(plain));
    let mut write = |buffers: &Buffers, made: &Made| output.write(buffers, made, plain);
    let layout = Layout::new(changes, prefix);
    let later = options.later.filter(|later| is_large && !later.is_none());
    // Without a file, nothing is compressed ahead.
    let ahead = later.zip(options.temporary_folder).and_then(|(to, folder)| CompressedAhead::new(to, folder).ok());
    let ahead = ahead.map(Arc::new);
    let (archived, digest) = if threads == 1 {
        begin().and_then(|()| run_alone(layout, workers, archive, blob, &mut write))
    } else {
        let ahead = ahead.as_ref().map(|to| Ahead::start(to, idle_processors(), options.memory));
        pipeline::run(layout, workers, archive, blob, ahead, begin, &mut write)
    }?;
    let diff_id = archived.diff_id;
    if let Some(unpacking) = unpacking {
        unpacking.finish()?;
    }
    let tree = match options.first_pass {
        Some(pass) => pass.tree.clone(),
        None => output.records.finish().map_err(unreadable)?,
    };
    let first_pass = options.later.map(|compression| FirstPass {
        archived: archived.clone(),
        tree: tree.clone(),
        compression,
        chunks: output.seen,
        ahead,
    });
    let chunks = output.chunks.into_iter().zip(archived.chunks);
    Ok(EncodedLayer {
        diff_id,
        digest,
        size: output.size,
        uncompressed_size: archived.size,
        media_type: compression.media_type(),
        tree,
        chunks: options.memory.filter(|_| !plain).map(|_| ChunkRecord::new(digest, compression, chunks)),
        first_pass,
    })
}

impl EncodeOptions<'_> {
    /// These without those that others, or a small layer, leave nothing to do for.
    fn that_apply(self, is_large: bool) -> Self {
        let is_plain = self.compression.is_none();
        let later = self.later.filter(|_| is_plain);
        let is_compressed = !later.unwrap_or(self.compression).is_none();
        let memory = self.memory.filter(|_| is_large && is_compressed);
        let is_unpacked = self.unpack_into.is_some();
        let first_pass = self.first_pass.filter(|pass| pass.is_for(self.compression) && !is_unpacked);
        let prefix = self.prefix.filter(|_| memory.is_some() && !is_plain && first_pass.is_none() && !is_unpacked);
        Self { memory, later, first_pass, prefix, ..self }
    }
}

/// One thread more than there are processors: there is always one that waits for the disk.
fn usual_threads() -> usize {
    processors() + 1
}

/// Whether a layer has so many bytes that several threads encode it and its chunks are worth remembering.
#[must_use]
pub fn is_large(changes: &ChangeList) -> bool {
    estimate(changes) > BIG_FILE
}

struct Output<'a> {
    out: &'a mut dyn io::Write,
    size: u64,
    digests: Digests,
    records: Records<'a>,
    chunks: Vec<StoredChunk>,
    seen: Vec<SeenChunk>,
    progress: Option<&'a AtomicU64>,
}

impl Output<'_> {
    fn write(&mut self, buffers: &Buffers, made: &Made, plain: bool) -> Result<(), LayerError> {
        let bytes = match buffers.archive() {
            Ok(archive) if plain => archive,
            _ => buffers.compressed(),
        };
        self.size += bytes.len() as u64;
        for piece in &made.digests {
            if let Some((number, digest)) = self.digests.add(piece) {
                self.records.add_file(number, digest).map_err(unreadable)?;
            }
        }
        self.chunks.extend(made.stored);
        self.seen.extend(made.seen);
        if let Some(progress) = self.progress {
            progress.fetch_add(buffers.archived_size() as u64, Ordering::Relaxed);
        }
        self.out.write_all(bytes).map_err(|source| LayerError::Write { source })
    }
}

fn run_alone(
    mut layout: Layout<'_>,
    workers: Vec<Worker<'_>>,
    mut archive: ArchiveHasher,
    mut blob: BlobHasher,
    write: &mut dyn FnMut(&Buffers, &Made) -> Result<(), LayerError>,
) -> Result<(Archived, Digest), LayerError> {
    let mut buffers = Buffers::default();
    for mut worker in workers {
        while let Some(chunk) = layout.next()? {
            let made = worker.make(layout.chunks - 1, &chunk, &mut buffers)?;
            archive.update(&buffers);
            blob.update(&buffers);
            write(&buffers, &made)?;
        }
    }
    let archived = archive.finish();
    let digest = blob.finish(&archived);
    Ok((archived, digest))
}

/// Puts the record of a layer together while the digests of its files come, in order.
struct Records<'a> {
    changes: &'a ChangeList,
    rest: Changes<'a>,
    number: usize,
    /// The digests of the first files, which are known before.
    known: Box<dyn Iterator<Item = io::Result<Option<ContentDigest>>> + 'a>,
    tree: TreeBuilder,
}

impl Records<'_> {
    /// Adds everything up to a file.
    fn add_file(&mut self, number: usize, digest: ContentDigest) -> io::Result<()> {
        while self.number < number {
            self.add(None)?;
        }
        self.add(Some(digest))
    }

    fn add(&mut self, digest: Option<ContentDigest>) -> io::Result<()> {
        let change = self.rest.next().expect("a digest is that of a change")?;
        let known = self.known.next().transpose()?.flatten();
        let digest = digest.or(known);
        let has_links = self.changes.is_linked(&change.entry.path);
        if let (Some(digest), Content::Source(source)) = (digest, &change.content) {
            source.opener.note_digest(&source.path, source.stamp, digest);
        }
        self.tree.add(&TreeEntry { entry: recorded(change.entry), digest }, has_links)?;
        self.number += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<Tree> {
        while self.number < self.changes.len() {
            self.add(None)?;
        }
        self.tree.finish()
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
