use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::layer::{Compression, encode, unpack_changes};
use crate::oci::Digest;
use crate::tree::{Change, Content, Entry, Timestamp};

fn change(path: &[u8], node: Node, bytes: &[u8]) -> Change {
    let metadata = Metadata { mode: 0o644, modified: Timestamp::from_seconds(1_700_000_000), ..Metadata::default() };
    let content = if bytes.is_empty() { Content::None } else { Content::Bytes(bytes.into()) };
    let mut change = Change { entry: Entry { path: TreePath::new(path).unwrap(), node, metadata }, content };
    match change.entry.node {
        Node::Directory { .. } => change.entry.metadata.mode = 0o755,
        Node::Symlink { .. } => change.entry.metadata.mode = 0o777,
        Node::Whiteout | Node::HardLink { .. } => change.entry.metadata = Metadata::default(),
        _ => {}
    }
    change
}

fn file(path: &[u8], bytes: &[u8]) -> Change {
    change(path, Node::File { size: bytes.len() as u64 }, bytes)
}

fn directory(path: &[u8]) -> Change {
    change(path, Node::Directory { opaque: false }, b"")
}

fn symlink(path: &[u8], target: &[u8]) -> Change {
    change(path, Node::Symlink { target: target.to_vec() }, b"")
}

/// One entry of each kind, with odd names, owners, modes, times and attributes.
fn everything() -> Vec<Change> {
    let long = |length: usize| vec![b'x'; length];
    let deep = [long(90), long(90), long(90), long(255)].join(&b'/');
    let hard_link = |path: &[u8], target: &[u8]| change(path, Node::HardLink { target: TreePath::clean(target) }, b"");
    let mut changes = vec![
        directory(b""),
        change(b"opaque", Node::Directory { opaque: true }, b""),
        file(b"opaque/in", b"inside"),
        file(b"empty", b""),
        file(b"two\nlines \x01 and \\ backslash", b"a"),
        file(b"not-\xff\xfe-utf8", b"b"),
        file("\u{fc}ml\u{e4}ut".as_bytes(), b"c"),
        file(&long(100), b"100"),
        file(&long(101), b"101"),
        file(&long(255), b"255"),
        file(&[long(99), long(50)].join(&b'/'), b"split"),
        file(&deep, b"deep"),
        directory(&[b"d".repeat(101), b"e".repeat(60)].join(&b'/')),
        symlink(b"absolute", b"/etc/passwd"),
        symlink(b"climbing", b"../../../x"),
        symlink(b"long", &b"target/".repeat(30)),
        symlink(b"non-ascii", b"\xff\xc3\xa4"),
        file(b"z/first", b"linked"),
        hard_link(b"z/second", b"z/first"),
        hard_link(b"z/third", b"z/first"),
        change(b"fifo", Node::Fifo, b""),
        change(b"null", Node::CharDevice { major: 1, minor: 3 }, b""),
        change(b"disk", Node::BlockDevice { major: 4095, minor: 1_048_575 }, b""),
        change(b"gone", Node::Whiteout, b""),
        change(b"z/gone-too", Node::Whiteout, b""),
        file(b"big", &vec![7; (3 << 20) + 5]),
    ];
    let mut special = file(b"special", b"s");
    special.entry.metadata = Metadata {
        mode: 0o6751,
        uid: 3_000_000,
        gid: 4_000_000,
        modified: Timestamp::from_seconds(-86_400),
        xattrs: [
            (b"user.binary".to_vec(), (0..=255).collect()),
            (b"user.newline\n".to_vec(), b"\n".to_vec()),
            (b"security.capability".to_vec(), capability()),
        ]
        .into(),
    };
    changes.push(special);
    let mut sticky = directory(b"sticky");
    sticky.entry.metadata.mode = 0o1777;
    sticky.entry.metadata.modified = Timestamp::from_seconds(0);
    sticky.entry.metadata.xattrs.insert(b"user.dir".to_vec(), b"1".to_vec());
    changes.push(sticky);
    crate::tree::sort_changes(&mut changes);
    changes
}

