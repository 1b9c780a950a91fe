use std::io::{Read, Write};
use std::sync::Arc;

use super::*;
use crate::tree::{Change, Content, Entry, FilePart, Metadata, Node, OpenContent, SourceFile, Timestamp, TreePath};

fn change(path: &[u8], node: Node, bytes: &[u8]) -> Change {
    let metadata = Metadata { mode: 0o644, modified: Timestamp { seconds: 7, nanoseconds: 9 }, ..Metadata::default() };
    let content = if bytes.is_empty() { Content::None } else { Content::Bytes(bytes.into()) };
    Change { entry: Entry { path: TreePath::new(path).unwrap(), node, metadata }, content }
}

fn file(path: &[u8], bytes: &[u8]) -> Change {
    change(path, Node::File { size: bytes.len() as u64 }, bytes)
}

/// Bytes that neither repeat nor depend on anything but `seed`.
fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key(seed).finalize_xof().fill(&mut bytes);
    bytes
}

fn many_files() -> Vec<Change> {
    let mut changes = vec![change(b"big", Node::Directory { opaque: true }, b"")];
    for (index, length) in [3 << 20, (1 << 20) + 1, 1 << 20, (5 << 20) + 77].into_iter().enumerate() {
        changes.push(file(format!("big/{index}").as_bytes(), &noise("big", length)));
    }
    for index in 0..900 {
        let text = format!("line of text number {index}\n").repeat(index * 7 % 900);
        changes.push(file(format!("small/{index:04}").as_bytes(), text.as_bytes()));
    }
    changes
}

fn encoded(changes: &[Change], compression: Compression, threads: usize) -> (EncodedLayer, Vec<u8>) {
    let mut out = Vec::new();
    let options = EncodeOptions { compression, threads: NonZeroUsize::new(threads), ..EncodeOptions::default() };
    let layer = encode_with(&changes.into(), &options, &mut out).unwrap();
    assert_eq!((layer.digest, layer.size), (Digest::of(&out), out.len() as u64));
    (layer, out)
}

#[test]
fn same_bytes_for_any_thread_count() {
    let changes = many_files();
    for compression in [Compression::default(), Compression::Zstd { level: 3 }, Compression::Uncompressed] {
        let (one, bytes) = encoded(&changes, compression, 1);
        for threads in [2, 3, 8] {
            let (layer, again) = encoded(&changes, compression, threads);
            assert!(bytes == again, "{compression:?}, {threads} threads");
            assert_eq!((layer.diff_id, layer.uncompressed_size), (one.diff_id, one.uncompressed_size));
            assert_eq!(layer.tree, one.tree);
        }
    }
}

#[test]
fn all_compressions_hold_the_same_archive() {
    let changes = many_files();
    let (plain, archive) = encoded(&changes, Compression::Uncompressed, 2);
    assert_eq!((plain.diff_id.0, plain.uncompressed_size), (Digest::of(&archive), archive.len() as u64));
    let (gzip, bytes) = encoded(&changes, Compression::default(), 2);
    let mut found = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut found).unwrap();
    assert!(found == archive && gzip.diff_id == plain.diff_id);
    let (zstd, bytes) = encoded(&changes, Compression::Zstd { level: 1 }, 2);
    assert!(zstd::decode_all(bytes.as_slice()).unwrap() == archive && zstd.diff_id == plain.diff_id);
    assert_eq!(zstd.media_type, "application/vnd.oci.image.layer.v1.tar+zstd");
}

/// Layers that were written once must come out the same for ever.
#[test]
fn pinned_digests() {
    let mut changes = vec![
        change(b"d", Node::Directory { opaque: true }, b""),
        file(b"d/f", b"text\n"),
        change(b"d/hard", Node::HardLink { target: TreePath::clean(b"d/f") }, b""),
        change(b"gone", Node::Whiteout, b""),
        change(b"link", Node::Symlink { target: "ziel-\u{e4}".into() }, b""),
    ];
    changes[1].entry.metadata.uid = 3_000_000;
    changes[1].entry.metadata.modified.seconds = -1;
    changes[1].entry.metadata.xattrs.insert(b"user.x".to_vec(), vec![0, 1, 2]);
    let (layer, _) = encoded(&changes, Compression::default(), 1);
    assert_eq!(
        (layer.diff_id.to_string().as_str(), layer.digest.to_string().as_str()),
        (
            "sha256:15cf7d8e8bf57fa3a30c2fafc6501d8d4f6bd0ee39aa7d1384258d997d77b3d4",
            "sha256:77b6865b394ee2aae9c5c888650e3fccf84f3f448ae547f26c205f01d7a1fd33",
        )
    );
}

