use std::fs::File;

use super::*;
use crate::tree::{Timestamp, flatten};

/// Files of a layer by their contents.
struct Files(BTreeMap<TreePath, Vec<u8>>);

impl OpenContent for Files {
    fn open(&self, path: &TreePath, _: u64) -> io::Result<File> {
        use std::io::{Seek, Write};
        let bytes = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(file)
    }
}

pub(in super::super) type Item = (TreeEntry, Vec<u8>);

fn item(path: &str, node: Node, bytes: &[u8]) -> Item {
    let digest = matches!(node, Node::File { .. }).then(|| blake3::hash(bytes));
    let metadata = Metadata { mode: 0o644, modified: Timestamp::from_seconds(1), ..Metadata::default() };
    (TreeEntry { entry: Entry { path: TreePath::clean(path.as_bytes()), node, metadata }, digest }, bytes.to_vec())
}

pub(in super::super) fn file(path: &str, text: &str) -> Item {
    item(path, Node::File { size: text.len() as u64 }, text.as_bytes())
}

pub(in super::super) fn directory(path: &str) -> Item {
    item(path, Node::Directory { opaque: false }, b"")
}

pub(in super::super) fn symlink(path: &str, target: &str) -> Item {
    item(path, Node::Symlink { target: target.as_bytes().to_vec() }, b"")
}

pub(in super::super) fn opaque(path: &str) -> Item {
    item(path, Node::Directory { opaque: true }, b"")
}

pub(in super::super) fn whiteout(path: &str) -> Item {
    item(path, Node::Whiteout, b"")
}

pub(in super::super) fn hard_link(path: &str, target: &str) -> Item {
    item(path, Node::HardLink { target: TreePath::clean(target.as_bytes()) }, b"")
}

pub(in super::super) fn merged(layers: &[&[Item]]) -> MergedTree {
    let layer = |items: &&[Item]| TreeLayer {
        tree: Arc::new(Tree::build(items.iter().map(|(entry, _)| entry.clone()).collect())),
        files: Arc::new(Files(items.iter().map(|(entry, bytes)| (entry.entry.path.clone(), bytes.clone())).collect())),
    };
    MergedTree::new(layers.iter().map(layer).collect())
}

