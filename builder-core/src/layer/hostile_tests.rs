//! Archives that try what no layer may. The names in brackets are rows of the project's list of known attacks.

use std::os::unix::fs::MetadataExt;

use tar::{EntryType, Header};

use super::*;
use crate::tree::Node;

/// Builds an archive entry by entry, without any check.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn header(kind: u8, name: &str, link: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        header
    }

    fn raw(mut self, header: &Header, content: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A header changed by hand, with its checksum made right again.
    fn patched(self, kind: u8, name: &str, content: &[u8], patch: impl FnOnce(&mut [u8; 512])) -> Self {
        let mut header = Self::header(kind, name, "", content.len() as u64);
        patch(header.as_mut_bytes());
        header.set_cksum();
        self.raw(&header, content)
    }

    fn entry(self, kind: u8, name: &str, link: &str) -> Self {
        self.raw(&Self::header(kind, name, link, 0), b"")
    }

    fn file(self, name: &str, text: &str) -> Self {
        self.raw(&Self::header(b'0', name, "", text.len() as u64), text.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, "")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target)
    }

    fn extension(self, kind: u8, text: &[u8]) -> Self {
        self.raw(&Self::header(kind, "extension", "", text.len() as u64), text)
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let record = |(key, value): &(&str, &str)| {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|length| *length == rest + length.to_string().len()).unwrap();
            format!("{length} {key}={value}\n")
        };
        let text: String = records.iter().map(record).collect();
        self.extension(b'x', text.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn archive() -> Archive {
    Archive::default()
}

/// A folder with the unpacked layer, and things beside it that must not be touched.
struct Canary {
    folder: tempfile::TempDir,
}

impl Canary {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        std::fs::create_dir(folder.path().join("root-evil")).unwrap();
        std::fs::write(folder.path().join("root-evil/secret"), "secret").unwrap();
        std::fs::write(folder.path().join("canary"), "untouched").unwrap();
        Self { folder }
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    fn check(&self, what: &str) {
        let mut names: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["canary", "root", "root-evil"], "{what}");
        for (name, text) in [("canary", "untouched"), ("root-evil/secret", "secret")] {
            let path = self.folder.path().join(name);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{what}");
            let stat = std::fs::metadata(&path).unwrap();
            assert_eq!((stat.nlink(), stat.mode() & 0o777), (1, 0o644), "{what}");
        }
    }

    /// An archive's text in which `CANARY` stands for the absolute path of what must not be touched.
    fn target(&self) -> String {
        self.folder.path().join("canary").to_str().unwrap().to_owned()
    }

    fn read(&self, bytes: &[u8]) -> Result<ReadLayer, LayerError> {
        let tar = "application/vnd.oci.image.layer.v1.tar";
        read_layer(bytes, tar, None, Some(&self.root()), &Limits::default())
    }
}

/// Unpacks and records, and checks that both agree and that nothing outside was touched.
fn read(what: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
    let canary = Canary::new();
    let result = canary.read(bytes);
    canary.check(what);
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let recorded = read_layer(bytes, tar, None, None, &Limits::default());
    assert_eq!(result.is_ok(), recorded.is_ok(), "{what}: {result:?} {recorded:?}");
    result.map(|layer| summary(&layer.tree)).map_err(|error| error.to_string())
}

fn summary(tree: &Tree) -> Vec<String> {
    tree.iter()
        .map(|found| {
            let found = found.unwrap();
            let mark = match found.entry.node {
                Node::Directory { opaque: true } => "/ opaque",
                Node::Directory { .. } => "/",
                Node::Whiteout => " gone",
                Node::Symlink { .. } => "@",
                Node::HardLink { .. } => " again",
                _ => "",
            };
            format!("{}{mark}", String::from_utf8_lossy(found.entry.path.as_bytes()))
        })
        .collect()
}

