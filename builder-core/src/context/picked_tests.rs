use std::fs::File;

use super::*;

#[test]
fn what_was_packed_comes_out_again() {
    let metadata = |n: u32| Metadata {
        mode: 0o7777 - n,
        uid: u32::MAX - n,
        gid: n,
        modified: Timestamp { seconds: -i64::from(n), nanoseconds: 999_999_999 - n },
        xattrs: if n == 3 { Xattrs::from([(b"user.x".to_vec(), vec![0, 255])]) } else { Xattrs::new() },
    };
    let nodes = [
        Node::File { size: 0 },
        Node::File { size: u64::MAX },
        Node::Symlink { target: b"/\xffx".to_vec() },
        Node::Fifo,
        Node::CharDevice { major: 4, minor: 70_000 },
        Node::BlockDevice { major: 0, minor: 0 },
    ];
    let directory = TreePath::clean(b"from/here");
    let contents = Contents::default();
    let digest = blake3::hash(b"bytes");
    let mut inner = Packed::default();
    for (n, node) in nodes.iter().enumerate() {
        let regular = matches!(node, Node::File { .. });
        let name = format!("n{n}");
        let seen = Seen {
            name: name.as_bytes(),
            node,
            metadata: &metadata(n as u32),
            digest: regular.then_some(digest),
            link: regular.then_some(7 + n as u64),
            hollow: false,
            content: &|| Ok(if n == 1 { Content::Bytes(Arc::from(&b"bytes"[..])) } else { Content::None }),
        };
        inner.add_file(&seen, &directory.join(b"d"), &contents).unwrap();
    }
    let mut packed = Packed::default();
    packed.add_directory(b"a", &metadata(90), true, Packed::default());
    packed.add_directory(b"d", &metadata(91), false, inner);
    packed.add_directory(b"e", &metadata(92), false, Packed::default());
    let tree = PickedTree::new(packed, contents, HashSet::from([8]));
    let found: Vec<Picked> = tree.iter(&directory).collect::<Result<_, _>>().unwrap();
    let paths: Vec<_> = found.iter().map(|picked| picked.relative.to_string()).collect();
    assert_eq!(paths, ["/a", "/d", "/d/n0", "/d/n1", "/d/n2", "/d/n3", "/d/n4", "/d/n5", "/e"]);
    assert_eq!(found[8].entry.path.to_string(), "/from/here/e");
    let on_the_way: Vec<bool> = found.iter().map(|picked| picked.only_on_the_way).collect();
    assert_eq!(on_the_way, [true, false, false, false, false, false, false, false, false]);
    for (n, node) in nodes.iter().enumerate() {
        let picked = &found[2 + n];
        assert_eq!((&picked.entry.node, &picked.entry.metadata), (node, &metadata(n as u32)));
        assert_eq!(picked.mark, (n < 2).then(|| ContentMark::from(&digest)));
        // Only the second file has further names here.
        assert_eq!(picked.link, (n == 1).then_some(8));
        assert_eq!(matches!(picked.content, Content::Bytes(_)), n == 1);
    }
    assert_eq!((&found[8].entry.node, &found[8].entry.metadata), (&Node::Directory { opaque: false }, &metadata(92)));
}

#[test]
fn a_file_takes_few_bytes() {
    let contents = Contents::default();
    let mut packed = Packed::default();
    let opener: Arc<dyn OpenContent> = Arc::new(Nowhere);
    let count = 10_000_u32;
    for n in 0..count {
        let name = format!("file_{n:06}.txt");
        let seen = Seen {
            name: name.as_bytes(),
            node: &Node::File { size: 4000 },
            metadata: &Metadata {
                mode: 0o644,
                modified: Timestamp { seconds: 1_700_000_000 + i64::from(n), nanoseconds: 999_999_999 - n },
                ..Metadata::default()
            },
            digest: Some(blake3::hash(name.as_bytes())),
            link: None,
            hollow: false,
            content: &|| {
                let (opener, path) = (Arc::clone(&opener), TreePath::root().join(name.as_bytes()));
                Ok(Content::Source(SourceFile { opener, path, stamp: u64::MAX - u64::from(n), mark: None }))
            },
        };
        packed.add_file(&seen, &TreePath::root(), &contents).unwrap();
    }
    let capacity = |piece: &Piece| match piece {
        Piece::Memory(bytes) => bytes.capacity(),
        Piece::File { .. } => unreachable!("there is no file"),
    };
    let bytes: usize = packed.pieces.iter().map(capacity).sum();
    assert!(bytes < 70 * count as usize, "{} bytes a file", bytes / count as usize);
    let tree = PickedTree::new(packed, contents, HashSet::new());
    assert_eq!((tree.contents.openers.len(), tree.iter(&TreePath::root()).count()), (1, count as usize));
    let last = tree.iter(&TreePath::root()).last().unwrap().unwrap();
    let Content::Source(file) = last.content else { unreachable!("it has a source") };
    assert_eq!((file.path.to_string(), file.stamp), ("/file_009999.txt".to_owned(), u64::MAX - 9999));
}

