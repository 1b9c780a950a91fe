use super::*;
use crate::tree::{Metadata, Node, Timestamp, TreeBuilder};

fn entry(path: &str, node: Node) -> TreeEntry {
    let metadata = Metadata {
        mode: 0o6755,
        uid: 3_000_000_000,
        gid: 7,
        modified: Timestamp { seconds: -5, nanoseconds: 999_999_999 },
        xattrs: [(b"user.a=b".to_vec(), vec![0, 255]), (b"user.empty".to_vec(), Vec::new())].into(),
    };
    let digest = matches!(node, Node::File { .. }).then(|| blake3::hash(path.as_bytes()));
    TreeEntry { entry: Entry { path: TreePath::new(path.as_bytes()).unwrap(), node, metadata }, digest }
}

fn one_of_each() -> Vec<TreeEntry> {
    vec![
        entry("", Node::Directory { opaque: false }),
        entry("d", Node::Directory { opaque: true }),
        entry("d/char", Node::CharDevice { major: 4095, minor: 1_048_575 }),
        entry("d/block", Node::BlockDevice { major: u32::MAX, minor: u32::MAX }),
        entry("d/deep/er/file", Node::File { size: u64::MAX }),
        entry("d.x", Node::Whiteout),
        entry("f", Node::File { size: 3 }),
        entry("fifo", Node::Fifo),
        entry("hard", Node::HardLink { target: TreePath::clean(b"f") }),
        entry("link", Node::Symlink { target: b"\xff/../x".to_vec() }),
    ]
}

