use super::*;
use crate::error::ErrorKind;
use crate::exec::layers::Stops;
use crate::store::Store;
use crate::sys::bulk::Way;
use crate::tree::{
    Change, Content, ContentMark, Entry, Metadata, Node, OpenContent, SourceFile, Timestamp, TreePath, sort_changes,
};

const WAYS: [Way; 2] = [Way::Cached, Way::Direct];

fn open(root: &std::path::Path) -> Arc<Layers> {
    Arc::new(Layers::new(Store::open(root).unwrap(), Stops::default(), None))
}

/// A file of three chunks.
fn large() -> ChangeList {
    let bytes: Vec<u8> = (0..500_000_u32).flat_map(|n| format!("{} ", n.wrapping_mul(n) % 9973).into_bytes()).collect();
    let node = Node::File { size: bytes.len() as u64 };
    let entry =
        Entry { path: TreePath::clean(b"large"), node, metadata: Metadata { mode: 0o644, ..Metadata::default() } };
    vec![Change { entry, content: Content::Bytes(bytes.into()) }].into()
}

/// What a step asks for that a command follows.
fn later(compression: Compression) -> AddOptions {
    AddOptions { later: Some(compression), unpack: true, ..AddOptions::default() }
}

fn single(diff_id: DiffId) -> StackLayer {
    StackLayer { diff_id, base_blob: None }
}

#[test]
fn a_layer_compressed_later_is_the_same_as_one_compressed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let compressions = [Compression::default(), Compression::Zstd { level: 3 }, Compression::Uncompressed];
    for (way, compression) in WAYS.into_iter().flat_map(|way| compressions.map(|compression| (way, compression))) {
        let mut bytes = Vec::new();
        let at_once = layer::encode(&large(), compression, &mut bytes).unwrap();
        let layers = open(&dir.path().join(format!("{way:?} {compression:?}")));
        layers.store().pace().fix(way);
        let diff_id = layers.add(&large(), later(compression)).unwrap();
        assert_eq!(layers.known_blob(diff_id, compression).unwrap(), None);
        layers.blob_in_background(&single(diff_id), compression);
        let found = layers.known_blob(diff_id, compression).unwrap();
        assert_eq!(found.map(|blob| blob.digest), Some(at_once.digest), "{way:?} {compression:?}");
        let blob = layers.store().blob_path(&at_once.digest);
        assert!(std::fs::read(blob).unwrap() == bytes);
    }
}

/// Entries whose record and files on disk say less than the source they came from.
#[test]
fn whatever_is_copied_can_be_compressed_later() {
    let dir = tempfile::tempdir().unwrap();
    let change = |path: &[u8], node: Node, bytes: &[u8]| {
        let modified = Timestamp { seconds: -5_000_000_000, nanoseconds: 123_456_789 };
        let capability = [[1, 0, 0, 2].as_slice(), &[1; 16]].concat();
        let xattrs = [("user.kept", b"v".to_vec()), ("security.capability", capability), ("trusted.overlay.x", vec![])];
        let xattrs = xattrs.into_iter().filter(|_| matches!(node, Node::File { .. }));
        let xattrs = xattrs.map(|(name, value)| (name.as_bytes().to_vec(), value)).collect();
        let metadata = Metadata { mode: 0o4711, uid: 0, gid: 3_000_000, modified, xattrs };
        let content = if bytes.is_empty() { Content::None } else { Content::Bytes(bytes.into()) };
        Change { entry: Entry { path: TreePath::clean(path), node, metadata }, content }
    };
    let file = |path: &[u8], bytes: &[u8]| change(path, Node::File { size: bytes.len() as u64 }, bytes);
    let long = [b"long/".as_slice(), &[b'n'; 200]].concat();
    let mut changes = vec![
        file(b"implied/deep/file", b"text"),
        file(b"empty", b""),
        file(&long, &vec![7; 3_000_000]),
        file("name \u{e4} \n".as_bytes(), b"text"),
        change(b"directory", Node::Directory { opaque: false }, b""),
        change(b"link", Node::Symlink { target: vec![b't'; 150] }, b""),
        change(b"pipe", Node::Fifo, b""),
        change(b"zz/hard", Node::HardLink { target: TreePath::clean(&long) }, b""),
    ];
    sort_changes(&mut changes);
    let changes = ChangeList::from(changes);
    let compression = Compression::default();
    let at_once = layer::encode(&changes, compression, &mut io::sink()).unwrap();
    for is_known in [true, false] {
        let root = dir.path().join(is_known.to_string());
        let mut layers = open(&root);
        let diff_id = layers.add(&changes, later(compression)).unwrap();
        if !is_known {
            layers = open(&root);
        }
        assert_eq!(layers.blob(&single(diff_id), compression).unwrap().digest, at_once.digest);
    }
}

