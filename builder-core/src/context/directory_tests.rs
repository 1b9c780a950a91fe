//! Reading folders: what is seen of them, what is not, and what hostile ones can't do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::*;
use crate::context::{MemoryTree, PlaceOptions, SelectOptions, place, select};
use crate::tree::{Content, ContentMark, Node, Timestamp, TreePath, TreeView};

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn open(folder: &Path, rules: &str) -> ContextDir {
    ContextDir::open(folder, Some(IgnoreRules::parse(rules.as_bytes()).unwrap()), StatCache::none()).unwrap()
}

fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes())
}

/// Every path of the tree.
fn all(tree: &dyn TreeView) -> Vec<String> {
    fn visit(tree: &dyn TreeView, directory: &TreePath, found: &mut Vec<String>) {
        for entry in tree.read_dir(directory).unwrap() {
            found.push(entry.path.to_string()[1..].to_owned());
            // A path must be the same whether its directory was listed or not.
            assert_eq!(tree.get(&entry.path).unwrap().as_ref(), Some(&entry));
            visit(tree, &entry.path, found);
        }
    }
    let mut found = Vec::new();
    visit(tree, &TreePath::root(), &mut found);
    found
}

#[test]
fn ignored_entries_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["a.txt", "b.log", "dir/other", "dir/sub/keep", "dir/sub/drop", "node_modules/m/n", "src/x.rs"] {
        write(folder.path(), file, file);
    }
    fs::create_dir(folder.path().join("dir/empty")).unwrap();
    let rules = "*.log\nnode_modules\ndir\n!dir/sub/keep\n";
    let context = open(folder.path(), rules);
    let want = ["a.txt", "dir", "dir/sub", "dir/sub/keep", "src", "src/x.rs"];
    assert_eq!(all(&context), want);
    let unlisted = open(folder.path(), rules);
    for name in want {
        assert!(unlisted.get(&path(name)).unwrap().is_some(), "{name}");
    }
    for name in ["b.log", "dir/other", "dir/empty", "dir/sub/drop", "node_modules", "node_modules/m/n", "none"] {
        assert!(unlisted.get(&path(name)).unwrap().is_none(), "{name}");
    }
    assert_eq!(context.ignored(&path("b.log")), Some(Verdict::Ignored { line: 1, pattern: "*.log".into() }));
    assert_eq!(context.ignored(&path("c.log")), None);
    assert_eq!(context.ignored(&path("a.txt")), None);
    let why = explain_missing(&context, Some(&context), b"node_modules/m/n");
    assert_eq!(why.ignored_by, Some((2, "node_modules".to_owned())));
}

#[test]
fn entries_as_the_copier_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tool", "T");
    let set =
        |name: &str, mode| fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    set("tool", 0o4751);
    fs::hard_link(folder.path().join("tool"), folder.path().join("twin")).unwrap();
    symlink("../outside", folder.path().join("link")).unwrap();
    let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let context = open(folder.path(), "");
    let get = |name: &str| context.get(&path(name)).unwrap().unwrap();
    let tool = get("tool");
    assert_eq!((tool.metadata.mode, tool.metadata.uid, tool.metadata.gid), (0o4751, 0, 0));
    let modified = fs::metadata(folder.path().join("tool")).unwrap();
    assert_eq!(tool.metadata.modified.seconds, modified.mtime());
    assert_eq!(i64::from(tool.metadata.modified.nanoseconds), modified.mtime_nsec());
    assert_eq!(get("link").node, Node::Symlink { target: b"../outside".to_vec() });
    assert_eq!(get("pipe").node, Node::Fifo);
    assert_eq!(get("socket").node, Node::File { size: 0 });
    assert!(matches!(context.content(&path("socket")).unwrap(), Content::None));
    let link = |name: &str| context.link_id(&path(name)).unwrap();
    assert!(link("tool").is_some() && link("tool") == link("twin") && link("pipe").is_none());
    assert_eq!(context.content_digest(&path("twin")).unwrap(), blake3::hash(b"T"));
}

#[test]
fn nothing_leads_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", "S");
    let folder = tempfile::tempdir().unwrap();
    symlink(outside.path(), folder.path().join("dir")).unwrap();
    symlink(outside.path().join("secret"), folder.path().join("file")).unwrap();
    let context = open(folder.path(), "");
    assert!(context.get(&path("dir/secret")).unwrap().is_none());
    assert!(context.read_dir(&path("dir")).unwrap().is_empty());
    assert!(context.read_unfiltered(b"file", 100).unwrap().is_none());
    assert!(context.read_unfiltered(b"dir/secret", 100).unwrap().is_none());
    let options = |source: &[u8]| SelectOptions { sources: vec![source.to_vec()], ..SelectOptions::default() };
    for source in [&b"file"[..], b"dir", b"dir/secret", b"../secret"] {
        assert!(select(&context, &options(source)).is_err());
    }
}

#[test]
fn a_file_that_changes_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "f", "old");
    write(folder.path(), "g", "old");
    let context = open(folder.path(), "");
    let open_later = |name: &str| match context.content(&path(name)).unwrap() {
        Content::Source(source) => source,
        _ => panic!("`{name}` has contents"),
    };
    let (f, g) = (open_later("f"), open_later("g"));
    assert!(f.open().is_ok());
    write(folder.path(), "f", "longer than before");
    assert!(f.open().unwrap_err().to_string().contains("changed"));
    fs::remove_file(folder.path().join("g")).unwrap();
    symlink("/etc/passwd", folder.path().join("g")).unwrap();
    assert!(g.open().is_err());
}