/// The same for a layer of many chunks, of which some are compressed at another level.
#[test]
fn pinned_digest_of_a_large_layer() {
    let text: Vec<u8> =
        (0..2_500_000_u32).flat_map(|n| format!("{} ", n.wrapping_mul(n) % 9973).into_bytes()).collect();
    let (layer, _) = encoded(&[file(b"large", &text)], Compression::default(), 2);
    assert_eq!(
        (layer.diff_id.to_string().as_str(), layer.digest.to_string().as_str()),
        (
            "sha256:50b2223aa1296ce710deaac1981401aad404f4627aade82610113c89e9ed0a05",
            "sha256:cb200a98f50ed727faf229bad00b263d172ba2aa5f26211f09677bff55ac8c16",
        )
    );
}

#[test]
fn an_edit_leaves_other_chunks_alone() {
    let members = |changes: &[Change]| {
        let (_, bytes) = encoded(changes, Compression::Zstd { level: 1 }, 1);
        let mut rest = bytes.as_slice();
        let mut members = Vec::new();
        while !rest.is_empty() {
            let size = zstd::zstd_safe::find_frame_compressed_size(rest).unwrap();
            members.push(rest[..size].to_vec());
            rest = &rest[size..];
        }
        members
    };
    let mut changes: Vec<_> =
        (0..1500).map(|index| file(format!("{index:05}").as_bytes(), &noise("seed", 7000))).collect();
    let before = members(&changes);
    assert!(before.len() > 8, "{} chunks", before.len());
    changes[200] = file(b"00200", &noise("other", 9000));
    changes.insert(700, file(b"00699a", &noise("new", 100)));
    let after = members(&changes);
    let kept = after.iter().filter(|member| before.contains(member)).count();
    assert!(kept >= before.len() - 4, "{kept} of {} chunks kept", before.len());
}

struct Growing(std::path::PathBuf);

impl OpenContent for Growing {
    fn open(&self, path: &TreePath, _: u64) -> io::Result<std::fs::File> {
        std::fs::File::open(self.0.join(path.as_path()))
    }
}

#[test]
fn files_that_changed_their_size_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    std::fs::write(&path, noise("x", 2_000_000)).unwrap();
    let with_size = |size| {
        let mut change = file(b"dir/f", b"");
        change.entry.node = Node::File { size };
        change.content = Content::Source(SourceFile {
            opener: Arc::new(Growing(folder.path().to_owned())),
            path: TreePath::clean(b"f"),
            stamp: 0,
            mark: None,
        });
        encode(&vec![change].into(), Compression::default(), &mut Vec::new())
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(with_size(2_000_000), Ok(()));
    let text = |expected: &str, found: &str| {
        Err(format!("`/dir/f` changed while it was read: it had {expected} bytes, and now has {found}"))
    };
    assert_eq!(with_size(1_999_999), text("1999999", "more"));
    assert_eq!(with_size(0), text("0", "more"));
    assert_eq!(with_size(2_000_001), text("2000001", "2000000"));
    assert_eq!(with_size(9_000_000), text("9000000", "2000000"));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(with_size(1), Err("could not read `/dir/f`".to_owned()));
}

#[test]
fn entries_that_no_layer_can_tell_are_refused() {
    let link = |target: &[u8]| Node::HardLink { target: TreePath::clean(target) };
    let mut odd_attribute = file(b"f", b"");
    odd_attribute.entry.metadata.xattrs.insert(b"user.a=b".to_vec(), Vec::new());
    for changes in [
        vec![file(b".wh.x", b"")],
        vec![file(b"a/.wh..wh..opq", b"")],
        vec![change(b"a/.wh.d", Node::Directory { opaque: false }, b"")],
        vec![file(b"b", b""), file(b"a", b"")],
        vec![file(b"a", b""), file(b"a", b"")],
        vec![change(b"a", link(b"b"), b""), file(b"b", b"")],
        vec![change(b"a", link(b"none"), b"")],
        vec![file(b"", b"")],
        vec![change(b"c", Node::CharDevice { major: 0, minor: 0 }, b"")],
        vec![change(b"c", Node::BlockDevice { major: u32::MAX, minor: 0 }, b"")],
        vec![change(b"l", Node::Symlink { target: Vec::new() }, b"")],
        vec![odd_attribute],
    ] {
        let result = encode(&changes.as_slice().into(), Compression::default(), &mut Vec::new());
        assert!(matches!(result, Err(LayerError::Entry { .. })), "{changes:?}");
    }
}