fn listing(tree: &MergedTree) -> String {
    let names = tree.walk(&TreePath::root()).unwrap().skip(1).map(|entry| {
        let entry = entry.unwrap();
        let mark = if entry.node.is_directory() { "/" } else { "" };
        format!("{}{mark}", String::from_utf8_lossy(entry.path.as_bytes()))
    });
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn layers_are_merged_like_overlayfs_does() {
    let base: &[Item] = &[directory("a"), file("a/x", "1"), directory("a/d"), file("a/d/y", "2"), file("f", "3")];
    for (what, upper, want) in [
        ("nothing", &[] as &[Item], "a/ a/d/ a/d/y a/x f"),
        ("whiteout of a file", &[whiteout("a/x")], "a/ a/d/ a/d/y f"),
        ("whiteout of a directory", &[whiteout("a")], "f"),
        ("opaque", &[opaque("a"), file("a/n", "")], "a/ a/n f"),
        ("opaque inside", &[directory("a"), opaque("a/d")], "a/ a/d/ a/x f"),
        ("file over directory", &[file("a", "")], "a f"),
        ("directory over file", &[directory("f"), file("f/n", "")], "a/ a/d/ a/d/y a/x f/ f/n"),
        ("implied parent", &[file("a/d/n", "")], "a/ a/d/ a/d/n a/d/y a/x f"),
        ("implied over file", &[file("f/g/n", "")], "a/ a/d/ a/d/y a/x f/ f/g/ f/g/n"),
        ("link over directory", &[symlink("a", "f")], "a f"),
        ("whiteout of nothing", &[whiteout("zz")], "a/ a/d/ a/d/y a/x f"),
    ] {
        let tree = merged(&[base, upper]);
        assert_eq!(listing(&tree), want, "{what}");
        // Looking up one by one agrees with walking.
        for entry in tree.walk(&TreePath::root()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(tree.get(&entry.path).unwrap().as_ref(), Some(&entry), "{what}");
        }
        for path in ["a", "a/x", "a/d", "a/d/y", "f", "f/n", "a/n", "zz"] {
            let found = tree.get(&TreePath::clean(path.as_bytes())).unwrap().is_some();
            assert_eq!(found, want.split(' ').any(|name| name.trim_end_matches('/') == path), "{what}: {path}");
        }
    }
}

#[test]
fn three_layers() {
    let tree = merged(&[
        &[directory("d"), file("d/one", "1"), file("d/keep", "low")],
        &[whiteout("d")],
        &[directory("d"), file("d/two", "2")],
    ]);
    assert_eq!(listing(&tree), "d/ d/two");
    let tree = merged(&[&[file("d/one", "1")], &[symlink("d", "x")], &[directory("d"), file("d/two", "2")]]);
    assert_eq!(listing(&tree), "d/ d/two");
}

#[test]
fn topmost_directory_gives_the_metadata() {
    let with_mode = |mut item: Item, mode| {
        item.0.entry.metadata.mode = mode;
        item
    };
    let lower = with_mode(directory("d"), 0o700);
    let tree = merged(&[std::slice::from_ref(&lower), &[with_mode(directory("d"), 0o711)]]);
    assert_eq!(tree.get(&TreePath::clean(b"d")).unwrap().unwrap().metadata.mode, 0o711);
    let tree = merged(&[&[lower], &[file("d/x", "")]]);
    assert_eq!(tree.get(&TreePath::clean(b"d")).unwrap().unwrap().metadata.mode, 0o700);
    assert_eq!(tree.walk(&TreePath::clean(b"d")).unwrap().next().unwrap().unwrap().metadata.mode, 0o700);
    let tree = merged(&[&[file("new/x", "")]]);
    assert_eq!(tree.get(&TreePath::clean(b"new")).unwrap().unwrap().metadata.mode, 0o755);
}

#[test]
fn hard_links_are_files() {
    let low: &[Item] = &[file("a", "one"), hard_link("b", "a"), file("single", "")];
    let tree = merged(&[low, &[file("c", "two"), hard_link("d", "c")]]);
    let id = |path: &str| tree.link_id(&TreePath::clean(path.as_bytes())).unwrap();
    assert!(id("a").is_some() && id("a") == id("b") && id("c") == id("d") && id("a") != id("c"));
    assert_eq!(id("single"), None);
    let b = tree.get(&TreePath::clean(b"b")).unwrap().unwrap();
    assert_eq!((b.path.as_bytes(), &b.node), (b"b".as_slice(), &Node::File { size: 3 }));
    assert_eq!(tree.content_digest(&TreePath::clean(b"b")).unwrap(), blake3::hash(b"one"));
    assert!(matches!(tree.content(&TreePath::clean(b"b")).unwrap(), Content::Source(_)));
    let nodes: Vec<_> = flatten(&tree).unwrap().into_iter().map(|change| change.entry.node).collect();
    let link = |target: &[u8]| Node::HardLink { target: TreePath::clean(target) };
    let (file, empty) = (Node::File { size: 3 }, Node::File { size: 0 });
    assert_eq!(nodes, [file.clone(), link(b"a"), file, link(b"c"), empty]);
}

#[test]
fn hidden_first_name_leaves_the_other_a_file() {
    let tree = merged(&[&[file("a", "one"), hard_link("b", "a")], &[whiteout("a")]]);
    let nodes: Vec<_> = flatten(&tree).unwrap().into_iter().map(|change| change.entry).collect();
    assert_eq!(nodes.len(), 1);
    assert_eq!((nodes[0].path.as_bytes(), &nodes[0].node), (b"b".as_slice(), &Node::File { size: 3 }));
}

#[test]
fn only_regular_files_have_content() {
    let tree = merged(&[&[directory("d"), symlink("l", "x")]]);
    for path in ["d", "l", "none"] {
        assert!(tree.content(&TreePath::clean(path.as_bytes())).is_err(), "{path}");
    }
}
