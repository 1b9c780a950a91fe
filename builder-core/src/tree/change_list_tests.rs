use std::fs::File;
use std::io;

use super::*;
use crate::tree::{ContentMark, SourceFile, Timestamp};

struct Nowhere;

impl OpenContent for Nowhere {
    fn open(&self, path: &TreePath, stamp: u64) -> io::Result<File> {
        Err(io::Error::other(format!("{path} {stamp}")))
    }
}

fn source(opener: &Arc<dyn OpenContent>, path: &str, stamp: u64) -> Content {
    let (opener, path) = (Arc::clone(opener), TreePath::clean(path.as_bytes()));
    let mark = stamp.is_multiple_of(3).then_some(ContentMark([stamp as u8; 16]));
    Content::Source(SourceFile { opener, path, stamp, mark })
}

/// Enough changes of all kinds for several blocks, sorted.
fn changes() -> Vec<Change> {
    let openers: [Arc<dyn OpenContent>; 2] = [Arc::new(Nowhere), Arc::new(Nowhere)];
    let target = TreePath::clean(b"d/00001");
    let kinds = [
        Node::Directory { opaque: false },
        Node::Directory { opaque: true },
        Node::Symlink { target: b"../\xff".to_vec() },
        Node::HardLink { target },
        Node::Fifo,
        Node::CharDevice { major: 300, minor: u32::MAX },
        Node::BlockDevice { major: 8, minor: 1 },
        Node::Whiteout,
    ];
    let all = (0..3 * BLOCK + 5).map(|n| {
        let (node, content) = match n % 13 {
            kind @ 0..8 => (kinds[kind].clone(), Content::None),
            8 => (Node::File { size: 0 }, Content::None),
            9 => (Node::File { size: 3 }, Content::Bytes(Arc::from(&b"abc"[..]))),
            10 => (Node::File { size: 1 << 40 }, source(&openers[n % 2], &format!("from/d/{n:05}"), u64::MAX)),
            11 => (Node::File { size: 5 }, source(&openers[n % 2], &format!("{n:05}"), n as u64)),
            _ => (Node::File { size: 5 }, source(&openers[0], "elsewhere", 1)),
        };
        let xattrs = if n % 5 == 0 { Xattrs::from([(b"user.x".to_vec(), vec![n as u8])]) } else { Xattrs::new() };
        let modified = Timestamp { seconds: n as i64 * 1_000_003 % 977 - 400, nanoseconds: n as u32 * 999_983 };
        let metadata = Metadata { mode: 0o4755 ^ n as u32, uid: u32::MAX, gid: n as u32 % 3, modified, xattrs };
        let path = TreePath::clean(format!("d/{n:05}").as_bytes());
        Change { entry: Entry { path, node, metadata }, content }
    });
    all.collect()
}

/// What a content is, in a form that compares.
fn place(content: &Content) -> String {
    match content {
        Content::Source(file) => {
            let opener = Arc::as_ptr(&file.opener).cast::<()>();
            format!("{opener:p} {:?} {:?}", file.open().unwrap_err().to_string(), file.mark)
        }
        content => format!("{content:?}"),
    }
}

#[test]
fn all_changes_come_out_as_they_went_in() {
    let changes = changes();
    let list: ChangeList = changes.clone().into();
    check(&changes, &list);
}

#[test]
fn what_is_too_much_for_memory_comes_out_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let many: Vec<Change> = (0..400)
        .flat_map(|n| {
            changes().into_iter().map(move |mut change| {
                change.entry.path = TreePath::clean(format!("{n:05}").as_bytes()).join_path(&change.entry.path);
                change
            })
        })
        .collect();
    let list = ChangeList::collect_in(folder.path(), many.iter().cloned().map(Ok)).unwrap();
    assert!(matches!(list.bytes, Spooled::File(..)), "{} bytes", list.bytes.len());
    check(&many, &list);
    for change in many.iter().step_by(97) {
        assert_eq!(list.find(&change.entry.path).unwrap().map(|found| found.entry).as_ref(), Some(&change.entry));
    }
    // No name of the file is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let Spooled::File(file, _) = &list.bytes else { return };
    file.set_len(list.bytes.len() / 2).unwrap();
    let read: Vec<_> = list.iter().collect();
    assert!(read.len() < many.len() && read.last().unwrap().is_err());
}

fn check(changes: &[Change], list: &ChangeList) {
    assert_eq!((list.len(), list.iter().count()), (changes.len(), changes.len()));
    let size = |change: &Change| if let Node::File { size } = change.entry.node { size } else { 0 };
    assert_eq!(list.content_size(), changes.iter().map(size).sum::<u64>());
    for (want, found) in changes.iter().zip(list) {
        let found = found.unwrap();
        assert_eq!(want.entry, found.entry);
        assert_eq!(place(&want.content), place(&found.content), "{}", want.entry.path);
    }
}

#[test]
fn a_change_is_found_by_its_path() {
    let changes = changes();
    let list: ChangeList = changes.clone().into();
    for change in &changes {
        assert_eq!(list.find(&change.entry.path).unwrap().map(|found| found.entry).as_ref(), Some(&change.entry));
    }
    for absent in ["a", "d", "d/000001", "d/00127x", "e"] {
        assert!(list.find(&TreePath::clean(absent.as_bytes())).unwrap().is_none(), "{absent}");
    }
    assert!(ChangeList::default().find(&TreePath::root()).unwrap().is_none());
    let linked = |path: &str| list.is_linked(&TreePath::clean(path.as_bytes()));
    assert_eq!((linked("d/00001"), linked("d/00002")), (true, false));
}

#[test]
fn a_file_takes_few_bytes() {
    let opener: Arc<dyn OpenContent> = Arc::new(Nowhere);
    let list: ChangeList = (0..10_000_u32)
        .map(|n| {
            let path = format!("app/src/module/component{:03}/file_{n:06}.txt", n / 100);
            let modified = Timestamp { seconds: 1_700_000_000 + i64::from(n), nanoseconds: 999_999_999 - n };
            let metadata = Metadata { mode: 0o644, modified, ..Metadata::default() };
            let content = source(&opener, &path[4..], u64::MAX - u64::from(n));
            let entry = Entry { path: TreePath::clean(path.as_bytes()), node: Node::File { size: 4000 }, metadata };
            Change { entry, content }
        })
        .collect();
    let bytes = list.bytes.len() as usize;
    assert!(bytes < 40 * list.len(), "{} bytes a file", bytes / list.len());
    assert_eq!((list.folders.len(), list.owners.len()), (1, 1));
}