/// Takes some bytes and fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_work() {
    for threads in [1, 2, 5] {
        let options = EncodeOptions { threads: NonZeroUsize::new(threads), ..EncodeOptions::default() };
        let result = encode_with(&many_files().into(), &options, &mut Full(3 << 20));
        assert!(matches!(result, Err(LayerError::Write { .. })), "{threads} threads");
    }
}

#[test]
fn no_changes_make_an_empty_archive() {
    let (layer, bytes) = encoded(&[], Compression::Uncompressed, 1);
    assert_eq!((bytes, layer.tree.len()), (vec![0; 1024], 0));
}

#[test]
fn parts_of_a_file_are_read_from_their_place() {
    let (text, mut spool) = (noise("part", 3 << 20), tempfile::tempfile().unwrap());
    spool.write_all(&text).unwrap();
    let spool = Arc::new(spool);
    let parts = [(5, 0), (0, 1), (1 << 20, 2 << 20), (77, 1 << 20)].map(|(start, length)| FilePart {
        file: Arc::clone(&spool),
        start,
        length,
    });
    let as_bytes = |part: &FilePart| text[part.start as usize..][..part.length as usize].to_vec();
    let path = |n: usize| format!("f{n}").into_bytes();
    let plain: Vec<Change> = parts.iter().enumerate().map(|(n, p)| file(&path(n), &as_bytes(p))).collect();
    let mut stored = plain.clone();
    stored.iter_mut().zip(&parts).for_each(|(change, part)| change.content = Content::Part(part.clone()));
    let (want, bytes) = encoded(&plain, Compression::default(), 2);
    let (found, again) = encoded(&stored, Compression::default(), 2);
    assert!(bytes == again && want.diff_id == found.diff_id && want.tree == found.tree);
    stored[2].content = Content::Part(FilePart { length: 1, ..parts[2].clone() });
    let short = encode_with(&stored.as_slice().into(), &EncodeOptions::default(), &mut io::sink());
    assert!(matches!(short, Err(LayerError::ContentSize { .. })), "{short:?}");
}

/// With or without chunks that are remembered, and where what is asked for does not fit together.
#[test]
fn a_second_pass_gives_what_one_pass_gives() {
    let changes: ChangeList = many_files().into();
    let compression = Compression::default();
    let encode = |options: &EncodeOptions<'_>| {
        let mut bytes = Vec::new();
        let encoded = encode_with(&changes, options, &mut bytes).unwrap();
        (bytes, encoded)
    };
    let folder = tempfile::tempdir().unwrap();
    let (files, blob) = (folder.path().join("files"), folder.path().join("blob"));
    std::fs::create_dir(&files).unwrap();
    let memory = ChunkMemory::new();
    let (wanted, once) = encode(&EncodeOptions { memory: Some(&memory), ..Default::default() });
    std::fs::write(&blob, &wanted).unwrap();
    let first =
        EncodeOptions { compression: Compression::Uncompressed, later: Some(compression), ..Default::default() };
    let (_, ahead) = encode(&EncodeOptions { temporary_folder: Some(folder.path()), ..first });
    let (_, first) = encode(&first);
    let (ahead, first) = (ahead.first_pass.unwrap(), first.first_pass.unwrap());
    assert!(ahead.ahead.is_some() && first.ahead.is_none());
    memory.add(once.chunks.as_ref().unwrap(), &blob);
    for options in [
        EncodeOptions { first_pass: Some(&first), ..Default::default() },
        EncodeOptions { first_pass: Some(&ahead), ..Default::default() },
        EncodeOptions { first_pass: Some(&first), memory: Some(&memory), ..Default::default() },
        EncodeOptions { first_pass: Some(&first), unpack_into: Some(&files), ..Default::default() },
        EncodeOptions { later: Some(compression), ..Default::default() },
    ] {
        let (bytes, second) = encode(&options);
        assert!(bytes == wanted && second.first_pass.is_none());
        assert_eq!((second.diff_id, second.digest, second.size), (once.diff_id, once.digest, once.size));
        assert!(second.tree == once.tree && second.uncompressed_size == once.uncompressed_size);
    }
    let other = EncodeOptions { compression: Compression::Gzip { level: 9 }, ..Default::default() };
    assert!(encode(&EncodeOptions { first_pass: Some(&first), ..other }).0 == encode(&other).0);
}
