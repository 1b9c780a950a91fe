//! Contents of a layer's files, hashed and written by threads of their own while the archive is read on.
//!
//! ```text
//! Pieces --slices--> Batch --> a thread: BLAKE3, and the file where the layer is unpacked --> digests
//! ```
//!
//! All bytes of a file go to one thread, in order. Nothing is copied on the way: a batch holds parts of what came out of
//! the decompression, and only of a few pieces, so that little is in memory. A file is there for sure only after
//! [`FileWriters::settle`], so whoever replaces, removes or links one settles before.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::LayerError;
use super::blob::Slice;
use super::disk::DiskWriter;
use crate::sys::threads::processors;
use crate::tree::{ContentDigest, Metadata, TreePath};

/// More threads would only wait for each other in the file system.
const MOST_THREADS: usize = 4;

/// Batches that may wait for one thread.
const QUEUE: usize = 4;

/// A batch is sent when it holds so many bytes, items, or pieces that it keeps in memory.
const BATCH: (usize, usize, usize) = (256 << 10, 256, 3);

/// Hashes files, and writes them where the layer is unpacked.
pub(super) struct FileWriters<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    root: Option<PathBuf>,
    most_threads: usize,
    threads: Vec<Thread>,
    /// The thread that gets the batch.
    current: usize,
    batch: Batch,
    /// What has to be opened anew, as directories were removed, has a higher number.
    generation: u64,
    digests: Vec<(usize, ContentDigest)>,
}

struct Thread {
    batches: Sender<Batch>,
    outcomes: Receiver<Outcome>,
    /// Batches whose outcome did not come yet.
    waiting: usize,
}

/// The digests of the files that ended in a batch, by their numbers.
type Outcome = Result<Vec<(usize, ContentDigest)>, LayerError>;

#[derive(Default)]
struct Batch {
    generation: u64,
    items: Vec<Item>,
    bytes: usize,
    pieces: usize,
}

enum Item {
    Begin { number: usize, target: Option<(TreePath, Metadata)> },
    Bytes(Slice),
    End,
}

impl Batch {
    const fn is_full(&self) -> bool {
        self.bytes >= BATCH.0 || self.items.len() >= BATCH.1 || self.pieces >= BATCH.2
    }
}