#[test]
fn names_that_climb_are_refused() {
    for name in ["..", "../x", "a/../../x", "./../x", "/../x", "a/b/../../../x", "../.wh.x", "../.wh..wh..opq", "x/.."]
    {
        for kind in [b'0', b'5', b'2', b'1', b'6', b'3'] {
            let what = format!("[TAR-01] {name} of type {}", char::from(kind));
            assert!(read(&what, &archive().entry(kind, name, "t").end()).is_err(), "{what}");
        }
    }
}

#[test]
fn refused() {
    let big = |length: usize| vec![b'0'; length];
    let nested = archive().file("hidden", "").end();
    let table: Vec<(&str, Archive)> = vec![
        ("[TAR-06] link to a directory", archive().dir("d").entry(b'1', "l", "d")),
        ("[TAR-07] hard link out", archive().entry(b'1', "l", "../../canary")),
        ("[TAR-07] hard link to nothing", archive().entry(b'1', "l", "/etc/passwd")),
        ("[TAR-07] hard link to a name of the working directory", archive().entry(b'1', "l", "Cargo.toml")),
        ("[TAR-08] sibling with the same prefix", archive().entry(b'1', "l", "../root-evil/secret")),
        ("[TAR-09] root as a link", archive().link(".", "/")),
        ("[TAR-09] root as a link", archive().link("./", "..")),
        ("[TAR-09] root as a file", archive().file("/", "x")),
        ("[TAR-09] root as a pipe", archive().entry(b'6', "/.", "")),
        ("[TAR-09] root as a hard link", archive().file("f", "").entry(b'1', ".", "f")),
        ("[TAR-09] no name", archive().file("", "x")),
        ("[TAR-13] malformed record", archive().extension(b'x', b"30 path=a\n").file("f", "")),
        ("[TAR-13] NUL in a path", archive().pax(&[("path", "a\0b")]).file("f", "")),
        ("[TAR-13] empty path", archive().pax(&[("path", "")]).file("f", "")),
        ("[TAR-14] global path", archive().extension(b'g', b"10 path=ab\n").file("f", "")),
        ("[TAR-15] large extended header", archive().extension(b'x', &big((1 << 20) + 1)).file("f", "")),
        ("[TAR-15] many extended headers", (0..17).fold(archive(), |a, _| a.pax(&[("comment", "c")])).file("f", "")),
        ("[TAR-15] extended header before the end", archive().pax(&[("path", "a")])),
        ("[TAR-16] sparse file", archive().entry(b'S', "f", "")),
        ("[TAR-16] sparse file", archive().pax(&[("GNU.sparse.major", "1")]).file("f", "")),
        (
            "[TAR-17] owner of 33 bits",
            archive().patched(b'0', "f", b"", |h| h[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0])),
        ),
        ("[TAR-17] negative owner", archive().patched(b'0', "f", b"", |h| h[108..116].fill(0xff))),
        ("[TAR-17] negative size", archive().patched(b'0', "f", b"", |h| h[124..136].fill(0xff))),
        ("[TAR-17] size that is no number", archive().patched(b'0', "f", b"", |h| h[124] = b'x')),
        (
            "[TAR-17] large device",
            archive().patched(b'3', "f", b"", |h| h[329..337].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 8])),
        ),
        ("[TAR-18] whiteout of no name", archive().file(".wh.", "")),
        ("[TAR-18] whiteout of .", archive().file("d/.wh..", "")),
        ("[TAR-18] whiteout of ..", archive().file("d/.wh...", "")),
        ("[TAR-18] whiteout of a mark", archive().file("d/.wh..wh.", "")),
        ("[TAR-18] mark as a directory", archive().dir("d/.wh..wh..opq")),
        ("[TAR-18] mark as a link", archive().link("d/.wh..wh..opq", "x")),
        ("[TAR-18] whiteout as a directory", archive().dir("d/.wh.x")),
        ("[TAR-18] entry in a whiteout", archive().file(".wh.x/y", "")),
        (
            "[TAR-20] overlayfs whiteout",
            archive().patched(b'3', "etc", b"", |h| {
                h[329..345].copy_from_slice(b"0000000\x000000000\0");
            }),
        ),
        ("[TAR-23] hard link to itself", archive().file("f", "").entry(b'1', "f", "f")),
        ("[TAR-23] hard link before its target", archive().entry(b'1', "l", "f").file("f", "")),
        ("[TAR-23] hard link that removes its target", archive().file("d/f", "").entry(b'1', "d", "d/f")),
        ("[TAR-29] unknown type", archive().entry(b'V', "label", "")),
        ("[TAR-29] unknown type", archive().entry(b'D', "dump", "")),
        ("entry in a file", archive().file("f", "").file("f/x", "")),
        ("link loop", archive().link("a", "b").link("b", "a").file("a/x", "")),
        ("link to nothing", archive().link("a", "")),
        ("long name", archive().extension(b'L', &big(5000)).file("f", "")),
        ("name longer than a disk takes", archive().extension(b'L', &big(300)).file("f", "")),
    ];
    for (what, archive) in table {
        let canary = Canary::new();
        let bytes = archive.end();
        assert!(canary.read(&bytes).is_err(), "{what}");
        canary.check(what);
    }
    let mut bad_sum = nested;
    bad_sum[0] ^= 1;
    assert!(read("[TAR-17] checksum", &bad_sum).is_err());
}

