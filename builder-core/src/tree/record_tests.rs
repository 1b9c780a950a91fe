use super::*;
use crate::tree::{Metadata, Node, Timestamp};

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

#[test]
fn round_trip() {
    let mut entries = one_of_each();
    entries.reverse();
    let tree = Tree::build(entries);
    let again = Tree::from_bytes(tree.as_bytes().to_vec()).unwrap();
    assert_eq!(again.digest(), tree.digest());
    let mut want = one_of_each();
    want.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    assert_eq!(again.iter().collect::<Vec<_>>(), want);
    for entry in want {
        assert_eq!(again.get(&entry.entry.path), Some(entry));
    }
    for path in ["d/deep", "e", "zzz", "d/deep/er/file/x"] {
        assert_eq!(again.get(&TreePath::clean(path.as_bytes())), None, "{path}");
    }
    let Slot::Record(first) = again.slot(&TreePath::clean(b"f")) else { panic!("f is there") };
    assert!(again.has_links(first) && !again.has_links(0));
}

#[test]
fn parts() {
    let tree = Tree::build(one_of_each());
    let names =
        |entries: Vec<TreeEntry>| entries.iter().map(|e| e.entry.path.to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(names(tree.children(&TreePath::root()).collect()), "/d /d.x /f /fifo /hard /link");
    assert_eq!(names(tree.children(&TreePath::clean(b"d")).collect()), "/d/block /d/char");
    assert_eq!(names(tree.children(&TreePath::clean(b"d/deep/er")).collect()), "/d/deep/er/file");
    assert_eq!(names(tree.range(&TreePath::clean(b"d")).collect()), "/d /d/block /d/char /d/deep/er/file");
    assert_eq!(names(tree.range(&TreePath::clean(b"d/deep")).collect()), "/d/deep/er/file");
    let slots: Vec<_> = tree.child_slots(&TreePath::clean(b"d")).map(|(path, _)| path.to_string()).collect();
    assert_eq!(slots, ["/d/block", "/d/char", "/d/deep"]);
    assert_eq!(tree.slot(&TreePath::clean(b"d/deep")), Slot::Implied);
    assert_eq!(tree.slot(&TreePath::clean(b"d/dee")), Slot::Absent);
}

#[test]
fn times_aside() {
    let tree = Tree::build(one_of_each());
    let mut entries = one_of_each();
    for entry in &mut entries {
        entry.entry.metadata.modified = Timestamp::from_seconds(1);
    }
    let later = Tree::build(entries.clone());
    assert!(tree.same_but_times(&later) && tree.digest() != later.digest());
    assert_eq!(tree.digest_without_times(), later.digest_without_times());
    entries[6].digest = Some(blake3::hash(b"other"));
    let other = Tree::build(entries);
    assert!(!tree.same_but_times(&other) && tree.digest_without_times() != other.digest_without_times());
}

#[test]
fn last_of_one_path_stays() {
    let tree = Tree::build(vec![entry("a", Node::Fifo), entry("a", Node::Whiteout)]);
    assert_eq!(tree.iter().map(|e| e.entry.node).collect::<Vec<_>>(), [Node::Whiteout]);
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let good = Tree::build(one_of_each()).as_bytes().to_vec();
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
                let _ = (tree.get(&path), tree.children(&path).count(), tree.range(&path).count());
            }
            let _ = (tree.iter().count(), tree.digest_without_times());
        }
    }
}
