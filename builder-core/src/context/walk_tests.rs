//! Walks against a walk that does nothing clever, and files that change meanwhile.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use proptest::{collection, sample};

use super::pattern::{DirectoryMatch, PatternList};
use super::*;
use crate::tree::{Content, Entry, Metadata, Node, Timestamp, TreePath, TreeView};

/// What is made at a path.
#[derive(Debug, Clone)]
enum Kind {
    Directory,
    File(&'static str, u32),
    Link,
}

/// Trees of paths with few names, so that patterns meet them.
fn trees() -> impl Strategy<Value = BTreeMap<String, Kind>> {
    let kind = prop_oneof![
        Just(Kind::Directory),
        Just(Kind::Link),
        (sample::select(vec!["", "one", "two"]), sample::select(vec![0o644, 0o755]))
            .prop_map(|(t, m)| Kind::File(t, m)),
    ];
    collection::btree_map(paths(&["a", "b", "c.o", "ab"], 4), kind, 0..20)
}

fn paths(names: &[&'static str], depth: usize) -> impl Strategy<Value = String> {
    collection::vec(sample::select(names.to_vec()), 1..=depth).prop_map(|parts| parts.join("/"))
}

fn patterns(exceptions: bool) -> impl Strategy<Value = Vec<String>> {
    let names = paths(&["a", "b", "c.o", "*", "**", "a*", "?", "*.o"], 3);
    let marks = if exceptions { vec!["", "", "!"] } else { vec![""] };
    collection::vec((sample::select(marks), names).prop_map(|(mark, name)| format!("{mark}{name}")), 0..5)
}

/// Makes a tree on disk; what can't be where a file is already is left out.
fn make(folder: &Path, tree: &BTreeMap<String, Kind>) {
    for (path, kind) in tree {
        let path = folder.join(path);
        if fs::create_dir_all(path.parent().unwrap()).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match kind {
            Kind::Directory => fs::create_dir(&path).unwrap(),
            Kind::Link => symlink("a", &path).unwrap(),
            Kind::File(text, mode) => {
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }
}

/// All that is below a directory, each path decided by itself; a directory is there for its own sake or for that of
/// what is in it. `keeps` decides by the path alone.
fn kept(folder: &Path, at: &str, keeps: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut names: Vec<String> =
        fs::read_dir(folder.join(at)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in names {
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        let is_directory = folder.join(&path).symlink_metadata().unwrap().is_dir();
        let below = if is_directory { kept(folder, &path, keeps) } else { Vec::new() };
        if keeps(&path) || !below.is_empty() {
            found.push(path);
            found.extend(below);
        }
    }
    found
}

/// The same entries in memory.
fn in_memory(folder: &Path, paths: &[String]) -> MemoryTree {
    let mut tree = MemoryTree::new();
    for path in paths {
        let status = folder.join(path).symlink_metadata().unwrap();
        let mut content = Content::None;
        let node = if status.is_dir() {
            Node::Directory { opaque: false }
        } else if status.is_symlink() {
            Node::Symlink { target: b"a".to_vec() }
        } else {
            content = Content::Bytes(fs::read(folder.join(path)).unwrap().into());
            Node::File { size: status.size() }
        };
        let metadata = Metadata { mode: status.mode() & 0o7777, ..Metadata::default() };
        tree.add(Entry { path: TreePath::clean(path.as_bytes()), node, metadata }, content, None);
    }
    tree
}

fn names(selection: &Selection) -> Vec<String> {
    let mut names = Vec::new();
    selection.describe(&mut |path, _, _| names.push(path.to_owned())).unwrap();
    names.sort();
    names
}

fn is_excluded(list: &PatternList, path: &str) -> bool {
    let mut state = DirectoryMatch::default();
    for (index, _) in path.match_indices('/') {
        state = list.decide_directory(&path.as_bytes()[..index], &state).1;
    }
    list.decide(path.as_bytes(), &state).is_match()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    #[test]
    fn finds_what_a_naive_walk_finds(tree in trees(), ignored in patterns(true), excluded in patterns(true)) {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &tree);
        let text = ignored.join("\n");
        let Ok(rules) = IgnoreRules::parse(text.as_bytes()) else { return Ok(()) };
        let of_context = kept(folder.path(), "", &|path| rules.verdict(&TreePath::clean(path.as_bytes())) == Verdict::Kept);
        let context = ContextDir::open(folder.path(), Some(rules), StatCache::none()).unwrap();
        let memory = in_memory(folder.path(), &of_context);
        let everything = SelectOptions { sources: vec![b".".to_vec()], ..SelectOptions::default() };
        let selection = select(&context, &everything).unwrap();
        let mut want = of_context.clone();
        want.sort();
        prop_assert_eq!(names(&selection), want, "{:?}", ignored);
        prop_assert_eq!(selection.digest(), fingerprint(&memory, &everything).unwrap().digest());

        let options = SelectOptions { excludes: excluded.clone(), ..everything };
        let Ok(selection) = select(&context, &options) else { return Ok(()) };
        let list = PatternList::parse(excluded.iter().map(|text| (1, text.as_str()))).unwrap();
        let mut want = kept(folder.path(), "", &|path| of_context.iter().any(|kept| kept == path) && !is_excluded(&list, path));
        want.sort();
        prop_assert_eq!(names(&selection), want, "{:?} {:?}", ignored, excluded);
        let found = fingerprint(&context, &options).unwrap();
        prop_assert_eq!((selection.digest(), selection.fingerprint().totals()), (found.digest(), found.totals()));
        prop_assert_eq!(found.digest(), fingerprint(&memory, &options).unwrap().digest());
    }
}

#[test]
fn what_is_ignored_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let digest = |excludes: &[&str]| {
        let rules = IgnoreRules::parse(b"*\n!*/kept").unwrap();
        let context = ContextDir::open(folder.path(), Some(rules), StatCache::none()).unwrap();
        let excludes = excludes.iter().map(|text| (*text).to_owned()).collect();
        let options = SelectOptions { sources: vec![b".".to_vec()], excludes, ..SelectOptions::default() };
        fingerprint(&context, &options).unwrap().digest()
    };
    let nothing = digest(&[]);
    // It may hold something that is excepted, but does not.
    fs::create_dir_all(folder.path().join("a/b/kept")).unwrap();
    fs::write(folder.path().join("a/other"), "x").unwrap();
    assert_eq!(digest(&[]), nothing);
    fs::write(folder.path().join("a/kept"), "x").unwrap();
    assert_ne!(digest(&[]), nothing);
    assert_eq!(digest(&["a"]), nothing);
}

#[test]
fn every_fact_counts_but_times() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let digest = || {
        let context = ContextDir::open(folder.path(), None, StatCache::none()).unwrap();
        let options = SelectOptions { sources: vec![b".".to_vec()], ..SelectOptions::default() };
        fingerprint(&context, &options).unwrap().digest()
    };
    fs::create_dir_all(at("d/e")).unwrap();
    fs::write(at("d/f"), "one").unwrap();
    fs::write(at("d/g"), "one").unwrap();
    let mut seen = vec![digest()];
    let mut differs = |what: &str| {
        let now = digest();
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    fs::write(at("d/f"), "two").unwrap();
    differs("content");
    fs::set_permissions(at("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
    differs("mode of a file");
    fs::set_permissions(at("d/e"), fs::Permissions::from_mode(0o700)).unwrap();
    differs("mode of a directory");
    fs::rename(at("d/g"), at("d/h")).unwrap();
    differs("name");
    fs::rename(at("d/h"), at("d/e/h")).unwrap();
    differs("directory");
    fs::hard_link(at("d/f"), at("d/i")).unwrap();
    differs("a second name");
    fs::copy(at("d/i"), at("d/copy")).unwrap();
    fs::rename(at("d/copy"), at("d/i")).unwrap();
    differs("a copy in the place of a second name");
    fs::create_dir(at("d/empty")).unwrap();
    differs("an empty directory");
    fs::remove_dir(at("d/empty")).unwrap();
    symlink("f", at("d/empty")).unwrap();
    differs("a link");
    let before = digest();
    let times = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: times, last_modification: times };
    rustix::fs::utimensat(rustix::fs::CWD, at("d/f"), &times, rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(digest(), before, "times");
}

#[test]
fn a_file_that_changes_between_look_and_read_is_an_error() {
    for (what, change) in [
        ("written", (|path| fs::write(path, "longer than before").unwrap()) as fn(&Path)),
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("replaced by a link", |path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("victim");
        fs::write(&path, "before").unwrap();
        let context = ContextDir::open(folder.path(), None, StatCache::none()).unwrap();
        // Whoever asks for the file is asked when its status was read and its content was not.
        let wants = |_: &[u8]| {
            change(&path);
            true
        };
        let error = context.visit(&TreePath::root(), &wants, &mut |_| panic!("{what}")).unwrap_err();
        assert_eq!(error.to_string(), format!("could not read `{}`", path.display()), "{what}");
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), format!("`{}` changed while the build used it", path.display()), "{what}");
    }
}

#[test]
fn the_deepest_tree_is_walked() {
    let folder = tempfile::tempdir().unwrap();
    // Paths end where a system call takes no longer ones. Two directories at each level are walked in parallel.
    let mut at = rustix::fs::open(folder.path(), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    let depth = 1000;
    for _ in 0..depth {
        for name in ["d", "e"] {
            rustix::fs::mkdirat(&at, name, rustix::fs::Mode::RWXU).unwrap();
        }
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    let context = ContextDir::open(folder.path(), None, StatCache::none()).unwrap();
    let options = SelectOptions { sources: vec![b".".to_vec()], ..SelectOptions::default() };
    let selection = select(&context, &options).unwrap();
    assert_eq!(selection.fingerprint().totals(), (2 * depth, 0));
    assert_eq!(fingerprint(&context, &options).unwrap().digest(), selection.digest());
    // Nothing of it is wanted but what lies at its end, if anything.
    let rules = IgnoreRules::parse(b"**\n!**/none").unwrap();
    let context = ContextDir::open(folder.path(), Some(rules), StatCache::none()).unwrap();
    assert!(context.read_dir(&TreePath::root()).unwrap().is_empty());
    assert_eq!(fingerprint(&context, &options).unwrap().totals(), (0, 0));
}

/// Reads a file's digest in a build of its own at a time when nothing is young any more.
fn cached_digest(folder: &Path, cache: &Path, now: i64) -> blake3::Hash {
    let context = ContextDir::open(folder, None, StatCache::load(cache, Timestamp::from_seconds(now))).unwrap();
    let digest = Cell::new(None);
    let mut take = |seen: crate::tree::Seen<'_>| {
        digest.set(seen.digest);
        Ok(())
    };
    context.visit(&TreePath::root(), &|_| true, &mut take).unwrap();
    context.save_stat_cache().unwrap();
    digest.get().unwrap()
}

#[test]
fn edits_that_hide_themselves_are_seen() {
    let (folder, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (path, cache) = (folder.path().join("f"), store.path().join("cache"));
    let later = 4_000_000_000;
    fs::write(&path, "one").unwrap();
    assert_eq!(cached_digest(folder.path(), &cache, later), blake3::hash(b"one"));
    assert!(cache.exists());
    // The same size, and the time of the contents set back: the time of the status tells.
    let before = fs::metadata(&path).unwrap();
    let set_back = || {
        let times = rustix::fs::Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() };
        let times = rustix::fs::Timestamps { last_access: times, last_modification: times };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
        let now = fs::metadata(&path).unwrap();
        (now.ctime(), now.ctime_nsec()) != (before.ctime(), before.ctime_nsec())
    };
    fs::write(&path, "two").unwrap();
    while !set_back() {}
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before.modified().unwrap());
    assert_eq!(cached_digest(folder.path(), &cache, later), blake3::hash(b"two"));
    // Another file of the same size and times under the name.
    fs::write(store.path().join("other"), "six").unwrap();
    fs::rename(store.path().join("other"), &path).unwrap();
    assert_eq!(cached_digest(folder.path(), &cache, later), blake3::hash(b"six"));
    // A file that was written just now is not remembered, so no edit in the same tick can hide behind it.
    fs::remove_file(&cache).unwrap();
    let written = fs::metadata(&path).unwrap().mtime();
    assert_eq!(cached_digest(folder.path(), &cache, written), blake3::hash(b"six"));
    assert!(!cache.exists());
    fs::write(&path, "ten").unwrap();
    assert_eq!(cached_digest(folder.path(), &cache, written), blake3::hash(b"ten"));
    // A clock that was set back makes everything look young: read anew, never trusted.
    assert_eq!(cached_digest(folder.path(), &cache, 1000), blake3::hash(b"ten"));
    assert!(!cache.exists());
}

#[test]
fn an_edited_file_among_others_is_read_once() {
    let (folder, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = store.path().join("cache");
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    // Whatever is learnt replaces the file.
    let file = || {
        cached_digest(folder.path(), &cache, 4_000_000_000);
        fs::metadata(&cache).unwrap().ino()
    };
    let first = file();
    assert_eq!(file(), first);
    fs::write(folder.path().join("b"), "other").unwrap();
    // So that its inode is not used again.
    fs::hard_link(&cache, store.path().join("kept")).unwrap();
    let edited = file();
    assert_ne!(edited, first);
    assert_eq!(file(), edited);
}
