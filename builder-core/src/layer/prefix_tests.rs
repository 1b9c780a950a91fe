use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;

use proptest::prelude::*;

use super::super::{ChunkMemory, EncodeOptions, EncodedLayer, encode_with};
use super::*;
use crate::oci::Digest;
use crate::tree::{Entry, Metadata, OpenContent, SourceFile, Timestamp, TreePath};

/// Files in a folder, which notes those that are opened.
struct Folder {
    path: PathBuf,
    opened: Mutex<Vec<String>>,
    /// A file that may be opened once, and is in another state then.
    restless: Option<&'static str>,
}

impl OpenContent for Folder {
    fn open(&self, path: &TreePath, _: u64) -> io::Result<File> {
        let mut opened = self.opened.lock().unwrap();
        let name = String::from_utf8(path.as_bytes().to_vec()).unwrap();
        if self.restless == Some(name.as_str()) && opened.contains(&name) {
            return Err(io::Error::other("it changed"));
        }
        opened.push(name);
        File::open(self.path.join(path.as_path()))
    }
}

type Files = BTreeMap<String, Vec<u8>>;

/// A temporary folder with a memory of chunks and the layer before.
struct Bench {
    folder: tempfile::TempDir,
    memory: ChunkMemory,
    blobs: usize,
    before: Option<(Arc<Tree>, ChunkRecord)>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), memory: ChunkMemory::new(), blobs: 0, before: None }
    }

    fn folder(&self, restless: Option<&'static str>) -> Arc<Folder> {
        Arc::new(Folder { path: self.folder.path().to_owned(), opened: Mutex::default(), restless })
    }

    /// The changes that copy some files, after the files were written.
    fn changes(&self, files: &Files, opener: &Arc<Folder>) -> ChangeList {
        let change = |(name, bytes): (&String, &Vec<u8>)| {
            fs::write(self.folder.path().join(name), bytes).unwrap();
            let path = TreePath::clean(name.as_bytes());
            let metadata = Metadata { modified: Timestamp { seconds: 7, nanoseconds: 9 }, ..Metadata::default() };
            let node = Node::File { size: bytes.len() as u64 };
            let entry = Entry { path: path.clone(), node, metadata };
            let mark = Some(ContentMark::from(&blake3::hash(bytes)));
            let opener: Arc<dyn OpenContent> = Arc::<Folder>::clone(opener);
            let content = match bytes.len() {
                0 => Content::None,
                _ => Content::Source(SourceFile { opener, path, stamp: 0, mark }),
            };
            Change { entry, content }
        };
        files.iter().map(change).collect()
    }

    fn prefix(&self, changes: &ChangeList) -> Option<Prefix> {
        let (tree, record) = self.before.clone()?;
        Prefix::find(changes, tree, record, Compression::default()).unwrap()
    }

    /// Encodes what begins like the layer before, compares it with what is encoded without, and gives the files that were
    /// opened for it.
    fn build(&mut self, files: &Files, threads: usize) -> Vec<String> {
        let opener = self.folder(None);
        let changes = self.changes(files, &opener);
        let prefix = self.prefix(&changes);
        let (layer, bytes) = self.encode(&changes, prefix.as_ref(), threads);
        let opened = std::mem::take(&mut *opener.opened.lock().unwrap());
        let (clean, want) = encode(&changes, &EncodeOptions::default());
        assert!(bytes == want, "other bytes");
        assert_eq!((layer.digest, layer.diff_id, layer.size), (Digest::of(&want), clean.diff_id, clean.size));
        assert_eq!((layer.uncompressed_size, &layer.tree), (clean.uncompressed_size, &clean.tree));
        let record = layer.chunks.unwrap();
        let path = self.folder.path().join(format!("blob {}", self.blobs));
        fs::write(&path, bytes).unwrap();
        self.memory.add(&record, &path);
        self.blobs += 1;
        self.before = Some((Arc::new(layer.tree), record));
        opened
    }

    fn encode(&self, changes: &ChangeList, prefix: Option<&Prefix>, threads: usize) -> (EncodedLayer, Vec<u8>) {
        let threads = NonZeroUsize::new(threads);
        encode(changes, &EncodeOptions { memory: Some(&self.memory), prefix, threads, ..EncodeOptions::default() })
    }
}

fn encode(changes: &ChangeList, options: &EncodeOptions<'_>) -> (EncodedLayer, Vec<u8>) {
    let mut out = Vec::new();
    (encode_with(changes, options, &mut out).unwrap(), out)
}

/// Text that is different for every seed.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut unit = [0; 1000];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut unit);
    unit.repeat(length / unit.len() + 1)[..length].to_vec()
}

/// 120 files of 40 kB, and a file of 3.3 MB in the middle.
fn files() -> Files {
    let mut files: Files = (0..120).map(|number| (format!("{number:03}"), text(number, 40_000))).collect();
    files.insert("060 big".to_owned(), text(1000, 3_300_000));
    files
}

