//! What holds for all trees: a difference put on top of a tree gives the other tree, and reading undoes writing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::layer::{Compression, encode, unpack_changes};
use crate::tree::{
    Change, Content, Entry, MergedTree, OpenContent, Timestamp, TreeLayer, TreePath, TreeView, Xattrs, flatten,
    sort_changes,
};

/// A tree by path; the contents of files beside their entries.
type Files = BTreeMap<TreePath, (Node, u32, Vec<u8>)>;

/// Few names and small depth, so that two trees often meet.
fn path() -> impl Strategy<Value = TreePath> {
    vec(prop::sample::select(vec!["a", "b", "a.x", "\u{e4}"]), 1..4)
        .prop_map(|names| TreePath::clean(names.join("/").as_bytes()))
}

fn node() -> impl Strategy<Value = (Node, u32, Vec<u8>)> {
    let node = prop_oneof![
        3 => Just((Node::Directory { opaque: false }, Vec::new())),
        3 => vec(any::<u8>(), 0..3).prop_map(|bytes| (Node::File { size: bytes.len() as u64 }, bytes)),
        1 => Just((Node::Symlink { target: b"a".to_vec() }, Vec::new())),
        1 => Just((Node::Fifo, Vec::new())),
    ];
    (node, prop::sample::select(vec![0o600, 0o755])).prop_map(|((node, bytes), mode)| (node, mode, bytes))
}

/// A tree in which every parent is a directory.
fn tree() -> impl Strategy<Value = Files> {
    btree_map(path(), node(), 0..12).prop_map(|entries| {
        let mut files = Files::new();
        for (path, entry) in entries {
            for ancestor in path.ancestors() {
                files.insert(ancestor, (Node::Directory { opaque: false }, 0o711, Vec::new()));
            }
            files.insert(path, entry);
        }
        files
    })
}

fn change(path: &TreePath, (node, mode, bytes): &(Node, u32, Vec<u8>)) -> Change {
    let metadata = Metadata { mode: *mode, modified: Timestamp::from_seconds(9), ..Metadata::default() };
    let content = if bytes.is_empty() { Content::None } else { Content::Bytes(bytes.as_slice().into()) };
    Change { entry: Entry { path: path.clone(), node: node.clone(), metadata }, content }
}

/// What has to change for `old` to become `new`.
fn difference(old: &Files, new: &Files) -> Vec<Change> {
    let is_directory = |files: &Files, path: &TreePath| {
        path.is_root() || files.get(path).is_some_and(|(node, ..)| node.is_directory())
    };
    let mut changes: Vec<_> = new
        .iter()
        .filter(|(path, entry)| old.get(path) != Some(entry))
        .map(|(path, entry)| change(path, entry))
        .collect();
    for path in old.keys().filter(|path| !new.contains_key(path)) {
        if is_directory(new, &path.parent().unwrap()) {
            changes.push(change(path, &(Node::Whiteout, 0, Vec::new())));
        }
    }
    sort_changes(&mut changes);
    changes
}

struct Unpacked(tempfile::TempDir);

impl OpenContent for Unpacked {
    fn open(&self, path: &TreePath, _: u64) -> io::Result<File> {
        File::open(self.0.path().join(path.as_path()))
    }
}

/// A layer as it is after a journey: encoded, read and unpacked.
fn layer(changes: &[Change]) -> TreeLayer {
    let mut blob = Vec::new();
    let encoded = encode(&changes.into(), Compression::default(), &mut blob).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (want, limits) = (Some(encoded.diff_id), Limits::default());
    let read = read_layer(blob.as_slice(), encoded.media_type, want, Some(folder.path()), &limits).unwrap();
    assert_eq!(read.tree, encoded.tree);
    TreeLayer { tree: Arc::new(read.tree), files: Arc::new(Unpacked(folder)) }
}