#[test]
fn contained() {
    let canary = Canary::new();
    let outside = canary.target();
    let table: Vec<(&str, Archive, &[&str])> = vec![
        ("[TAR-02] absolute link", archive().link("esc", "/etc").file("esc/f", "x"), &["esc@", "etc/f"]),
        ("[TAR-02] climbing link", archive().link("esc", "../../..").file("esc/canary", "x"), &["canary", "esc@"]),
        ("[TAR-02] dangling link", archive().link("e", "no/such").file("e/f", "x"), &["e@", "no/such/f"]),
        (
            "[TAR-03] two hops",
            archive().dir("s").link("s/p", "..").link("s/p/q", "..").file("q/canary", "x"),
            &["canary", "q@", "s/", "s/p@"],
        ),
        ("[TAR-04] file in a link's place", archive().link("l", &outside).file("l", "x"), &["l"]),
        (
            "[TAR-04] hard link in a link's place",
            archive().link("l", &outside).file("f", "").entry(b'1', "l", "f"),
            &["f", "l again"],
        ),
        ("[TAR-05] directory in a link's place", archive().link("d", "..").dir("d/."), &["d/ opaque"]),
        (
            "[TAR-06] hard link to a link",
            archive().link("a", &outside).entry(b'1', "b", "a").file("b", "x"),
            &["a@", "b"],
        ),
        (
            "[TAR-07] absolute hard link",
            archive().file("etc/passwd", "x").entry(b'1', "l", "/etc/passwd"),
            &["etc/passwd", "l again"],
        ),
        ("[TAR-09] root as a directory", archive().dir("./"), &["/"]),
        ("[TAR-10] implied parents", archive().link("s", "..").file("s/exploit/a/b", "x"), &["exploit/a/b", "s@"]),
        (
            "[TAR-11] PAX size wins",
            archive().pax(&[("size", "0")]).patched(b'0', "f", b"", |h| h[124..135].copy_from_slice(b"00000001000")),
            &["f"],
        ),
        (
            "[TAR-11] directory with a size",
            archive().patched(b'5', "d", b"", |h| h[124..135].copy_from_slice(b"00000001000")).file("g", ""),
            &["d/", "g"],
        ),
        (
            "[TAR-12] long name after PAX",
            archive().pax(&[("size", "1")]).extension(b'L', b"long\0").raw(&Archive::header(b'0', "f", "", 0), b"x"),
            &["long"],
        ),
        (
            "[TAR-12] PAX after PAX",
            archive().pax(&[("path", "one")]).pax(&[("uid", "1")]).file("f", "").file("g", ""),
            &["f", "g"],
        ),
        ("[TAR-12] PAX holds once", archive().pax(&[("path", "one")]).file("f", "").file("g", ""), &["g", "one"]),
        ("[TAR-14] comment for all", archive().extension(b'g', b"14 comment=ab\n").file("f", ""), &["f"]),
        ("[TAR-18] whiteout through a link", archive().link("a", "/").file("a/.wh.canary", ""), &["a@", "canary gone"]),
        ("[TAR-18] whiteout of what is in the layer", archive().file("d/f", "").file(".wh.d", ""), &["d gone"]),
        (
            "[TAR-19] opaque after its siblings",
            archive().dir("d").file("d/f", "").file("d/.wh..wh..opq", ""),
            &["d/ opaque", "d/f"],
        ),
        (
            "[TAR-19] opaque before its directory",
            archive().file("d/.wh..wh..opq", "").dir("d").file("d/f", ""),
            &["d/ opaque", "d/f"],
        ),
        ("[TAR-19] opaque root", archive().file(".wh..wh..opq", "").file("f", ""), &["/ opaque", "f"]),
        (
            "[TAR-19] whiteout, then directory",
            archive().file(".wh.d", "").dir("d").file("d/f", ""),
            &["d/ opaque", "d/f"],
        ),
        ("[TAR-19] whiteout, then an entry in it", archive().file(".wh.d", "").file("d/f", ""), &["d/ opaque", "d/f"]),
        ("[TAR-19] whiteout, then file", archive().file(".wh.f", "").file("f", "x"), &["f"]),
        ("[TAR-19] whiteout twice", archive().file(".wh.f", "").file(".wh.f", ""), &["f gone"]),
        (
            "[TAR-19] aufs whiteout",
            archive()
                .file(".wh..wh.aufs", "")
                .entry(b'1', "d/.wh.f", ".wh..wh.aufs")
                .dir(".wh..wh.plnk")
                .file(".wh..wh.plnk/1", ""),
            &["d/f gone"],
        ),
        ("[TAR-23] directory, then link", archive().dir("d").file("d/f", "").link("d", "x"), &["d@"]),
        ("[TAR-23] implied directory, then file", archive().file("d/f", "").file("d", ""), &["d"]),
        (
            "[TAR-23] file, link, directory",
            archive().file("a", "").link("a", "x").dir("a").file("a/f", ""),
            &["a/ opaque", "a/f"],
        ),
        ("[TAR-23] file twice", archive().file("a", "1").file("a", "2"), &["a"]),
        (
            "[TAR-23] link keeps the replaced file",
            archive().file("b", "1").entry(b'1', "a", "b").file("b", "2"),
            &["a", "b"],
        ),
        ("[TAR-24] no end mark", archive().file("a", ""), &["a"]),
        ("[TAR-29] oldest directory", archive().patched(b'0', "d/", b"", |h| h[156] = 0), &["d/"]),
        ("[TAR-29] contiguous file", archive().entry(b'7', "f", ""), &["f"]),
    ];
    for (what, archive, want) in table {
        let bytes = if what.contains("no end mark") { archive.0 } else { archive.end() };
        assert_eq!(read(what, &bytes), Ok(want.iter().map(|&name| name.to_owned()).collect()), "{what}");
    }
    canary.check("the table");
}