#[test]
fn only_needed_files_need_be_readable() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "closed/f", "x");
    write(folder.path(), "open/f", "x");
    symlink("self", folder.path().join("self")).unwrap();
    fs::set_permissions(folder.path().join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    let context = open(folder.path(), "");
    let options = |source: &str| SelectOptions { sources: vec![source.into()], ..SelectOptions::default() };
    assert!(select(&context, &options("open")).is_ok());
    if rustix::process::geteuid().is_root() {
        println!("skipped: root may read every directory");
    } else {
        let error = select(&context, &options(".")).unwrap_err().to_string();
        assert!(error.contains("closed"), "{error}");
    }
}

#[test]
fn digests_come_from_the_stat_cache() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "f", "one");
    let cache = folder
        .path()
        .join("../cache-of-")
        .with_file_name(format!("{}.cache", folder.path().file_name().unwrap().to_string_lossy()));
    let later = Timestamp::from_seconds(4_000_000_000);
    let digest = || {
        let context = ContextDir::open(folder.path(), None, StatCache::load(&cache, later)).unwrap();
        let digest = context.content_digest(&path("f")).unwrap();
        context.save_stat_cache().unwrap();
        digest
    };
    assert_eq!(digest(), blake3::hash(b"one"));
    assert_eq!(digest(), blake3::hash(b"one"));
    write(folder.path(), "f", "two!");
    assert_eq!(digest(), blake3::hash(b"two!"));
    fs::remove_file(&cache).unwrap();
}

#[test]
fn names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    for name in [&b"a\xff"[..], b"new\nline", b"-dash", b"tab\t"] {
        fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let context = open(folder.path(), "");
    let names: Vec<Vec<u8>> = context
        .read_dir(&TreePath::root())
        .unwrap()
        .iter()
        .map(|entry| entry.path.file_name().unwrap().to_vec())
        .collect();
    assert_eq!(names, [&b"-dash"[..], b"a\xff", b"new\nline", b"tab\t"]);
}

/// What is known of the files of a selection goes with their contents.
#[test]
fn changes_tell_what_files_hold() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "single", "one");
    write(folder.path(), "src/a", "two");
    write(folder.path(), "src/deep/b", "three");
    let context = open(folder.path(), "");
    for (sources, want) in [(vec!["single", "src"], 3), (vec!["src"], 2)] {
        let sources: Vec<_> = sources.iter().map(|source| source.as_bytes().to_vec()).collect();
        let selection = select(&context, &SelectOptions { sources, ..SelectOptions::default() }).unwrap();
        let options = PlaceOptions {
            destination: b"/to/",
            working_directory: b"/",
            owner: None,
            mode: None,
            link: false,
            implied_time: Timestamp::from_seconds(7),
            temporary_folder: folder.path(),
        };
        let placed = place(&selection, &MemoryTree::new(), &options).unwrap();
        let mut files = 0;
        for change in placed.changes.iter().map(Result::unwrap) {
            let Content::Source(file) = &change.content else { continue };
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut file.open().unwrap(), &mut text).unwrap();
            assert_eq!(file.mark, Some(ContentMark::from(&blake3::hash(&text))), "{}", change.entry.path);
            files += 1;
        }
        assert_eq!(files, want);
    }
}

#[test]
fn an_unread_context_takes_the_digests_of_what_was_copied() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["one", "dir/two", "dir/three"] {
        write(folder.path(), file, file);
    }
    let options = |source: &str| SelectOptions { sources: vec![source.as_bytes().to_vec()], ..Default::default() };
    let context = std::sync::Arc::new(open(folder.path(), "three"));
    for (source, copied) in [("dir", "dir/two"), ("one", "one")] {
        let read = select(&*std::sync::Arc::new(open(folder.path(), "three")), &options(source)).unwrap();
        let unread = select(&context.unread(), &options(source)).unwrap();
        assert!(unread.outline().unwrap() == read.outline().unwrap() && unread.digest() != read.digest());
        let Content::Source(file) = context.content(&path(copied)).unwrap() else { panic!("{copied} has content") };
        file.opener.note_digest(&file.path, file.stamp, blake3::hash(b"copied"));
        let after = select(&*context, &options(source)).unwrap();
        assert!(after.digest() != read.digest(), "{copied} was read again");
        write(folder.path(), copied, "longer than before");
        let fresh = std::sync::Arc::new(open(folder.path(), "three"));
        assert_ne!(select(&*fresh, &options(source)).unwrap().outline().unwrap(), unread.outline().unwrap());
    }
    let plain = open(folder.path(), "");
    let before = select(&plain, &options("dir")).unwrap();
    let Content::Source(file) = plain.content(&path("dir/two")).unwrap() else { panic!("it has content") };
    file.opener.note_digest(&file.path, file.stamp, blake3::hash(b"copied"));
    let again = open(folder.path(), "");
    assert_eq!(select(&again, &options("dir")).unwrap().digest(), before.digest());
    assert_eq!(select(&plain, &options("dir")).unwrap().digest(), before.digest(), "nobody asked to keep digests");
}