/// `cap_net_raw=ep`, as the kernel stores it.
fn capability() -> Vec<u8> {
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn read(bytes: &[u8], unpack: Option<&Path>) -> Result<ReadLayer, LayerError> {
    read_layer(bytes, "application/vnd.oci.image.layer.v1.tar+gzip", None, unpack, &Limits::default())
}

/// What is on disk, by path.
fn listing(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let kind = stat.file_type();
            let what = if kind.is_dir() {
                folders.push(path.clone());
                let opaque = xattr(&path, "user.overlay.opaque").is_some();
                format!("dir{}", if opaque { " opaque" } else { "" })
            } else if kind.is_symlink() {
                format!("link {}", std::fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii())
            } else if kind.is_char_device() || kind.is_block_device() {
                let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
                format!("{} {major}:{minor}", if kind.is_char_device() { "char" } else { "block" })
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else {
                format!("file {} links {}", blake3::hash(&std::fs::read(&path).unwrap()), stat.nlink())
            };
            // A mark has the time when it was made.
            let time = if what == "char 0:0" { 0 } else { stat.mtime() };
            let owner = format!("{:o} {}:{} {time}", stat.mode() & 0o7777, stat.uid(), stat.gid());
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            found.insert(name, format!("{what} {owner}"));
        }
    }
    found
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 65536];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn everything_survives_a_round_trip() {
    let changes = everything();
    for compression in [Compression::default(), Compression::Zstd { level: 3 }, Compression::Uncompressed] {
        let mut blob = Vec::new();
        let encoded = encode(&changes.as_slice().into(), compression, &mut blob).unwrap();
        let want = Some(encoded.diff_id);
        let layer = read_layer(blob.as_slice(), encoded.media_type, want, None, &Limits::default()).unwrap();
        assert_eq!(layer.diff_id, encoded.diff_id);
        assert_eq!(layer.uncompressed_size, encoded.uncompressed_size);
        assert_eq!(layer.tree, encoded.tree);
        assert!(!layer.has_trailing_data);
    }
}

#[test]
fn unpacked_form() {
    let changes = everything();
    let mut blob = Vec::new();
    let encoded = encode(&changes.as_slice().into(), Compression::default(), &mut blob).unwrap();
    let (from_blob, from_changes) = (folder(), folder());
    let layer = read(&blob, Some(from_blob.path())).unwrap();
    assert_eq!(layer.tree, encoded.tree);
    unpack_changes(&changes.into(), from_changes.path()).unwrap();
    let found = listing(from_blob.path());
    assert_eq!(listing(from_changes.path()), found);
    let entry = |path: &str| found[path.as_bytes()].as_str();
    assert_eq!(entry("opaque"), "dir opaque 755 0:0 1700000000");
    assert_eq!(entry("sticky"), "dir 1777 0:0 0");
    assert_eq!(entry("fifo"), "fifo 644 0:0 1700000000");
    assert_eq!(entry("climbing"), "link ../../../x 777 0:0 1700000000");
    assert!(entry("gone").starts_with("char 0:0 ") && entry("z/gone-too").starts_with("char 0:0 "));
    assert!(entry("z/second").contains(" links 3 "), "{}", entry("z/second"));
    assert!(entry("special").ends_with(" 6751 3000000:4000000 -86400"), "{}", entry("special"));
    assert_eq!(entry("z"), "dir 755 0:0 0");
    let special = from_blob.path().join("special");
    assert_eq!(xattr(&special, "user.binary"), Some((0..=255).collect()));
    assert_eq!(xattr(&special, "security.capability"), Some(capability()));
    assert_eq!(xattr(&from_blob.path().join("sticky"), "user.dir"), Some(b"1".to_vec()));
    assert!(layer.implied_directories.contains(&TreePath::clean(b"z")));
    let devices = (entry("null"), entry("disk"));
    if devices.0.starts_with("file ") {
        println!("skipped: devices can't be made here");
    } else {
        assert_eq!(devices, ("char 1:3 644 0:0 1700000000", "block 4095:1048575 644 0:0 1700000000"));
    }
}

#[test]
fn diff_id_and_media_type_are_checked() {
    let mut blob = Vec::new();
    encode(&vec![file(b"f", b"x")].into(), Compression::default(), &mut blob).unwrap();
    let want = Some(DiffId(Digest::of(b"other")));
    let read = |blob: &[u8], media_type, want| read_layer(blob, media_type, want, None, &Limits::default());
    let gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    assert!(matches!(read(&blob, gzip, want), Err(LayerError::DiffId { .. })));
    assert!(read(&blob, gzip, None).is_ok());
    assert!(matches!(read(&blob, "application/json", None), Err(LayerError::MediaType { .. })));
    assert!(matches!(read(&[b'x'; 2000], gzip, None), Err(LayerError::MediaType { .. })));
}

