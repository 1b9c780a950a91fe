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
    let tree = PickedTree::new(packed, contents, HashSet::from([8]), 9);
    let found: Vec<Picked> = tree.iter(&directory).collect();
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