impl<'scope, 'env> FileWriters<'scope, 'env> {
    /// Writes below `root`, or only hashes. Threads are started in `scope` as they are needed.
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, root: Option<&Path>) -> Self {
        FileWriters {
            scope,
            root: root.map(Path::to_owned),
            most_threads: processors().min(MOST_THREADS),
            threads: Vec::new(),
            current: 0,
            batch: Batch::default(),
            generation: 0,
            digests: Vec::new(),
        }
    }

    /// Begins a file; its digest will have that number.
    pub(super) fn begin(&mut self, number: usize, path: &TreePath, metadata: Metadata) -> Result<(), LayerError> {
        if self.batch.is_full() {
            self.send()?;
            self.choose_thread()?;
        }
        let target = self.root.is_some().then(|| (path.clone(), metadata));
        self.batch.items.push(Item::Begin { number, target });
        Ok(())
    }

    /// Adds bytes to the file that was begun last.
    pub(super) fn bytes(&mut self, slice: Slice) -> Result<(), LayerError> {
        if self.batch.is_full() {
            self.send()?;
        }
        self.batch.bytes += slice.len();
        self.batch.pieces += usize::from(!self.holds_piece_of(&slice));
        self.batch.items.push(Item::Bytes(slice));
        Ok(())
    }

    /// Ends the file that was begun last.
    pub(super) fn end(&mut self) {
        self.batch.items.push(Item::End);
    }

    /// The digests that became known meanwhile, by the files' numbers. Each is given once.
    pub(super) fn known_digests(&mut self) -> impl Iterator<Item = (usize, ContentDigest)> {
        self.digests.drain(..)
    }

    /// Waits until all files are there; gives the digests that were not given before.
    pub(super) fn settle(&mut self) -> Result<Vec<(usize, ContentDigest)>, LayerError> {
        if self.threads.is_empty() {
            // What fits into one batch is not worth a thread.
            let batch = std::mem::take(&mut self.batch);
            return Writer::open(self.root.as_deref())?.work(batch);
        }
        if !self.batch.items.is_empty() {
            self.send()?;
        }
        for thread in &mut self.threads {
            while thread.waiting > 0 {
                thread.take_outcome(&mut self.digests)?;
            }
        }
        Ok(std::mem::take(&mut self.digests))
    }

    /// Has directories opened anew, because some were removed. All files must be settled.
    pub(super) fn forget_directories(&mut self) {
        self.generation += 1;
    }

    /// Whether the batch has part of the same piece. Pieces come one after another, so the last part tells.
    fn holds_piece_of(&self, slice: &Slice) -> bool {
        let mut slices = self.batch.items.iter().rev().filter_map(|item| match item {
            Item::Bytes(slice) => Some(slice),
            Item::Begin { .. } | Item::End => None,
        });
        slices.next().is_some_and(|last| last.is_of_same_piece(slice))
    }

    fn send(&mut self) -> Result<(), LayerError> {
        if self.threads.is_empty() {
            self.start_thread();
        }
        let batch = std::mem::take(&mut self.batch);
        let thread = &mut self.threads[self.current];
        thread.waiting += 1;
        let sent = thread.batches.send(Batch { generation: self.generation, ..batch });
        // A thread ends early only after an outcome that is an error.
        while sent.is_err() || !thread.outcomes.is_empty() {
            thread.take_outcome(&mut self.digests)?;
        }
        Ok(())
    }

    /// Chooses who gets the next files: whoever has least to do.
    fn choose_thread(&mut self) -> Result<(), LayerError> {
        for thread in &mut self.threads {
            while !thread.outcomes.is_empty() {
                thread.take_outcome(&mut self.digests)?;
            }
        }
        let waiting = |index: &usize| self.threads[*index].waiting;
        self.current = (0..self.threads.len()).min_by_key(waiting).unwrap_or_default();
        if waiting(&self.current) > 0 && self.threads.len() < self.most_threads {
            self.current = self.threads.len();
            self.start_thread();
        }
        Ok(())
    }

    fn start_thread(&mut self) {
        let (batches, coming) = bounded(QUEUE);
        let (results, outcomes) = unbounded();
        let root = self.root.clone();
        self.scope.spawn(move || write(root.as_deref(), &coming, &results));
        self.threads.push(Thread { batches, outcomes, waiting: 0 });
    }
}

impl Thread {
    fn take_outcome(&mut self, digests: &mut Vec<(usize, ContentDigest)>) -> Result<(), LayerError> {
        let ended = || LayerError::Write { source: std::io::Error::other("a thread ended early") };
        digests.extend(self.outcomes.recv().map_err(|_| ended())??);
        self.waiting -= 1;
        Ok(())
    }
}

/// Works until there are no more batches, one fails, or nobody wants the outcome.
fn write(root: Option<&Path>, batches: &Receiver<Batch>, outcomes: &Sender<Outcome>) {
    let mut writer = match Writer::open(root) {
        Ok(writer) => writer,
        Err(error) => {
            let _ = outcomes.send(Err(error));
            return;
        }
    };
    for batch in batches {
        let outcome = writer.work(batch);
        let is_error = outcome.is_err();
        if outcomes.send(outcome).is_err() || is_error {
            return;
        }
    }
}

struct Writer {
    disk: Option<DiskWriter>,
    generation: u64,
    /// The file that is being written.
    file: Option<OpenFile>,
}

struct OpenFile {
    number: usize,
    hasher: blake3::Hasher,
    on_disk: Option<(File, TreePath, Metadata)>,
}

impl Writer {
    fn open(root: Option<&Path>) -> Result<Self, LayerError> {
        Ok(Self { disk: root.map(DiskWriter::open).transpose()?, generation: 0, file: None })
    }

    fn work(&mut self, batch: Batch) -> Outcome {
        if batch.generation != self.generation {
            self.generation = batch.generation;
            self.disk.iter_mut().for_each(DiskWriter::forget_directories);
        }
        let mut digests = Vec::new();
        for item in batch.items {
            match item {
                Item::Begin { number, target } => self.begin(number, target)?,
                Item::Bytes(slice) => self.bytes(&slice)?,
                Item::End => digests.extend(self.end()?),
            }
        }
        Ok(digests)
    }