/// Whether this process made the layer, so that they are not digested again, or an earlier one.
#[test]
fn files_that_changed_since_they_were_unpacked_are_noticed() {
    for (is_known, way) in [(true, Way::Cached), (true, Way::Direct), (false, Way::Direct)] {
        let dir = tempfile::tempdir().unwrap();
        let mut layers = open(dir.path());
        layers.store().pace().fix(way);
        let diff_id = layers.add(&large(), later(Compression::default())).unwrap();
        let path = layers.unpacked(diff_id).unwrap().folder.join("large");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[2_000_000] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        if !is_known {
            layers = open(dir.path());
        }
        let error = layers.blob(&single(diff_id), Compression::default()).unwrap_err();
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
        assert!(matches!(source, Some(StoreError::LayerLost { diff_id: lost }) if *lost == diff_id), "{error:?}");
        assert!(layers.store().sound_layer(diff_id).unwrap().is_none());
        assert_eq!(layers.known_blob(diff_id, Compression::default()).unwrap(), None);
    }
}

/// Files that an earlier layer has too, and that can't be opened any more.
#[test]
fn of_an_edited_layer_only_what_follows_the_edit_is_read() {
    struct Lost;
    impl OpenContent for Lost {
        fn open(&self, _: &TreePath, _: u64) -> io::Result<std::fs::File> {
            Err(io::ErrorKind::NotFound.into())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let compression = Compression::default();
    let first = large().iter().next().unwrap().unwrap();
    let Content::Bytes(bytes) = &first.content else { unreachable!() };
    let mark = Some(ContentMark::from(&blake3::hash(bytes)));
    let opener: Arc<dyn OpenContent> = Arc::new(Lost);
    let lost = Content::Source(SourceFile { opener, path: TreePath::clean(b"large"), stamp: 0, mark });
    let second = |size: usize| {
        let entry =
            Entry { path: TreePath::clean(b"later"), node: Node::File { size: size as u64 }, ..first.entry.clone() };
        Change { entry, content: Content::Bytes(vec![7; size].into()) }
    };
    let edited = ChangeList::from(vec![Change { content: lost, ..first.clone() }, second(1_100_000)]);
    let clean = layer::encode(&ChangeList::from(vec![first.clone(), second(1_100_000)]), compression, &mut io::sink());
    for unpack in [false, true] {
        let layers = open(&dir.path().join(unpack.to_string()));
        let options = AddOptions { compression: Some(compression), unpack, ..AddOptions::default() };
        let earlier = layers.add(&ChangeList::from(vec![first.clone(), second(1_200_000)]), options).unwrap();
        let options = AddOptions { earlier: Some(earlier), ..options };
        assert!(layers.add(&edited, AddOptions { earlier: None, ..options }).is_err());
        let diff_id = layers.add(&edited, options).unwrap();
        let blob = layers.known_blob(diff_id, compression).unwrap().map(|blob| blob.digest);
        assert_eq!(blob, clean.as_ref().ok().map(|layer| layer.digest));
        let unpacked = layers.store().sound_layer(diff_id).unwrap();
        assert_eq!(unpacked.is_some_and(|unpacked| unpacked.over.is_some()), unpack);
    }
}

#[test]
fn a_cancelled_build_encodes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let layers = open(dir.path());
    layers.stops.cancel.cancel();
    let at_once = AddOptions { compression: Some(Compression::default()), unpack: true, ..AddOptions::default() };
    for options in [at_once, later(Compression::default())] {
        let error = layers.add(&large(), options).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Cancelled), "{error:?}");
    }
    let blobs = std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count();
    let layer_folders = std::fs::read_dir(dir.path().join("layers")).unwrap().count();
    assert_eq!((blobs, layer_folders), (0, 0));
}

/// A cache may still be exported, for which somebody waits.
#[test]
fn after_a_failure_nothing_is_compressed_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let layers = open(dir.path());
    let compression = Compression::default();
    let diff_id = layers.add(&large(), later(compression)).unwrap();
    layers.stops.failed.cancel();
    layers.blob_in_background(&single(diff_id), compression);
    assert_eq!(layers.known_blob(diff_id, compression).unwrap(), None);
    let stopped = layers.blob_by(&single(diff_id), compression, Work::BlobAhead(diff_id)).unwrap_err();
    assert!(matches!(stopped.kind, ErrorKind::Cancelled), "{stopped:?}");
    layers.blob(&single(diff_id), compression).unwrap();
}