#[test]
fn a_replaced_file_keeps_its_other_name() {
    let canary = Canary::new();
    let layer = canary.read(&archive().file("b", "1").entry(b'1', "a", "b").file("b", "2").end()).unwrap();
    let digest = |path: &[u8]| layer.tree.get(&TreePath::clean(path)).unwrap().unwrap().digest.unwrap();
    assert_eq!((digest(b"a"), digest(b"b")), (blake3::hash(b"1"), blake3::hash(b"2")));
    assert_eq!(std::fs::read_to_string(canary.root().join("a")).unwrap(), "1");
    assert_eq!(std::fs::read_to_string(canary.root().join("b")).unwrap(), "2");
}

#[test]
fn what_follows_the_end_is_told_and_not_read() {
    let mut bytes = archive().file("a", "").end();
    assert!(!Canary::new().read(&bytes).unwrap().has_trailing_data);
    bytes.extend(archive().file("b", "").end());
    let layer = Canary::new().read(&bytes).unwrap();
    assert_eq!(summary(&layer.tree), ["a"]);
    assert!(layer.has_trailing_data);
    assert_eq!(layer.diff_id, DiffId(crate::oci::Digest::of(&bytes)));
}

#[test]
fn times_out_of_range_are_taken_as_near_as_can_be() {
    for bytes in [[0xc0, 0, 0, 0, 0, 0, 0, 0], [0x40, 0, 0, 0, 0, 0, 0, 0]] {
        let sign = if bytes[0] == 0x40 { 0x80 } else { 0xff };
        let time = [[sign; 1].as_slice(), &[if sign == 0x80 { 0 } else { 0xff }; 3], &bytes].concat();
        let bytes = archive().patched(b'0', "f", b"", |h| h[136..148].copy_from_slice(&time)).end();
        assert_eq!(read("[TAR-17] time", &bytes), Ok(vec!["f".to_owned()]));
    }
}