    fn begin(&mut self, number: usize, target: Option<(TreePath, Metadata)>) -> Result<(), LayerError> {
        let on_disk = match (&mut self.disk, target) {
            (Some(disk), Some((path, metadata))) => Some((disk.create_file(&path)?, path, metadata)),
            _ => None,
        };
        self.file = Some(OpenFile { number, hasher: blake3::Hasher::new(), on_disk });
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        let file = self.file.as_mut().expect("bytes come between the beginning and the end of a file");
        file.hasher.update(bytes);
        let Some((on_disk, path, _)) = &mut file.on_disk else { return Ok(()) };
        on_disk.write_all(bytes).map_err(|source| LayerError::Unpack {
            action: "write",
            path: path.to_string(),
            source,
        })
    }

    fn end(&mut self) -> Result<Option<(usize, ContentDigest)>, LayerError> {
        let Some(OpenFile { number, hasher, on_disk }) = self.file.take() else { return Ok(None) };
        if let (Some(disk), Some((file, path, metadata))) = (&self.disk, on_disk) {
            disk.set_file(&file, &path, &metadata)?;
        }
        Ok(Some((number, hasher.finalize())))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use tar::EntryType;

    use super::*;
    use crate::layer::{Limits, read_layer};
    use crate::tree::{Node, Tree, TreeEntry};

    const COUNT: usize = 1500;

    /// Bytes that tell which file they are of; some files have more than a piece holds.
    fn content(number: usize) -> Vec<u8> {
        let size = match number % 100 {
            0 => (1 << 20) + number,
            50 => 256 << 10,
            rest => rest * rest * 3,
        };
        (0..size).map(|at| (at / 7 + number * 31) as u8).collect()
    }

    /// Files, some of which have a second name, in folders of which one goes and comes again.
    fn archive() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |kind, name: &str, link: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_link_name_literal(link).unwrap();
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o640);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1000);
            header.set_cksum();
            tar.append(&header, bytes).unwrap();
        };
        for number in 0..COUNT {
            let name = format!("d{}/f{number}", number % 7);
            add(EntryType::Regular, &name, "", &content(number));
            if number % 10 == 0 {
                add(EntryType::Link, &format!("links/l{number}"), &name, b"");
            }
            if number == COUNT / 2 {
                // All that was in the folder goes, but for what has a second name.
                add(EntryType::Regular, "d0", "", b"a file");
                add(EntryType::Regular, "d0", "", b"another");
                add(EntryType::Link, "kept", "d0", b"");
                add(EntryType::Symlink, "d0", "d1", b"");
                add(EntryType::Directory, "d0", "", b"");
            }
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn every_file_is_written_and_hashed_whichever_thread_does_it() {
        let archive = archive();
        let folder = tempfile::tempdir().unwrap();
        let read = |unpack| {
            let kind = "application/vnd.oci.image.layer.v1.tar";
            read_layer(archive.as_slice(), kind, None, unpack, &Limits::default()).unwrap().tree
        };
        let tree = read(Some(folder.path()));
        let entries = |tree: &Tree| tree.iter().collect::<Result<Vec<_>, _>>().unwrap();
        assert!(entries(&read(None)) == entries(&tree));
        let mut expected = 1;
        for number in 0..COUNT {
            let path = format!("d{}/f{number}", number % 7);
            let gone = number % 7 == 0 && number <= COUNT / 2;
            let names = [(path, !gone), (format!("links/l{number}"), number % 10 == 0)];
            for (path, _) in names.iter().filter(|(_, is_there)| *is_there) {
                let bytes = fs::read(folder.path().join(path)).unwrap();
                assert!(bytes == content(number), "{path}");
                let status = fs::metadata(folder.path().join(path)).unwrap();
                assert_eq!((status.mode() & 0o7777, status.mtime()), (0o640, 1000), "{path}");
                let entry = tree.get(&TreePath::clean(path.as_bytes())).unwrap().unwrap();
                assert!(entry.digest.is_none_or(|digest| digest == blake3::hash(&bytes)), "{path}");
                expected += 1;
            }
            assert!(!gone || !folder.path().join(&names[0].0).exists());
        }
        assert_eq!(fs::read_to_string(folder.path().join("kept")).unwrap(), "another");
        let others = entries(&tree).into_iter().filter(|entry| !entry.entry.node.is_directory());
        let is_file = |entry: &TreeEntry| matches!(entry.entry.node, Node::File { .. });
        let others: Vec<TreeEntry> =
            others.inspect(|entry| assert!(entry.digest.is_some() == is_file(entry))).collect();
        assert_eq!(others.len(), expected);
    }
}