fn contents(tree: &MergedTree) -> Files {
    let mut files = Files::new();
    for Change { entry, content } in flatten(tree).unwrap() {
        let mut bytes = Vec::new();
        if let Content::Source(source) = content {
            source.open().unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(tree.content_digest(&entry.path).unwrap(), blake3::hash(&bytes));
        }
        files.insert(entry.path, (entry.node, entry.metadata.mode, bytes));
    }
    files
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 1..6), vec(b'a'..=b'z', 90..110), vec(b'a'..=b'z', 240..=255),].prop_map(|mut name| {
        for byte in &mut name {
            if matches!(byte, 0 | b'/' | b'.') {
                *byte = b'_';
            }
        }
        name
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    let node = prop_oneof![
        vec(any::<u8>(), 0..2000).prop_map(|bytes| (Node::File { size: bytes.len() as u64 }, bytes)),
        vec(1..=255_u8, 1..300).prop_map(|target| (Node::Symlink { target }, Vec::new())),
        Just((Node::Fifo, Vec::new())),
        (1..0o777_7777_u32, 0..0o777_7777_u32)
            .prop_map(|(major, minor)| (Node::CharDevice { major, minor }, Vec::new())),
        Just((Node::Whiteout, Vec::new())),
        any::<bool>().prop_map(|opaque| (Node::Directory { opaque }, Vec::new())),
    ];
    let xattrs = btree_map("user\\.[a-z]{1,9}".prop_map(String::into_bytes), vec(any::<u8>(), 0..40), 0..3);
    let owner = 0..u32::MAX;
    let metadata = (0..0o10000_u32, owner.clone(), owner, any::<i32>(), xattrs).prop_map(
        |(mode, uid, gid, seconds, xattrs): (_, _, _, _, Xattrs)| {
            let modified = Timestamp::from_seconds(i64::from(seconds) * 9);
            Metadata { mode, uid, gid, modified, xattrs }
        },
    );
    (vec(name(), 1..5), node, metadata).prop_map(|(names, (node, bytes), mut metadata)| {
        let path = TreePath::new(&names.join(&b'/')).unwrap();
        if node == Node::Whiteout {
            metadata = Metadata::default();
        }
        let content = if bytes.is_empty() { Content::None } else { Content::Bytes(bytes.into()) };
        Change { entry: Entry { path, node, metadata }, content }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_on_top_of_a_tree_gives_the_other_tree(old in tree(), new in tree(), newest in tree()) {
        let layers = vec![
            layer(&difference(&Files::new(), &old)),
            layer(&difference(&old, &new)),
            layer(&difference(&new, &newest)),
        ];
        prop_assert_eq!(&contents(&MergedTree::new(layers[..1].to_vec())), &old);
        prop_assert_eq!(&contents(&MergedTree::new(layers[..2].to_vec())), &new);
        prop_assert_eq!(&contents(&MergedTree::new(layers.clone())), &newest);
        // A flattened tree is one layer.
        let flat = MergedTree::new(vec![layer(&flatten(&MergedTree::new(layers)).unwrap())]);
        prop_assert_eq!(&contents(&flat), &newest);
    }

    #[test]
    fn reading_undoes_writing(changes in vec(any_change(), 0..12)) {
        let mut changes = changes;
        sort_changes(&mut changes);
        // Something in what is no directory is no tree.
        let others: Vec<_> = changes.iter().filter(|change| !change.entry.node.is_directory()).map(|c| c.entry.path.clone()).collect();
        changes.retain(|change| !change.entry.path.ancestors().any(|ancestor| others.contains(&ancestor)));
        let mut blob = Vec::new();
        let encoded = encode(&changes.as_slice().into(), Compression::Zstd { level: 1 }, &mut blob).unwrap();
        let read = read_layer(blob.as_slice(), encoded.media_type, None, None, &Limits::default()).unwrap();
        prop_assert_eq!(&read.tree, &encoded.tree);
        prop_assert_eq!(read.tree.iter().map(|found| found.unwrap().entry).collect::<Vec<_>>(), changes.into_iter().map(|change| change.entry).collect::<Vec<_>>());
        prop_assert_eq!(read.diff_id, encoded.diff_id);
    }

    #[test]
    fn bytes_that_are_no_layer_never_panic(bytes in vec(any::<u8>(), 0..3000), start in prop::sample::select(vec![b"".as_slice(), b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd"])) {
        let bytes = [start, &bytes].concat();
        let _ = read_layer(bytes.as_slice(), "application/vnd.oci.image.layer.v1.tar", None, None, &Limits::default());
    }
}

#[test]
fn changes_unpack_to_what_their_layer_unpacks_to() {
    let old = Files::from([(TreePath::clean(b"d"), (Node::Directory { opaque: false }, 0o700, Vec::new()))]);
    let changes = difference(&Files::new(), &old);
    let folder = tempfile::tempdir().unwrap();
    unpack_changes(&changes.as_slice().into(), folder.path()).unwrap();
    let modes = |root: &Path| {
        use std::os::unix::fs::MetadataExt;
        ["", "d"].map(|path| std::fs::metadata(root.join(path)).unwrap().mode() & 0o7777)
    };
    assert_eq!(modes(folder.path()), [0o755, 0o700]);
}