#[test]
fn cut_and_garbled_archives_are_errors_and_never_panics() {
    let bytes = archive().pax(&[("path", "long/name"), ("mtime", "1.5")]).file("f", "content").dir("d").end();
    for length in (1..bytes.len() - 1024).filter(|length| length % 512 != 0 && length % 5 == 0) {
        assert!(read("cut", &bytes[..length]).is_err(), "{length}");
    }
    for index in 0..bytes.len() {
        let mut garbled = bytes.clone();
        garbled[index] ^= 0x80;
        // Most of it is the reader's business, and only some of the disk's.
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let recorded = read_layer(garbled.as_slice(), tar, None, None, &Limits::default());
        if index % 29 == 0 {
            assert_eq!(read("garbled", &garbled).is_ok(), recorded.is_ok(), "byte {index}");
        }
    }
}

#[test]
fn damaged_compression_is_an_error() {
    let plain = archive().file("f", &"text ".repeat(2000)).end();
    let mut gzip = Vec::new();
    libdeflate(&plain, &mut gzip);
    let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
    for (what, bytes) in [("gzip", gzip), ("zstd", zstd)] {
        assert_eq!(read(what, &bytes), Ok(vec!["f".to_owned()]));
        assert!(read(what, &bytes[..bytes.len() - 1]).is_err(), "{what} cut");
        assert!(read(what, &[&bytes, b"garbage".as_slice()].concat()).is_err(), "{what} with garbage behind");
        let mut broken = bytes.clone();
        let middle = bytes.len() / 2;
        broken[middle] ^= 0xff;
        assert!(read(what, &broken).is_err(), "{what} broken");
    }
}

fn libdeflate(plain: &[u8], out: &mut Vec<u8>) {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(6));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn limits_hold() {
    let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
    let limits = Limits { entries: 3, expanded_bytes: 1 << 20, ..Limits::default() };
    let reading = |bytes: &[u8]| read_layer(bytes, tar, None, None, &limits).map(|_| ());
    let files = |count: usize| (0..count).fold(archive(), |archive, index| archive.file(&index.to_string(), "")).end();
    assert!(reading(&files(3)).is_ok());
    assert!(matches!(reading(&files(4)), Err(LayerError::Limit { what: "entries", limit: 3 })));
    // [DOS-01] A small blob that becomes large.
    let mut bomb = Vec::new();
    libdeflate(&vec![0; 64 << 20], &mut bomb);
    assert!(matches!(reading(&bomb), Err(LayerError::Limit { limit: 1_048_576, .. })));
    // [DOS-03] Many empty members.
    let mut empty = Vec::new();
    libdeflate(b"", &mut empty);
    let mut members = empty.repeat(100_000);
    libdeflate(&files(1), &mut members);
    assert!(reading(&members).is_ok());
    // [DOS-02] A window larger than 128 MiB.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (30 - 10) << 3, 0x01, 0x00, 0x00];
    assert!(matches!(reading(&frame), Err(LayerError::Decompress { .. })));
}