fn bytes_of(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    tree.reader().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn round_trip() {
    let mut entries = one_of_each();
    entries.reverse();
    let tree = Tree::build(entries);
    let again = Tree::from_bytes(bytes_of(&tree)).unwrap();
    assert_eq!(again.digest(), tree.digest());
    let mut want = one_of_each();
    want.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    assert_eq!(again.iter().collect::<Result<Vec<_>, _>>().unwrap(), want);
    for entry in want {
        assert_eq!(again.get(&entry.entry.path).unwrap(), Some(entry));
    }
    for path in ["d/deep", "e", "zzz", "d/deep/er/file/x"] {
        assert_eq!(again.get(&TreePath::clean(path.as_bytes())).unwrap(), None, "{path}");
    }
    let Slot::Record(first) = again.slot(&TreePath::clean(b"f")).unwrap() else { panic!("f is there") };
    assert!(again.has_links(first).unwrap() && !again.has_links(0).unwrap());
}

fn slots(tree: &Tree, directory: &[u8]) -> String {
    let slots = tree.child_slots(&TreePath::clean(directory)).unwrap();
    slots.map(|child| child.unwrap().0.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn parts() {
    let tree = Tree::build(one_of_each());
    assert_eq!(slots(&tree, b""), "/d /d.x /f /fifo /hard /link");
    assert_eq!(slots(&tree, b"d"), "/d/block /d/char /d/deep");
    assert_eq!(slots(&tree, b"d/deep/er"), "/d/deep/er/file");
    assert_eq!(tree.slot(&TreePath::clean(b"d/deep")).unwrap(), Slot::Implied);
    assert_eq!(tree.slot(&TreePath::clean(b"d/dee")).unwrap(), Slot::Absent);
}

/// Entries that take more than what may be in memory: two directories full, and one that is only implied.
fn many() -> Vec<TreeEntry> {
    let mut entries =
        vec![entry("a", Node::Directory { opaque: false }), entry("c", Node::Directory { opaque: false })];
    let files = (0..9000).map(|n| entry(&format!("{}/file-{n:05}", ["a", "b/x", "c"][n % 3]), Node::File { size: 7 }));
    entries.extend(files);
    entries.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    entries
}

fn build_in(folder: &std::path::Path, entries: &[TreeEntry]) -> Tree {
    let mut tree = TreeBuilder::new(Some(folder));
    entries.iter().for_each(|entry| tree.add(entry, false).unwrap());
    tree.finish().unwrap()
}

/// A tree whose bytes are in a file again, as a store gives them.
fn stored(folder: &std::path::Path, bytes: &[u8]) -> io::Result<Result<Tree, TreeRecordError>> {
    let path = folder.join("stored");
    std::fs::write(&path, [bytes, b"and a footer"].concat()).unwrap();
    Tree::from_file(File::options().read(true).write(true).open(path).unwrap(), bytes.len() as u64)
}

#[test]
fn a_large_record_in_a_file_is_the_one_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let entries = many();
    let memory = Tree::build(entries.clone());
    let built = build_in(folder.path(), &entries);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    assert!(bytes_of(&built) == bytes_of(&memory));
    let read = stored(folder.path(), &bytes_of(&built)).unwrap().unwrap();
    for tree in [&built, &read] {
        assert!(matches!(tree.bytes, Bytes::File(..)));
        assert_eq!((tree.digest(), tree.len()), (memory.digest(), memory.len()));
        assert!(tree.same_but_times(&memory).unwrap());
        assert_eq!(tree.iter().collect::<Result<Vec<_>, _>>().unwrap(), entries);
        for directory in ["", "a", "b", "b/x", "c", "a/file-00003", "d"] {
            assert_eq!(slots(tree, directory.as_bytes()), slots(&memory, directory.as_bytes()), "{directory}");
        }
        for entry in entries.iter().step_by(61) {
            let path = &entry.entry.path;
            assert_eq!(tree.get(path).unwrap().as_ref(), Some(entry));
            for other in [path.join(b"x"), TreePath::clean(&[path.as_bytes(), b"0"].concat())] {
                assert_eq!(tree.slot(&other).unwrap(), Slot::Absent);
            }
        }
    }
}

#[test]
fn a_large_record_that_changes_later_is_an_error_and_nothing_counts_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let entries = many();
    let bytes = bytes_of(&build_in(folder.path(), &entries));
    let table = bytes.len() - DIGEST_SIZE - 8 * entries.len();
    for at in [5, 20, 40, bytes.len() / 3, table - 1, table, table + 4001, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(stored(folder.path(), &changed).unwrap().is_err(), "byte {at} before it is opened");
        let tree = stored(folder.path(), &bytes).unwrap().unwrap();
        std::fs::write(folder.path().join("stored"), &changed).unwrap();
        let read = tree.iter().filter(Result::is_ok).count();
        let in_a_block = (HEADER_SIZE..bytes.len() - DIGEST_SIZE).contains(&at);
        assert_eq!(read < entries.len(), in_a_block, "byte {at}: {read} entries");
        assert_eq!(entries.iter().step_by(50).any(|entry| tree.get(&entry.entry.path).is_err()), in_a_block);
        assert!(entries.iter().step_by(50).all(|entry| !matches!(tree.get(&entry.entry.path), Ok(None))));
    }
}

#[test]
fn times_aside() {
    let tree = Tree::build(one_of_each());
    let mut entries = one_of_each();
    for entry in &mut entries {
        entry.entry.metadata.modified = Timestamp::from_seconds(1);
    }
    let later = Tree::build(entries.clone());
    assert!(tree.same_but_times(&later).unwrap() && tree.digest() != later.digest());
    entries[6].digest = Some(blake3::hash(b"other"));
    assert!(!tree.same_but_times(&Tree::build(entries)).unwrap());
}

#[test]
fn last_of_one_path_stays() {
    let tree = Tree::build(vec![entry("a", Node::Fifo), entry("a", Node::Whiteout)]);
    assert_eq!(tree.iter().map(|e| e.unwrap().entry.node).collect::<Vec<_>>(), [Node::Whiteout]);
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let good = bytes_of(&Tree::build(one_of_each()));
    for length in 0..good.len() {
        assert!(Tree::from_bytes(good[..length].to_vec()).is_err(), "cut to {length}");
    }
    for index in 0..good.len() {
        let mut bytes = good.clone();
        bytes[index] ^= 0x55;
        assert!(Tree::from_bytes(bytes.clone()).is_err(), "byte {index}");
        // With a digest that matches, nothing is promised but that reading ends.
        let end = bytes.len() - DIGEST_SIZE;
        let digest = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(digest.as_bytes());
        if let Ok(tree) = Tree::from_bytes(bytes) {
            for path in ["", "d", "d/deep", "f"].map(|path| TreePath::clean(path.as_bytes())) {
                let _ = (tree.get(&path), tree.child_slots(&path).map(Iterator::count));
            }
            let _ = (tree.iter().count(), tree.same_but_times(&tree));
        }
    }
}
