//! Chunks of a first pass that are compressed while processors have nothing else to do.
//!
//! Who unpacks files waits for the disk and for the locks of its file system. Threads that get only the time that nobody
//! else wants compress chunks meanwhile, as many as they can: what they made is in a file without a name until the second
//! pass takes it. Nobody waits for them.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::fs::{FallocateFlags, fallocate};

use super::chunk_memory::{Check, ChunkId, ChunkMemory, check_of};
use super::compression::{ChunkCompressor, Compression, make_room};
use super::worker::Buffers;
use crate::sys::threads::wait_for_idle_processors;
use crate::tree::Appended;

/// More threads than this would take more memory than they save time.
const MOST_THREADS: usize = 4;

/// What was compressed ahead.
#[derive(Debug)]
pub(super) struct CompressedAhead {
    compression: Compression,
    file: Appended,
    places: Mutex<HashMap<ChunkId, Place>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    size: usize,
    check: Check,
}

impl CompressedAhead {
    /// Nothing yet; what comes is kept in a folder.
    pub(super) fn new(compression: Compression, folder: &Path) -> io::Result<Self> {
        Ok(Self { compression, file: Appended::new(folder)?, places: Mutex::default() })
    }

    fn add(&self, id: ChunkId, compressed: &[u8]) -> io::Result<()> {
        let offset = self.file.append(compressed)?;
        self.places().insert(id, Place { offset, size: compressed.len(), check: check_of(compressed) });
        Ok(())
    }

    /// Moves a compressed chunk to the start of `out`, and gives its size and check; `None` where it must be compressed.
    pub(super) fn take(&self, id: &ChunkId, out: &mut Vec<u8>) -> Option<(usize, Check)> {
        let Place { offset, size, check } = self.places().remove(id)?;
        make_room(out, size);
        self.file.read_at(offset, &mut out[..size]).ok()?;
        // A file system that can't do this keeps the bytes until the file is closed.
        let _ =
            fallocate(self.file.file(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, size as u64);
        (check_of(&out[..size]) == check).then_some((size, check))
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.places().contains_key(id)
    }

    fn places(&self) -> MutexGuard<'_, HashMap<ChunkId, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads that compress ahead, until this is dropped.
pub(super) struct Ahead<'a> {
    to: Arc<CompressedAhead>,
    /// Chunks that need not be compressed.
    memory: Option<&'a ChunkMemory>,
    jobs: Sender<(Buffers, ChunkId)>,
    /// One for each chunk that they have room for.
    spare: Receiver<Buffers>,
}

impl<'a> Ahead<'a> {
    /// Starts threads, as many as the system gives.
    pub(super) fn start(to: &Arc<CompressedAhead>, threads: usize, memory: Option<&'a ChunkMemory>) -> Self {
        let (jobs, queue) = unbounded();
        let (give_back, spare) = unbounded();
        for _ in 0..threads.min(MOST_THREADS) {
            let (to, queue, give_back) = (Arc::clone(to), queue.clone(), give_back.clone());
            let work = move || {
                if let (Ok(()), Ok(compressor)) = (wait_for_idle_processors(), to.compression.compressor()) {
                    compress(compressor, &to, &queue, &give_back);
                }
            };
            if thread::Builder::new().spawn(work).is_err() {
                break;
            }
        }
        Self { to: Arc::clone(to), memory, jobs, spare }
    }

