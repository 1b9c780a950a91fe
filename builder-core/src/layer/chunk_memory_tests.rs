use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use proptest::prelude::*;

use super::super::{Compression, EncodeOptions, EncodedLayer, encode_with};
use super::*;
use crate::tree::{Change, Content, Entry, Metadata, Node, TreePath};

fn file(name: &str, bytes: &[u8]) -> Change {
    let node = Node::File { size: bytes.len() as u64 };
    let content = if bytes.is_empty() { Content::None } else { Content::Bytes(bytes.into()) };
    Change { entry: Entry { path: TreePath::clean(name.as_bytes()), node, metadata: Metadata::default() }, content }
}

/// Text that is different in every file.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut unit = [0; 1000];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut unit);
    unit.repeat(length / unit.len() + 1)[..length].to_vec()
}

/// Some folders of small files, and one file that is cut.
fn tree(seeds: &[u64]) -> Vec<Change> {
    let mut changes = vec![file("big", &text(seeds[0], 3_300_000))];
    let small = seeds.iter().enumerate();
    changes.extend(small.map(|(number, seed)| file(&format!("small/{number:04}"), &text(*seed, 40_000))));
    changes
}

fn encoded(changes: &[Change], memory: Option<&ChunkMemory>) -> (EncodedLayer, Vec<u8>) {
    let mut out = Vec::new();
    let options = EncodeOptions { memory, threads: NonZeroUsize::new(3), ..EncodeOptions::default() };
    let layer = encode_with(&changes.into(), &options, &mut out).unwrap();
    (layer, out)
}

/// Encodes a layer, and writes its blob into `folder`.
fn remember(folder: &Path, name: &str, changes: &[Change], memory: &ChunkMemory) -> (ChunkRecord, PathBuf) {
    let (layer, bytes) = encoded(changes, Some(memory));
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    let record = layer.chunks.unwrap();
    assert_eq!(record.blob(), layer.digest);
    memory.add(&record, &path);
    (record, path)
}

/// How many of the chunks of a layer the memory has.
fn known(memory: &ChunkMemory, record: &ChunkRecord) -> usize {
    let mut out = Vec::new();
    record
        .chunks
        .iter()
        .filter(|(chunk, _)| memory.read(&chunk.id, &mut out, &mut PageBuffer::default()).is_some())
        .count()
}

#[test]
fn only_what_changed_is_compressed_again() {
    let folder = tempfile::tempdir().unwrap();
    let memory = ChunkMemory::new();
    let mut seeds: Vec<u64> = (0..150).collect();
    let (before, _) = remember(folder.path(), "before", &tree(&seeds), &memory);
    assert!(before.chunks.len() > 6, "{} chunks", before.chunks.len());
    assert_eq!(known(&memory, &before), before.chunks.len());
    seeds[77] = 1000;
    let (cold, bytes) = encoded(&tree(&seeds), None);
    let (warm, again) = encoded(&tree(&seeds), Some(&memory));
    assert!(bytes == again && warm.digest == cold.digest && warm.diff_id == cold.diff_id && warm.tree == cold.tree);
    let record = warm.chunks.unwrap();
    assert_eq!(known(&memory, &record), record.chunks.len() - 1);
}

/// A file that is elsewhere in another layer brings its inner chunks along.
#[test]
fn chunks_of_big_files_are_found_under_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let memory = ChunkMemory::new();
    remember(folder.path(), "before", &[file("a", &text(1, 5 << 20))], &memory);
    let (layer, _) = encoded(&[file("other/name", &text(1, 5 << 20))], Some(&memory));
    let record = layer.chunks.unwrap();
    assert_eq!((known(&memory, &record), record.chunks.len()), (4, 5));
}

#[test]
fn other_settings_find_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let memory = ChunkMemory::new();
    let changes = tree(&[1, 2, 3]);
    remember(folder.path(), "before", &changes, &memory);
    for compression in [Compression::Gzip { level: 1 }, Compression::Zstd { level: 3 }] {
        let options = EncodeOptions { memory: Some(&memory), compression, ..EncodeOptions::default() };
        let layer = encode_with(&changes.as_slice().into(), &options, &mut Vec::new()).unwrap();
        assert_eq!(known(&memory, &layer.chunks.unwrap()), 0);
    }
    let options = EncodeOptions { compression: Compression::Uncompressed, memory: Some(&memory), ..Default::default() };
    assert_eq!(encode_with(&changes.into(), &options, &mut Vec::new()).unwrap().chunks, None);
}

#[test]
fn a_damaged_cut_or_missing_blob_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let changes = tree(&[5, 6, 7]);
    let (_, want) = encoded(&changes, None);
    let damage: [fn(&Path); 4] = [
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        |path| fs::write(path, &fs::read(path).unwrap()[..1000]).unwrap(),
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, vec![0; fs::metadata(path).unwrap().len() as usize]).unwrap(),
    ];
    for (number, damage) in damage.into_iter().enumerate() {
        let memory = ChunkMemory::new();
        let (record, path) = remember(folder.path(), &number.to_string(), &changes, &memory);
        damage(&path);
        assert!(known(&memory, &record) < record.chunks.len());
        let (layer, bytes) = encoded(&changes, Some(&memory));
        assert!(bytes == want, "damage {number}");
        assert_eq!(layer.chunks, Some(record));
    }
}

#[test]
fn records_are_read_back_or_refused() {
    let chunk = |n: u8| {
        let stored = StoredChunk { id: [n; 32], check: [n; 16], size: u32::from(n) };
        (stored, ArchivedChunk { size: u32::from(n) << 9, state: BlockState([n; 32]) })
    };
    let record = ChunkRecord::new(Digest::of(b"blob"), Compression::default(), [chunk(1), chunk(2)]);
    let bytes = record.to_bytes();
    assert_eq!(ChunkRecord::from_bytes(&bytes), Some(record));
    for cut in 0..bytes.len() {
        assert_eq!(ChunkRecord::from_bytes(&bytes[..cut]), None);
    }
    for (at, what) in [(0, 1), (8, 1), (12, 3), (15, 255)] {
        let mut other = bytes.clone();
        other[at] = what;
        assert_eq!(ChunkRecord::from_bytes(&other), None, "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whatever was remembered before, the bytes are those of an encoder that remembers nothing.
    #[test]
    fn edits_give_the_bytes_of_a_cold_encoder(
        edits in prop::collection::vec((0..60_usize, 0..4_u64), 1..5),
        flips in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let memory = ChunkMemory::new();
        let mut seeds: Vec<u64> = (0..60).collect();
        for (round, (place, seed)) in edits.into_iter().enumerate() {
            let (_, path) = remember(folder.path(), &round.to_string(), &tree(&seeds), &memory);
            let mut bytes = fs::read(&path).unwrap();
            for flip in &flips {
                let at = flip.index(bytes.len());
                bytes[at] ^= 4;
            }
            fs::write(&path, bytes).unwrap();
            match seed {
                0 => { seeds.remove(place.min(seeds.len() - 1)); }
                1 => seeds.insert(place.min(seeds.len()), 500 + place as u64),
                seed => { let last = seeds.len() - 1; seeds[place.min(last)] = 1000 + seed; }
            }
            let (cold, want) = encoded(&tree(&seeds), None);
            let (warm, found) = encoded(&tree(&seeds), Some(&memory));
            prop_assert!(found == want && warm.diff_id == cold.diff_id && warm.digest == cold.digest);
        }
    }
}
