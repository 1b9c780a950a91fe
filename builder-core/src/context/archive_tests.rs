//! Tables of what ADD makes of archives, hostile ones among them.

use std::io::Write;

use super::copy_tests::{show, tree};
use super::*;
use crate::tree::{Content, Timestamp, TreePath, TreeView};

/// Writes a tar of lines: `file name text mode uid:gid`, `dir name mode uid:gid`, `link name target`, `hard name target`,
/// `fifo name`, `char name`, `global key value`, `xattr key value` (for the next member).
fn archive(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let (kind, name) = (words[0], words[1]);
        let (typeflag, link, data, rest) = match kind {
            "dir" => (b'5', "", String::new(), &words[2..]),
            "link" => (b'2', words[2], String::new(), &words[3..]),
            "hard" => (b'1', words[2], String::new(), &words[3..]),
            "fifo" => (b'6', "", String::new(), &words[2..]),
            "char" => (b'3', "", String::new(), &words[2..]),
            "global" => (b'g', "", pax_record(name, words[2]), &[][..]),
            "xattr" => (b'x', "", pax_record(name, words[2]), &[][..]),
            _ => (b'0', "", words[2].to_owned(), &words[3..]),
        };
        let mode = rest.first().unwrap_or(&if kind == "dir" { "0755" } else { "0644" }).to_owned();
        let (uid, gid) = rest.get(1).and_then(|owner| owner.split_once(':')).unwrap_or(("0", "0"));
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[156] = typeflag;
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(u32::from_str_radix(mode, 8).unwrap());
        header.set_uid(uid.parse().unwrap());
        header.set_gid(gid.parse().unwrap());
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_mtime(100);
        header.set_size(data.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let length = (1..).find(|n| n.to_string().len() + rest.len() == *n).unwrap();
    format!("{length}{rest}")
}

fn add(bytes: Vec<u8>, below: &[&str], destination: &str, owner: Option<(u32, u32)>) -> Result<Vec<String>, CopyError> {
    let mut source = MemoryTree::new();
    source.add_file(&TreePath::clean(b"a.tar"), bytes, 0o644, Timestamp::from_seconds(100));
    let options = SelectOptions { sources: vec![b"a.tar".to_vec()], unpack: true, ..SelectOptions::default() };
    let selection = select(&source, &options)?;
    let folder = tempfile::tempdir().unwrap();
    let placement = place(
        &selection,
        &tree(below),
        &PlaceOptions {
            destination: destination.as_bytes(),
            working_directory: b"/",
            owner,
            mode: None,
            link: false,
            implied_time: Timestamp::from_seconds(7),
            temporary_folder: folder.path(),
        },
    )?;
    Ok(placement.changes.iter().map(|change| show(&change.unwrap())).collect())
}

#[track_caller]
fn check(lines: &[&str], below: &[&str], destination: &str, want: &[&str]) {
    assert_eq!(add(archive(lines), below, destination, None).unwrap(), want);
}

#[track_caller]
fn check_refused(lines: &[&str], below: &[&str], mention: &str) {
    let error = add(archive(lines), below, "/out", None).unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    assert!(text.contains(mention), "{text}");
}

#[test]
fn members_keep_what_they_are() {
    check(
        &["dir d 0700 12:34", "file d/f F 4750 56:78", "file made/by/g G 0644 9:0", "link l d", "fifo p 0620"],
        &[],
        "/out",
        &[
            "dir out 0755 0:0",
            "dir out/d 0700 12:34",
            "file out/d/f F 4750 56:78",
            "link out/l d 0777 0:0",
            "dir out/made 0755 0:0",
            "dir out/made/by 0755 0:0",
            "file out/made/by/g G 0644 9:0",
            "Fifo out/p 0620 0:0",
        ],
    );
    let owned = add(archive(&["dir d 0755 1:2", "file d/f F 0644 3:4"]), &[], "/o/x", Some((100, 200))).unwrap();
    assert_eq!(
        owned,
        ["dir o 0755 100:200", "dir o/x 0755 100:200", "dir o/x/d 0755 100:200", "file o/x/d/f F 0644 100:200"]
    );
    check(
        &["dir ./ 0777 5:5", "file ./f F"],
        &["dir out 0701 7:8"],
        "/out/",
        &["dir out 0701 7:8", "file out/f F 0644 0:0"],
    );
    check(&["global comment abc", "file f F"], &[], "/", &["file f F 0644 0:0"]);
}

#[test]
fn members_replace_what_is_there() {
    let below = &["file out/thing x", "link out/link /etc/passwd", "dir out/deep/er", "file out/deep/old O"];
    check(
        &["dir thing", "file thing/f F", "dir link", "file link/g G"],
        below,
        "/out",
        &[
            "dir out 0755 0:0",
            "dir out/link 0755 0:0",
            "file out/link/g G 0644 0:0",
            "dir out/thing 0755 0:0",
            "file out/thing/f F 0644 0:0",
        ],
    );
    check(&["file deep now-a-file"], below, "/out", &["dir out 0755 0:0", "file out/deep now-a-file 0644 0:0"]);
    check(
        &["file deep x", "dir deep 0700", "file deep/new N"],
        below,
        "/out",
        &["dir out 0755 0:0", "opaque out/deep 0700 0:0", "file out/deep/new N 0644 0:0"],
    );
    check(&["dir deep 0700 3:4"], below, "/out", &["dir out 0755 0:0", "dir out/deep 0700 3:4"]);
    check(&["file f 1", "file f 2"], &[], "/", &["file f 2 0644 0:0"]);
    assert!(add(archive(&["file f F"]), &["file out x"], "/out", None).is_err());
}

#[test]
fn names_and_links_stay_inside() {
    check(
        &["file ../outside x", "file d/../../../up y", "file /rooted z", "file a/b/../c c"],
        &["dir etc"],
        "/out",
        &[
            "dir out 0755 0:0",
            "dir out/a 0755 0:0",
            "file out/a/c c 0644 0:0",
            "file out/outside x 0644 0:0",
            "file out/rooted z 0644 0:0",
            "file out/up y 0644 0:0",
        ],
    );
    check(
        &["dir srv", "link up ../../srv", "file up/f F"],
        &["dir srv"],
        "/out",
        &["dir out 0755 0:0", "dir out/srv 0755 0:0", "file out/srv/f F 0644 0:0", "link out/up ../../srv 0777 0:0"],
    );
    check(
        &["dir run", "dir var", "link var/run /run", "file var/run/f F"],
        &["dir run"],
        "/out",
        &[
            "dir out 0755 0:0",
            "dir out/run 0755 0:0",
            "file out/run/f F 0644 0:0",
            "dir out/var 0755 0:0",
            "link out/var/run /run 0777 0:0",
        ],
    );
    check(
        &["file srv/link/f F"],
        &["link srv/link /var/lib", "dir var/lib"],
        "/",
        &["dir var 0755 0:0", "dir var/lib 0755 0:0", "file var/lib/f F 0644 0:0"],
    );
    // An existing link of a member's own name is replaced, never written through.
    check(&["link l /etc/target", "file l F"], &["file etc/target T"], "/", &["file l F 0644 0:0"]);
    check_refused(&["link l nowhere", "file l/f F"], &[], "leads nowhere");
    check_refused(&["link a b", "link b a", "file a/f F"], &[], "symbolic links");
}

#[test]
fn hard_links_of_archives() {
    check(
        &["file d/f F 0600", "hard d/g d/f 0640 3:4", "hard h ../d/f 0644"],
        &[],
        "/",
        &["dir d 0755 0:0", "file d/f F 0644 0:0", "hard d/g /d/f", "hard h /d/f"],
    );
    check(&["hard new old 0600"], &["file old O 0755"], "/", &["file new O 0600 0:0", "hard old /new"]);
    check_refused(&["hard g /etc/passwd"], &["file etc/passwd P"], "which does not exist");
    check_refused(&["file f F", "hard f f"], &[], "to itself");
    check_refused(&["dir d", "hard g d"], &[], "to the directory");
}

#[test]
fn what_no_layer_can_hold() {
    check_refused(&["file d/.wh.f x"], &[], ".wh.f");
    check_refused(&["char null"], &[], "0:0");
    check_refused(&["file f F", "global path other"], &[], "for all members");
    check_refused(&["xattr SCHILY.xattr.security.capability bad", "file f F"], &[], "security.capability");
    check(&["xattr SCHILY.xattr.user.note kept?", "file f F"], &[], "/", &["file f F 0644 0:0"]);
    check(&["xattr uid 3000000", "file f F"], &[], "/", &["file f F 0644 3000000:0"]);
}

#[test]
fn archives_are_known_by_their_contents() {
    let plain = archive(&["file f F"]);
    let want = ["dir out 0755 0:0", "file out/f F 0644 0:0"];
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let members = [&gzip(&plain[..700])[..], &gzip(&plain[700..])].concat();
    for bytes in [plain.clone(), gzip(&plain), members, bzip2.finish().unwrap(), zstd] {
        assert_eq!(add(bytes, &[], "/out/", None).unwrap(), want);
    }
    for bytes in [b"words".to_vec(), gzip(b"words"), archive(&[]), Vec::new(), vec![7; 2000]] {
        let copied = add(bytes, &[], "/out/", None).unwrap();
        assert!(copied[1].starts_with("file out/a.tar "), "{copied:?}");
    }
    let torn = gzip(&archive(&["file f F", &format!("file g {}", "x".repeat(3000))]));
    assert!(add(torn[..torn.len() / 2].to_vec(), &[], "/out/", None).is_err());
    assert!(add(plain[..513].to_vec(), &[], "/out/", None).is_err());
}

#[test]
fn an_archive_as_a_tree() {
    let bytes = archive(&["dir d 0700", "file d/f F", "hard d/g d/f"]);
    let folder = tempfile::tempdir().unwrap();
    let tree = read_archive_tree(Box::new(std::io::Cursor::new(bytes)), folder.path(), Timestamp::default()).unwrap();
    let names: Vec<String> =
        tree.read_dir(&TreePath::clean(b"d")).unwrap().iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(names, ["/d/f", "/d/g"]);
    let link = |path: &[u8]| tree.link_id(&TreePath::clean(path)).unwrap();
    assert!(link(b"d/f").is_some() && link(b"d/f") == link(b"d/g"));
    assert_eq!(tree.content_digest(&TreePath::clean(b"d/g")).unwrap(), blake3::hash(b"F"));
}

#[test]
fn large_members_go_to_temporary_files() {
    let big = "x".repeat(300_000);
    let mut source = MemoryTree::new();
    source.add_file(&TreePath::clean(b"a"), archive(&[&format!("file big {big}")]), 0o644, Timestamp::default());
    let options = SelectOptions { sources: vec![b"a".to_vec()], unpack: true, ..SelectOptions::default() };
    let selection = select(&source, &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let count = || std::fs::read_dir(folder.path()).unwrap().count();
    let options = PlaceOptions {
        destination: b"/",
        working_directory: b"/",
        owner: None,
        mode: None,
        link: false,
        implied_time: Timestamp::default(),
        temporary_folder: folder.path(),
    };
    let placement = place(&selection, &MemoryTree::new(), &options).unwrap();
    let content = placement.changes.iter().next().unwrap().unwrap().content;
    assert!(matches!(content, Content::Part(_)), "{content:?}");
    assert_eq!(spool::hash_content(&content).unwrap(), blake3::hash(big.as_bytes()));
    // The file goes with what is in it, as it has no name.
    assert_eq!(count(), 0);
}