    /// Takes a chunk, and gives other memory for it, where there is room; else gives it back.
    pub(super) fn exchange(&self, chunk: Buffers, id: ChunkId) -> Buffers {
        if self.to.has(&id) || self.memory.is_some_and(|memory| memory.knows(&id)) {
            return chunk;
        }
        let Ok(spare) = self.spare.try_recv() else { return chunk };
        // Where all threads have ended, it is compressed in the second pass.
        let _ = self.jobs.send((chunk, id));
        spare
    }
}

fn compress(
    mut compressor: ChunkCompressor,
    to: &CompressedAhead,
    queue: &Receiver<(Buffers, ChunkId)>,
    give_back: &Sender<Buffers>,
) {
    // One that is compressed, and one that waits.
    for _ in 0..2 {
        let _ = give_back.send(Buffers::default());
    }
    for (mut buffers, id) in queue {
        let compressed = buffers.compress(&mut compressor, to.compression.is_finer(&id));
        if compressed.and_then(|()| to.add(id, buffers.compressed())).is_err() || give_back.send(buffers).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    use std::time::Duration;

    use super::*;
    use crate::layer::{EncodeOptions, EncodedLayer, FirstPass, encode_with};
    use crate::tree::{Change, ChangeList, Content, Entry, Metadata, Node, TreePath};

    const FINEST: Compression = Compression::Gzip { level: 9 };

    /// Some chunks of numbers.
    fn changes() -> ChangeList {
        let text: Vec<u8> =
            (0..900_000_u32).flat_map(|n| format!("{} ", n.wrapping_mul(n) % 9973).into_bytes()).collect();
        let entry = Entry {
            path: TreePath::new(b"numbers").unwrap(),
            node: Node::File { size: text.len() as u64 },
            metadata: Metadata::default(),
        };
        vec![Change { entry, content: Content::Bytes(text.into()) }].into()
    }

    fn encode(changes: &ChangeList, options: &EncodeOptions<'_>) -> (EncodedLayer, Vec<u8>) {
        let mut bytes = Vec::new();
        (encode_with(changes, options, &mut bytes).unwrap(), bytes)
    }

    /// What a first pass finds out with nothing compressed ahead, and its chunks of the archive.
    fn first_pass(changes: &ChangeList) -> (FirstPass, Vec<Vec<u8>>) {
        let later = Some(Compression::default());
        let options = EncodeOptions { compression: Compression::Uncompressed, later, ..Default::default() };
        let (first, mut rest) = encode(changes, &options);
        let first = first.first_pass.unwrap();
        let mut chunk = |size| rest.drain(..size).collect();
        let chunks = first.archived.chunks.iter().map(|known| chunk(known.size as usize)).collect();
        (first, chunks)
    }

    fn compress(compression: Compression, chunk: &[u8], finer: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let size = compression.compressor().unwrap().compress(chunk, finer, &mut out).unwrap();
        out.truncate(size);
        out
    }

    /// Chunks whose bytes tell where they come from are taken, but for one that was damaged.
    #[test]
    fn a_second_pass_takes_what_was_compressed_ahead() {
        let changes = changes();
        let (first, chunks) = first_pass(&changes);
        assert!(chunks.len() > 4);
        let folder = tempfile::tempdir().unwrap();
        let ahead = CompressedAhead::new(Compression::default(), folder.path()).unwrap();
        let mut wanted = Vec::new();
        for (number, (chunk, seen)) in chunks.iter().zip(&first.chunks).enumerate() {
            let at_once = compress(Compression::default(), chunk, Compression::default().is_finer(&seen.id));
            let finest = compress(FINEST, chunk, false);
            assert!(at_once != finest);
            if number != 3 {
                ahead.add(seen.id, &finest).unwrap();
            }
            wanted.extend(if number == 2 || number == 3 { at_once } else { finest });
        }
        let damaged = ahead.places()[&first.chunks[2].id];
        ahead.file.file().write_all_at(b"damage", damaged.offset + 100).unwrap();
        let ahead = Arc::new(ahead);
        let first = FirstPass { ahead: Some(Arc::clone(&ahead)), ..first };
        let (_, found) = encode(&changes, &EncodeOptions { first_pass: Some(&first), ..Default::default() });
        assert!(found == wanted);
        assert!(ahead.places().is_empty());
        let status = ahead.file.file().metadata().unwrap();
        let (size, used) = (status.len(), status.blocks() * 512);
        // Blocks that two chunks share are given back with neither.
        assert!(used < size / 4, "{used} bytes of {size} are still in use");
    }

    /// As threads make them whenever they are let.
    #[test]
    fn threads_compress_what_no_blob_has() {
        let changes = changes();
        let (first, chunks) = first_pass(&changes);
        let (once, blob) = encode(&changes, &EncodeOptions { memory: Some(&ChunkMemory::new()), ..Default::default() });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        std::fs::write(&path, blob).unwrap();
        let memory = ChunkMemory::new();
        let mut record = once.chunks.unwrap();
        record.chunks.truncate(1);
        memory.add(&record, &path);

        let to = Arc::new(CompressedAhead::new(Compression::default(), folder.path()).unwrap());
        let ahead = Ahead::start(&to, 2, Some(&memory));
        for (chunk, seen) in chunks.iter().zip(&first.chunks) {
            while !memory.knows(&seen.id) && !to.has(&seen.id) {
                ahead.exchange(Buffers::of(chunk), seen.id);
                thread::sleep(Duration::from_millis(1));
            }
            for known in [first.chunks[0].id, seen.id] {
                let returned = ahead.exchange(Buffers::of(b"known"), known);
                assert_eq!(returned.archive(), Ok(&b"known"[..]));
            }
        }
        assert!(!to.has(&first.chunks[0].id));
        for (chunk, seen) in chunks.iter().zip(&first.chunks).skip(1) {
            let mut found = Vec::new();
            let (size, check) = to.take(&seen.id, &mut found).unwrap();
            let wanted = compress(Compression::default(), chunk, Compression::default().is_finer(&seen.id));
            assert!(found[..size] == wanted && check == check_of(&wanted));
        }
    }
}
