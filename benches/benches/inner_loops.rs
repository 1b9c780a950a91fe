//! The inner loops: parsing, encoding a layer, looking into a layer's record.

use std::io::Read;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_core::layer::{ChunkMemory, Compression, EncodeOptions, encode, encode_with};
use rbuild_core::tree::{Change, ChangeList, Content, Entry, Metadata, Node, Tree, TreePath};

/// Bytes that compress about as well as source code does.
fn text(bytes: usize) -> Arc<[u8]> {
    let letters = b"etaoin shrdlu\n{};()=.";
    let mut state = 1u32;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            letters[(state >> 27) as usize % letters.len()]
        })
        .collect()
}

fn files(count: usize, bytes: usize) -> ChangeList {
    let content = text(bytes);
    (0..count)
        .map(|number| Change {
            entry: Entry {
                path: TreePath::clean(format!("f{number:06}").as_bytes()),
                node: Node::File { size: bytes as u64 },
                metadata: Metadata { mode: 0o644, ..Metadata::default() },
            },
            content: Content::Bytes(Arc::clone(&content)),
        })
        .collect()
}

/// The Dockerfiles of the sample projects one behind the other, over and over.
fn sample_lines(count: usize) -> String {
    let projects = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/projects");
    let mut files: Vec<_> = std::fs::read_dir(projects)
        .expect("the sample projects are there")
        .filter_map(|folder| std::fs::read_to_string(folder.ok()?.path().join("Dockerfile")).ok())
        .collect();
    files.sort();
    let lines: Vec<&str> = files.iter().flat_map(|file| file.lines()).collect();
    lines.iter().cycle().take(count).flat_map(|line| [line, "\n"]).collect()
}

fn parsing(criterion: &mut Criterion) {
    let commands: String =
        (0..5_000).map(|n| format!("RUN echo {n} && make target-{n} \\\n  VARIABLE=value\n")).collect();
    let mut group = criterion.benchmark_group("parse");
    for (name, dockerfile) in [
        ("10,000 lines of RUN", format!("FROM debian:trixie\n{commands}")),
        ("10,000 lines of sample projects", sample_lines(10_000)),
    ] {
        group.throughput(Throughput::Bytes(dockerfile.len() as u64));
        group.bench_function(name, |bencher| bencher.iter_with_large_drop(|| rbuild_dockerfile::parse(&dockerfile)));
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let changes = files(1000, 32 << 10);
    let mut group = criterion.benchmark_group("encode");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(1000 * (32 << 10)));
    for (name, compression) in [
        ("gzip", Compression::default()),
        ("zstd", Compression::Zstd { level: 3 }),
        ("uncompressed", Compression::Uncompressed),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| encode(&changes, compression, &mut std::io::sink())));
    }
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let memory = ChunkMemory::new();
    let options = EncodeOptions { memory: Some(&memory), ..EncodeOptions::default() };
    let (path, mut blob) = (folder.path().join("blob"), Vec::new());
    let encoded = encode_with(&changes, &options, &mut blob).expect("sorted changes in memory");
    std::fs::write(&path, blob).expect("the temporary folder can be written");
    memory.add(&encoded.chunks.expect("chunks are remembered where there is a memory"), &path);
    group.bench_function("gzip, all chunks known", |bencher| {
        bencher.iter(|| encode_with(&changes, &options, &mut std::io::sink()));
    });
    group.bench_function("gzip, unpacked on the way", |bencher| {
        let unpacked = || tempfile::tempdir_in(folder.path()).expect("the temporary folder can be written");
        let encode_into = |folder: &tempfile::TempDir| {
            let options = EncodeOptions { unpack_into: Some(folder.path()), ..EncodeOptions::default() };
            encode_with(&changes, &options, &mut std::io::sink())
        };
        bencher.iter_batched_ref(unpacked, |folder| encode_into(folder), BatchSize::PerIteration);
    });
    group.finish();
}

fn looking_up(criterion: &mut Criterion) {
    let encoded =
        encode(&files(50_000, 1), Compression::Uncompressed, &mut std::io::sink()).expect("sorted changes in memory");
    let mut bytes = Vec::new();
    encoded.tree.reader().read_to_end(&mut bytes).expect("the record can be read");
    let path = TreePath::clean(b"f031415");
    criterion
        .bench_function("read a record of 50,000 entries", |bencher| bencher.iter(|| Tree::from_bytes(bytes.clone())));
    criterion.bench_function("look up one of 50,000 entries", |bencher| bencher.iter(|| encoded.tree.get(&path)));
}

criterion_group!(inner_loops, parsing, encoding, looking_up);
criterion_main!(inner_loops);