#[test]
fn files_before_the_first_difference_are_not_read() {
    for threads in [1, 3] {
        let mut bench = Bench::new();
        let mut files = files();
        assert!(bench.build(&files, threads).len() >= files.len());
        // The last chunk is always read.
        let again = bench.build(&files, threads);
        assert!(again.iter().all(|name| name.as_str() > "085"), "{again:?}");
        files.insert("119".to_owned(), text(2000, 40_000));
        let opened = bench.build(&files, threads);
        assert!(opened.iter().all(|name| name.as_str() > "085"), "{opened:?}");
        // The pieces of the file before the last one are in chunks of their own.
        files.insert("061".to_owned(), text(2001, 40_000));
        let opened = bench.build(&files, threads);
        assert!(opened.iter().all(|name| name.as_str() >= "060 big"), "{opened:?}");
        assert!(opened.contains(&"119".to_owned()));
        files.remove("000");
        assert!(bench.build(&files, threads).contains(&"001".to_owned()));
    }
}

#[test]
fn a_damaged_or_missing_blob_changes_no_byte() {
    let damage: [fn(&mut Vec<u8>); 3] = [|bytes| bytes[1000] ^= 1, |bytes| bytes.truncate(2_000), Vec::clear];
    for damage in damage {
        let mut bench = Bench::new();
        let mut files = files();
        bench.build(&files, 3);
        let path = bench.folder.path().join("blob 0");
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        files.insert("119".to_owned(), text(2000, 40_000));
        assert!(bench.build(&files, 3).contains(&"000".to_owned()));
    }
}

#[test]
fn only_layers_of_the_same_encoder_help() {
    let mut bench = Bench::new();
    let files = files();
    bench.build(&files, 3);
    let changes = bench.changes(&files, &bench.folder(None));
    let (tree, record) = bench.before.clone().unwrap();
    let find = |compression| Prefix::find(&changes, Arc::clone(&tree), record.clone(), compression).unwrap();
    assert_eq!(find(Compression::default()).map(|prefix| prefix.entries()), Some(121));
    assert!(find(Compression::Gzip { level: 9 }).is_none() && find(Compression::Zstd { level: 3 }).is_none());
}

#[test]
fn what_is_not_known_is_read() {
    let mut bench = Bench::new();
    let files = files();
    bench.build(&files, 3);
    let changes = bench.changes(&files, &bench.folder(None));
    let unknown = changes.iter().map(|change| {
        let change = change.unwrap();
        let is_known = change.entry.path.as_bytes() < b"007".as_slice();
        Change { content: if is_known { change.content } else { change.content.marked(None) }, ..change }
    });
    assert_eq!(bench.prefix(&unknown.collect()).map(|prefix| prefix.entries()), Some(7));
    let other_mark = changes.iter().map(|change| {
        let change = change.unwrap();
        Change { content: change.content.marked(Some(ContentMark([0; 16]))), ..change }
    });
    assert!(bench.prefix(&other_mark.collect()).is_none());
}

/// A file whose digest is known, in a chunk that must be read: it is not what its digest says any more.
#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let mut bench = Bench::new();
    let mut files = files();
    bench.build(&files, 3);
    files.insert("119".to_owned(), text(2000, 40_000));
    let changes = bench.changes(&files, &bench.folder(Some("118")));
    let prefix = bench.prefix(&changes);
    let options = EncodeOptions { memory: Some(&bench.memory), prefix: prefix.as_ref(), ..EncodeOptions::default() };
    let error = encode_with(&changes, &options, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "could not read `/118`");
    // What the blob lacks is read too, and must be what it was.
    fs::write(bench.folder.path().join("blob 0"), "").unwrap();
    fs::write(bench.folder.path().join("003"), text(2001, 40_000)).unwrap();
    let error = encode_with(&changes, &options, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "its files changed while the build used them");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Each build begins like the one before, whatever was edited.
    #[test]
    fn edited_layers_are_those_of_a_clean_build(
        edits in prop::collection::vec((0..130_usize, 0..4_u8, 1..4_usize), 1..6),
    ) {
        let mut bench = Bench::new();
        let mut files = files();
        bench.build(&files, 2);
        for (number, (at, kind, threads)) in edits.into_iter().enumerate() {
            let name = files.keys().nth(at).cloned().unwrap_or_else(|| format!("{at}"));
            let seed = 5000 + number as u64;
            match kind {
                0 => drop(files.remove(&name)),
                1 => drop(files.insert(format!("{name} new"), text(seed, at * 900))),
                2 => drop(files.insert(name, text(seed, 2_100_000 + at))),
                _ => drop(files.insert(name, text(seed, 40_000))),
            }
            bench.build(&files, threads);
        }
    }
}