fn have(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: there is no {tool}");
    }
    found
}

fn written(changes: &[Change], folder: &Path) -> PathBuf {
    let path = folder.join("layer.tar.gz");
    encode(&changes.into(), Compression::default(), &mut std::fs::File::create(&path).unwrap()).unwrap();
    path
}

#[test]
fn python_reads_the_same_names() {
    if !have("python3") {
        return;
    }
    let folder = folder();
    let changes = everything();
    let layer = written(&changes, folder.path());
    let script = "import sys, tarfile\n\
        for m in tarfile.open(sys.argv[1], encoding='utf-8', errors='surrogateescape'):\n\
        \x20 n = m.name.encode('utf-8', 'surrogateescape').hex()\n\
        \x20 l = m.linkname.encode('utf-8', 'surrogateescape').hex()\n\
        \x20 x = m.pax_headers.get('SCHILY.xattr.user.binary', '') != ''\n\
        \x20 print(n, m.type.decode(), l, m.size, m.uid, m.gid, oct(m.mode), int(m.mtime), m.uname + m.gname, int(x))\n";
    let output = Command::new("python3").args(["-c", script]).arg(&layer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut want = String::new();
    for Change { entry, .. } in &changes {
        let linked = match &entry.node {
            Node::HardLink { target } => changes.iter().find(|change| change.entry.path == *target).unwrap(),
            _ => &Change::new(entry.clone()),
        };
        let Metadata { mode, uid, gid, modified, xattrs } = &linked.entry.metadata;
        let path = entry.path.as_bytes();
        let (name, kind, link, size) = match &entry.node {
            Node::Directory { .. } if path.is_empty() => (b".".to_vec(), 5, Vec::new(), 0),
            Node::Directory { .. } => (path.to_vec(), 5, Vec::new(), 0),
            Node::File { size } => (path.to_vec(), 0, Vec::new(), *size),
            Node::Symlink { target } => (path.to_vec(), 2, target.clone(), 0),
            Node::HardLink { target } => (path.to_vec(), 1, target.as_bytes().to_vec(), 0),
            Node::Fifo => (path.to_vec(), 6, Vec::new(), 0),
            Node::CharDevice { .. } => (path.to_vec(), 3, Vec::new(), 0),
            Node::BlockDevice { .. } => (path.to_vec(), 4, Vec::new(), 0),
            Node::Whiteout => {
                let parent = entry.path.parent().unwrap();
                let name = [WHITEOUT_PREFIX, entry.path.file_name().unwrap()].concat();
                (parent.join(&name).as_bytes().to_vec(), 0, Vec::new(), 0)
            }
        };
        let has_xattr = u8::from(xattrs.contains_key(b"user.binary".as_slice()));
        let seconds = modified.seconds;
        want += &format!("{} {kind} {} {size} {uid} {gid} 0o{mode:o} {seconds}  {has_xattr}\n", hex(&name), hex(&link));
        if entry.node == (Node::Directory { opaque: true }) {
            want += &format!("{} 0  0 0 0 0o0 0  0\n", hex(&[&name, b"/.wh..wh..opq".as_slice()].concat()));
        }
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout), want);
}

#[test]
fn gnu_tar_unpacks_the_same_tree() {
    if !have("tar") {
        return;
    }
    let (ours, theirs, archive) = (folder(), folder(), folder());
    let changes: Vec<_> = everything()
        .into_iter()
        .filter(|change| !matches!(change.entry.node, Node::Whiteout | Node::Directory { opaque: true }))
        .filter(|change| !matches!(change.entry.node, Node::CharDevice { .. } | Node::BlockDevice { .. }))
        .collect();
    let layer = written(&changes, archive.path());
    unpack_changes(&changes.into(), ours.path()).unwrap();
    let output = Command::new("tar")
        .env("LC_ALL", "C")
        .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpzf"])
        .arg(&layer)
        .arg("-C")
        .arg(theirs.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Parents that the archive leaves out are everybody's own choice.
    let implied: Vec<_> = read(&std::fs::read(&layer).unwrap(), None).unwrap().implied_directories;
    let known = |root: &Path| {
        let mut found = listing(root);
        found.retain(|path, _| implied.iter().all(|implied| implied.as_bytes() != path.as_slice()));
        found
    };
    assert_eq!(known(theirs.path()), known(ours.path()));
    assert_eq!(xattr(&theirs.path().join("special"), "security.capability"), Some(capability()));
}
