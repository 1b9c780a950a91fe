use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::tree::{Entry, Timestamp, sort_changes};

fn change(path: &str, node: Node, mode: u32) -> Change {
    let metadata =
        Metadata { mode, uid: 1234, gid: 1234, modified: Timestamp::from_seconds(1_000_000_000), ..Default::default() };
    Change::new(Entry { path: TreePath::clean(path.as_bytes()), node, metadata })
}

fn file(path: &str, text: &str, mode: u32) -> Change {
    let content = Content::Bytes(text.as_bytes().into());
    Change { content, ..change(path, Node::File { size: text.len() as u64 }, mode) }
}

fn folder(path: &str, mode: u32) -> Change {
    change(path, Node::Directory { opaque: false }, mode)
}

fn tree() -> Vec<Change> {
    let mut changes = vec![
        folder("a", 0o755),
        folder("a/closed", 0o500),
        file("a/closed/file", "closed", 0o400),
        file("a/tool", "#!", 0o4755),
        change("a/again", Node::HardLink { target: TreePath::clean(b"a/closed/file") }, 0),
        change("a/link", Node::Symlink { target: b"/etc/passwd".to_vec() }, 0o777),
        change("a/pipe", Node::Fifo, 0o600),
        folder("empty", 0o1777),
        file(&"n".repeat(255), "long", 0o644),
        file("top", "top", 0o644),
    ];
    sort_changes(&mut changes);
    changes
}

#[test]
fn puts_a_tree_into_a_folder_twice() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out/put");
    for _ in 0..2 {
        assert_eq!(put_changes(&tree(), &target, LocalOptions::default()).unwrap(), LocalReport::default());
    }
    let metadata = |path: &str| fs::symlink_metadata(target.join(path)).unwrap();
    for (path, mode) in
        [("a", 0o755), ("a/closed", 0o500), ("a/closed/file", 0o400), ("a/tool", 0o4755), ("empty", 0o1777)]
    {
        assert_eq!(metadata(path).mode() & 0o7777, mode, "{path}");
    }
    for path in ["a", "a/closed", "a/closed/file", "a/link", "a/pipe", "empty", "top"] {
        let metadata = metadata(path);
        assert_eq!((metadata.mtime(), metadata.uid()), (1_000_000_000, rustix::process::geteuid().as_raw()), "{path}");
    }
    assert_eq!(metadata("a/again").ino(), metadata("a/closed/file").ino());
    assert_eq!(fs::read_link(target.join("a/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read(target.join("n".repeat(255))).unwrap(), b"long");
    assert_eq!(fs::read_dir(target.join("a")).unwrap().count(), 5);
}

#[test]
fn makes_folders_that_have_no_entries() {
    let dir = tempfile::tempdir().unwrap();
    put_changes(&[file("a/b/c", "x", 0o644)], dir.path(), LocalOptions::default()).unwrap();
    assert_eq!(fs::read(dir.path().join("a/b/c")).unwrap(), b"x");
}

#[test]
fn links_in_the_target_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (target, outside) = (dir.path().join("out"), dir.path().join("outside"));
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(&target).unwrap();
    fs::write(outside.join("canary"), "x").unwrap();
    symlink(&outside, target.join("a")).unwrap();
    symlink(outside.join("canary"), target.join("top")).unwrap();
    fs::create_dir_all(target.join(format!("{}/sub", "n".repeat(255)))).unwrap();
    put_changes(&tree(), &target, LocalOptions::default()).unwrap();
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"x");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert!(fs::symlink_metadata(target.join("a")).unwrap().is_dir());
    assert_eq!(fs::read(target.join("top")).unwrap(), b"top");
    assert_eq!(fs::read(target.join("n".repeat(255))).unwrap(), b"long");
}

#[test]
fn other_things_stay_or_go() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, stays) in [(LocalMode::Copy, true), (LocalMode::Delete, false)] {
        for path in ["mine", "a/mine", "empty/mine"] {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), "x").unwrap();
        }
        put_changes(&tree(), dir.path(), LocalOptions { mode }).unwrap();
        for path in ["mine", "a/mine", "empty/mine"] {
            assert_eq!(dir.path().join(path).exists(), stays, "{path}");
        }
        assert!(dir.path().join("a/again").exists());
    }
}

#[test]
fn a_file_that_failed_leaves_nothing_and_keeps_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "old").unwrap();
    let mut bad = file("file", "new", 0o644);
    bad.entry.node = Node::File { size: 4 };
    let error = put_changes(&[bad], dir.path(), LocalOptions::default()).unwrap_err();
    assert!(matches!(error, ImageError::Local { action: "write", .. }));
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let mode = fs::metadata(dir.path().join("file")).unwrap().permissions().mode();
    assert_ne!(mode & 0o400, 0);
}