#[test]
fn one_directory_of_very_many_files_is_not_in_memory_either() {
    let folder = tempfile::tempdir().unwrap();
    let contents = Contents::in_folder(Some(folder.path()));
    let mut packed = Packed::default();
    let name = |n: usize| format!("file_with_a_long_name_of_many_bytes_{n:06}");
    for n in 0..200_000 {
        let file_name = name(n);
        let seen = Seen {
            name: file_name.as_bytes(),
            node: &Node::File { size: 0 },
            metadata: &Metadata { mode: 0o644, ..Metadata::default() },
            digest: None,
            link: None,
            hollow: false,
            content: &|| Ok(Content::None),
        };
        packed.add_file(&seen, &TreePath::root(), &contents).unwrap();
        let in_memory = |piece: &Piece| if let Piece::Memory(bytes) = piece { bytes.capacity() } else { 0 };
        let in_memory: usize = packed.pieces.iter().map(in_memory).sum();
        assert!(in_memory <= MOST_IN_MEMORY as usize + 2 * (MOST_PIECES + 2) * PIECE);
    }
    let tree = PickedTree::new(packed, contents, HashSet::new());
    let root = TreePath::root();
    let found = tree.iter(&root).map(|picked| picked.unwrap().relative);
    assert!(found.enumerate().map(|(n, path)| assert_eq!(path.as_bytes(), name(n).as_bytes())).count() == 200_000);
}

#[test]
fn what_is_too_much_for_memory_comes_out_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let contents = Contents::in_folder(Some(folder.path()));
    let mut packed = Packed::default();
    let count = 60;
    for directory in 0..count {
        let name = format!("d{directory:02}");
        let mut inner = Packed::default();
        for n in 0..1000 {
            let file_name = format!("file_{n:04}");
            let seen = Seen {
                name: file_name.as_bytes(),
                node: &Node::File { size: 3 },
                metadata: &Metadata { mode: 0o644, uid: directory, ..Metadata::default() },
                digest: Some(blake3::hash(&[directory as u8])),
                link: None,
                hollow: false,
                content: &|| Ok(Content::Bytes(Arc::from(&b"abc"[..]))),
            };
            inner.add_file(&seen, &TreePath::clean(name.as_bytes()), &contents).unwrap();
        }
        inner.put_by(&contents).unwrap();
        packed.add_directory(name.as_bytes(), &Metadata::default(), false, inner);
    }
    let in_files = packed.pieces.iter().filter(|piece| matches!(piece, Piece::File { .. })).count();
    assert!(in_files > 2, "{in_files} of {}", packed.pieces.len());
    let tree = PickedTree::new(packed, contents, HashSet::new());
    let root = TreePath::root();
    let mut entries = tree.iter(&root).map(Result::unwrap);
    for directory in 0..count {
        assert_eq!(entries.next().unwrap().relative.to_string(), format!("/d{directory:02}"));
        for n in 0..1000 {
            let Picked { relative, entry, mark, .. } = entries.next().unwrap();
            assert_eq!(relative.to_string(), format!("/d{directory:02}/file_{n:04}"));
            assert_eq!(entry.metadata.uid, directory);
            assert_eq!(mark, Some(ContentMark::from(&blake3::hash(&[directory as u8]))));
        }
    }
    assert!(entries.next().is_none());
    tree.file.as_ref().unwrap().file().set_len(1000).unwrap();
    let read: Vec<_> = tree.iter(&TreePath::root()).collect();
    assert!(read.len() < 1001 * count as usize && read.last().unwrap().is_err());
}

struct Nowhere;

impl OpenContent for Nowhere {
    fn open(&self, path: &TreePath, _: u64) -> io::Result<File> {
        Err(io::Error::other(path.to_string()))
    }
}
