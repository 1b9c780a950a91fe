//! Tables of what COPY makes of a source tree and a tree below.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tree::{Change, Content, Entry, Metadata, Node, Timestamp, TreePath};

const SOURCE_TIME: Timestamp = Timestamp::from_seconds(100);
const IMPLIED_TIME: Timestamp = Timestamp::from_seconds(7);

/// Makes a tree of lines such as `file a/b text 0600 1:2`, `dir a 0700`, `link a target`, `hard a group text`.
pub(super) fn tree(lines: &[&str]) -> MemoryTree {
    let mut tree = MemoryTree::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let path = TreePath::clean(words[1].as_bytes());
        let (mut content, mut link, mut default_mode) = (Content::None, None, "0644");
        let (node, rest) = match words[0] {
            "dir" => {
                default_mode = "0755";
                (Node::Directory { opaque: false }, &words[2..])
            }
            "link" => {
                default_mode = "0777";
                (Node::Symlink { target: words[2].as_bytes().to_vec() }, &words[3..])
            }
            "fifo" => (Node::Fifo, &words[2..]),
            "hard" => {
                link = Some(words[2].parse().unwrap());
                content = Content::Bytes(words[3].as_bytes().into());
                (Node::File { size: words[3].len() as u64 }, &words[4..])
            }
            _ => {
                content = Content::Bytes(words[2].as_bytes().into());
                (Node::File { size: words[2].len() as u64 }, &words[3..])
            }
        };
        let mode = u32::from_str_radix(rest.first().unwrap_or(&default_mode), 8).unwrap();
        let (uid, gid) = rest.get(1).map_or((0, 0), |owner| {
            let (uid, gid) = owner.split_once(':').unwrap();
            (uid.parse().unwrap(), gid.parse().unwrap())
        });
        let metadata = Metadata { mode, uid, gid, modified: SOURCE_TIME, ..Metadata::default() };
        tree.add(Entry { path, node, metadata }, content, link);
    }
    tree
}

/// A change in one line, the form that the tables have.
pub(super) fn show(change: &Change) -> String {
    let entry = &change.entry;
    let path = &entry.path.to_string()[1..];
    let metadata = &entry.metadata;
    let tail = format!("{:04o} {}:{}", metadata.mode, metadata.uid, metadata.gid);
    match &entry.node {
        Node::Directory { opaque } => format!("{} {path} {tail}", if *opaque { "opaque" } else { "dir" }),
        Node::File { .. } => match &change.content {
            Content::Bytes(bytes) => format!("file {path} {} {tail}", String::from_utf8_lossy(bytes)),
            _ => format!("file {path} {tail}"),
        },
        Node::Symlink { target } => format!("link {path} {} {tail}", String::from_utf8_lossy(target)),
        Node::HardLink { target } => format!("hard {path} {target}"),
        node => format!("{node:?} {path} {tail}"),
    }
}

/// `COPY` with flags, as in a Dockerfile; `/w` is the working directory.
fn copy_all(source: &MemoryTree, below: &MemoryTree, words: &str) -> Result<Placement, CopyError> {
    let mut select_options = SelectOptions { wildcards: true, ..SelectOptions::default() };
    let (mut owner, mut mode, mut link) = (None, None, false);
    let mut paths = Vec::new();
    for word in words.split(' ') {
        match word.split_once('=').unwrap_or((word, "")) {
            ("--parents", _) => select_options.parents = true,
            ("--unpack", _) => select_options.unpack = true,
            ("--link", _) => link = true,
            ("--exclude", pattern) => select_options.excludes.push(pattern.to_owned()),
            ("--chmod", text) => mode = Some(ModeChange::parse(text).unwrap()),
            ("--chown", text) => {
                let (uid, gid) = text.split_once(':').unwrap();
                owner = Some((uid.parse().unwrap(), gid.parse().unwrap()));
            }
            _ => paths.push(word.as_bytes().to_vec()),
        }
    }
    let destination = paths.pop().unwrap();
    select_options.sources = paths;
    let selection = select(source, &select_options)?;
    let folder = tempfile::tempdir().unwrap();
    let options = PlaceOptions {
        destination: &destination,
        working_directory: b"/w",
        owner,
        mode: mode.as_ref(),
        link,
        implied_time: IMPLIED_TIME,
        temporary_folder: folder.path(),
    };
    let placed = place(&selection, below, &options);
    // Sources that are merged on the way give what they give when each is placed on top of those before.
    let one_by_one = place::place_one_by_one(&selection, below, &options);
    assert_eq!(summary(&placed), summary(&one_by_one), "COPY {words}");
    placed
}

/// The changes in order and the warnings; of errors, that there is one.
fn summary(placed: &Result<Placement, CopyError>) -> Result<Vec<String>, ()> {
    let placement = placed.as_ref().map_err(drop)?;
    let mut warnings: Vec<String> = placement.warnings.iter().map(|warning| format!("{warning:?}")).collect();
    warnings.sort();
    let changes = placement.changes.iter().map(|change| change.unwrap()).map(|c| format!("{} {:?}", show(&c), c.entry));
    Ok(changes.chain(warnings).collect())
}

fn any_tree() -> impl Strategy<Value = Vec<String>> {
    const PATHS: [&str; 9] = ["a", "a/b", "a/b/c", "a/d", "e", "e/f", "g", "a.b", "a-b/x"];
    let entries = proptest::collection::vec((0..PATHS.len(), 0..8_u8, 0..3_u8), 0..9);
    entries.prop_map(|entries| {
        let mut kinds: BTreeMap<&str, (u8, u8)> = BTreeMap::new();
        for (at, kind, number) in entries {
            kinds.insert(PATHS[at], (kind, number));
        }
        let is_directory = |path: &str| kinds.get(path).is_none_or(|(kind, _)| *kind < 3);
        let below = |path: &&&str| path.match_indices('/').all(|(at, _)| is_directory(&path[..at]));
        let line = |path: &&str| match kinds[path] {
            (0..3, number) => format!("dir {path} 070{number} 0:{number}"),
            (3, number) => format!("link {path} {number}"),
            (4 | 5, number) => format!("hard {path} {number} same{number}"),
            (_, number) => format!("file {path} text{number} 064{number}"),
        };
        kinds.keys().filter(below).map(line).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn sources_are_merged_as_if_placed_one_by_one(trees in proptest::collection::vec(any_tree(), 1..4), below in any_tree(), to in 0..4_usize) {
        let mut lines: Vec<String> = (0..trees.len()).map(|n| format!("dir s{n}")).collect();
        for (n, tree) in trees.iter().enumerate() {
            lines.extend(tree.iter().map(|line| {
                let (kind, rest) = line.split_once(' ').unwrap();
                // Numbers of links count for the whole tree.
                format!("{kind} s{n}/{rest}")
            }));
        }
        lines.push("file a single".to_owned());
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        let sources: Vec<String> = (0..trees.len()).map(|n| format!("s{n}")).collect();
        let (sources, to) = (sources.join(" "), ["/", "/a/", "/new", "/e/f/"][to]);
        for words in [format!("{sources} {to}"), format!("{sources} a {to}"), format!("a {sources} {to}")] {
            // The comparison is in there.
            let _ = copy_all(&tree(&lines), &tree(&below), &words);
        }
    }
}

fn copy(source: &[&str], below: &[&str], words: &str) -> Result<Vec<String>, CopyError> {
    copy_all(&tree(source), &tree(below), words)
        .map(|placement| placement.changes.iter().map(|change| show(&change.unwrap())).collect())
}

#[track_caller]
fn check(source: &[&str], below: &[&str], words: &str, want: &[&str]) {
    assert_eq!(copy(source, below, words).unwrap(), want, "COPY {words}");
}

#[track_caller]
fn check_refused(source: &[&str], below: &[&str], words: &str, mention: &str) {
    let error = copy(source, below, words).unwrap_err().to_string();
    assert!(error.contains(mention), "COPY {words}: {error}");
}

#[test]
fn files_and_destinations() {
    let source = &["file a A 0640", "file b B"];
    check(source, &[], "a /", &["file a A 0640 0:0"]);
    check(source, &[], "a /x/y", &["dir x 0755 0:0", "file x/y A 0640 0:0"]);
    check(source, &[], "a /x/", &["dir x 0755 0:0", "file x/a A 0640 0:0"]);
    check(source, &[], "a /x/.", &["dir x 0755 0:0", "file x/a A 0640 0:0"]);
    check(source, &[], "a //x///y//", &["dir x 0755 0:0", "dir x/y 0755 0:0", "file x/y/a A 0640 0:0"]);
    check(source, &["dir w 0700 5:6"], "a .", &["dir w 0700 5:6", "file w/a A 0640 0:0"]);
    check(source, &["dir w"], "a x", &["dir w 0755 0:0", "file w/x A 0640 0:0"]);
    check(source, &["dir w"], "a ..", &["file a A 0640 0:0"]);
    check(source, &["dir srv"], "a b /srv", &["dir srv 0755 0:0", "file srv/a A 0640 0:0", "file srv/b B 0644 0:0"]);
    check(source, &[], "a b /new", &["file new B 0644 0:0"]);
    check(source, &["file new old"], "a /new", &["file new A 0640 0:0"]);
    check(source, &[], "a/ ../../b /x/", &["dir x 0755 0:0", "file x/a A 0640 0:0", "file x/b B 0644 0:0"]);
    check_refused(source, &["file f x"], "a /f/a", "/f");
    check_refused(source, &["file f x"], "a /f/", "/f");
    check_refused(source, &[], "none /", "none");
    check_refused(source, &[], "../none /", "none");
}

#[test]
fn directories() {
    let source = &["dir t 0711", "dir t/sub 0750", "file t/sub/f F", "file t/g G", "dir t/empty"];
    check(
        source,
        &[],
        "t /out",
        &[
            "dir out 0755 0:0",
            "dir out/empty 0755 0:0",
            "file out/g G 0644 0:0",
            "dir out/sub 0750 0:0",
            "file out/sub/f F 0644 0:0",
        ],
    );
    let merged = copy(source, &["dir out 0701 7:8", "dir out/sub 0700 7:8"], "t /out").unwrap();
    assert_eq!(merged[0], "dir out 0701 7:8");
    assert_eq!(merged[3], "dir out/sub 0750 0:0");
    check(&["file d/f F"], &[], ". /", &["dir d 0755 0:0", "file d/f F 0644 0:0"]);
    check_refused(source, &["link out/sub /elsewhere"], "t /out", "/out/sub");
    check_refused(source, &["file out x"], "t /out", "/out");
    check_refused(source, &["dir out/g"], "t /out", "/out/g");
    check_refused(&["file t/.wh.x x"], &[], "t /out", ".wh.x");
}

#[test]
fn links_in_the_destination() {
    let below = &["link srv/link /var/lib", "dir var/lib", "link etc/alias base", "file etc/base B", "link loop loop"];
    let source = &["file a A", "file t/c C", "file t/alias N"];
    check(source, below, "a /srv/link", &["dir var 0755 0:0", "dir var/lib 0755 0:0", "file var/lib/a A 0644 0:0"]);
    check(
        source,
        below,
        "t /srv/link/new/",
        &[
            "dir var 0755 0:0",
            "dir var/lib 0755 0:0",
            "dir var/lib/new 0755 0:0",
            "file var/lib/new/alias N 0644 0:0",
            "file var/lib/new/c C 0644 0:0",
        ],
    );
    check(source, below, "a /etc/alias", &["dir etc 0755 0:0", "file etc/base A 0644 0:0"]);
    check(source, below, "t/alias /etc/", &["dir etc 0755 0:0", "file etc/alias N 0644 0:0"]);
    check_refused(source, below, "a /loop/x", "symbolic links");
    check(
        source,
        below,
        "--link a /srv/link/a",
        &["dir srv 0755 0:0", "dir srv/link 0755 0:0", "file srv/link/a A 0644 0:0"],
    );
    check(source, &["dir srv/x"], "--link a /srv", &["file srv A 0644 0:0"]);
    check(
        source,
        below,
        "--link --chmod=600 a /srv/link/b",
        &["dir var 0755 0:0", "dir var/lib 0755 0:0", "file var/lib/b A 0600 0:0"],
    );
}

#[test]
fn links_in_the_source() {
    let source =
        &["file etc/mine M", "link abs /etc/mine", "link up ../../etc/mine", "link dir etc", "link gone nowhere"];
    check(source, &[], "abs up /o/", &["dir o 0755 0:0", "file o/abs M 0644 0:0", "file o/up M 0644 0:0"]);
    check(source, &[], "dir /o", &["dir o 0755 0:0", "file o/mine M 0644 0:0"]);
    check(source, &[], "dir/mine /", &["file mine M 0644 0:0"]);
    check(source, &[], "dir/m* /", &["file mine M 0644 0:0"]);
    check(source, &[], "a* /o/", &["dir o 0755 0:0", "file o/abs M 0644 0:0"]);
    check_refused(source, &[], "gone /", "gone");
    check_refused(source, &[], "abs/x /", "abs/x");
    let kept = copy(&["link t/a /etc/passwd", "link t/b gone"], &[], "t /o").unwrap();
    assert_eq!(kept[1..], ["link o/a /etc/passwd 0777 0:0", "link o/b gone 0777 0:0"]);
    check(
        &["link t/one three", "file t/two 2"],
        &["file o/one old", "link o/two one"],
        "t /o",
        &["dir o 0755 0:0", "link o/one three 0777 0:0", "file o/two 2 0644 0:0"],
    );
}

#[test]
fn wildcards() {
    let source = &["file d/.env E", "file d/x1 1", "file d/x2 2", "file x/conf X", "file y/conf Y", "file [0] Z"];
    check(
        source,
        &[],
        "d/* /o/",
        &["dir o 0755 0:0", "file o/.env E 0644 0:0", "file o/x1 1 0644 0:0", "file o/x2 2 0644 0:0"],
    );
    check(source, &[], "*/conf /o/", &["dir o 0755 0:0", "file o/conf Y 0644 0:0"]);
    check(source, &[], "d/x[2-9] /n", &["file n 2 0644 0:0"]);
    check(source, &[], "[[]0] /n", &["file n Z 0644 0:0"]);
    check(source, &[], "no* /o/", &[]);
    check(source, &[], "d/./q*/../x? /o", &["file o 2 0644 0:0"]);
    check(source, &[], "[xy] /o/", &["dir o 0755 0:0", "file o/conf Y 0644 0:0"]);
    check_refused(source, &[], "missing/* /o/", "missing/*");
    check_refused(source, &[], "d/[ /o/", "match a source");
}

#[test]
fn owners_and_modes() {
    let source = &["file t/f F 0600 3:4", "link t/l f 0777 5:6", "dir t/s 0700"];
    check(
        source,
        &[],
        "--chown=7:8 --chmod=750 t /o/p",
        &["dir o 0750 7:8", "dir o/p 0750 7:8", "file o/p/f F 0750 7:8", "link o/p/l f 0777 7:8", "dir o/p/s 0750 7:8"],
    );
    check(
        source,
        &[],
        "--chmod=u=rwX,go=rX t /o",
        &["dir o 0755 0:0", "file o/f F 0644 3:4", "link o/l f 0777 5:6", "dir o/s 0755 0:0"],
    );
    check(source, &[], "--chmod=4711 t/f /o/f", &["dir o 0711 0:0", "file o/f F 4711 3:4"]);
}

#[test]
fn hard_links() {
    let source = &["hard t/a 1 X", "hard t/b 1 X", "hard t/s/c 1 X", "hard t/other 2 Y", "hard u/z 2 Y"];
    check(
        source,
        &[],
        "t /o",
        &[
            "dir o 0755 0:0",
            "file o/a X 0644 0:0",
            "hard o/b /o/a",
            "file o/other Y 0644 0:0",
            "dir o/s 0755 0:0",
            "hard o/s/c /o/a",
        ],
    );
    let two = copy(&["hard t/a 1 X", "hard t/b 1 X", "file u/a N"], &[], "t u /o").unwrap();
    assert_eq!(two[1..], ["file o/a N 0644 0:0", "file o/b X 0644 0:0"]);
    let apart = copy(source, &[], "t/a t/b /o/").unwrap();
    assert_eq!(apart[1..], ["file o/a X 0644 0:0", "file o/b X 0644 0:0"]);
}

#[test]
fn parents_and_excludes() {
    let source = &["file a/b/c/f F", "dir a 0750", "file x/go.mod X", "file top.txt T", "file src/d/t.txt D"];
    let under = |flags: &str| copy(source, &[], flags).unwrap().last().unwrap().clone();
    assert_eq!(under("--parents a/b/c/f /o/"), "file o/a/b/c/f F 0644 0:0");
    assert_eq!(under("--parents a/./b/./c/f /o/"), "file o/b/c/f F 0644 0:0");
    assert_eq!(under("--parents ./a/b/c/f /o/"), "file o/a/b/c/f F 0644 0:0");
    assert_eq!(under("--parents a/b* /o/"), "file o/a/b/c/f F 0644 0:0");
    check(
        source,
        &[],
        "--parents src/**/*.txt **/go.mod /o/",
        &[
            "dir o 0755 0:0",
            "dir o/src 0755 0:0",
            "dir o/src/d 0755 0:0",
            "file o/src/d/t.txt D 0644 0:0",
            "dir o/x 0755 0:0",
            "file o/x/go.mod X 0644 0:0",
        ],
    );
    check(
        source,
        &["dir o 0701 7:8", "dir o/a 0701 7:8"],
        "--parents a/b/c/f /o/",
        &[
            "dir o 0701 7:8",
            "dir o/a 0750 7:8",
            "dir o/a/b 0755 0:0",
            "dir o/a/b/c 0755 0:0",
            "file o/a/b/c/f F 0644 0:0",
        ],
    );
    check_refused(source, &[], "--parents a/none /o/", "a/none");
    let source = &["file t/n/x X", "file t/s/n/y Y", "file t/a.log A", "file t/s/b.log B", "file a.log T"];
    check(
        source,
        &[],
        "--exclude=n --exclude=*.log t a.log /o/",
        &[
            "dir o 0755 0:0",
            "file o/a.log T 0644 0:0",
            "dir o/s 0755 0:0",
            "file o/s/b.log B 0644 0:0",
            "dir o/s/n 0755 0:0",
            "file o/s/n/y Y 0644 0:0",
        ],
    );
    check(
        source,
        &[],
        "--exclude=* --exclude=!s/n t /o/",
        &["dir o 0755 0:0", "dir o/s 0755 0:0", "dir o/s/n 0755 0:0", "file o/s/n/y Y 0644 0:0"],
    );
    check_refused(source, &[], "--exclude=[ t /o", "--exclude=[");
}

#[test]
fn lost_sources_are_reported() {
    let source = tree(&["file a A", "file b B", "file x/c C", "file y/c D", "file t/b T"]);
    let warnings = |words: &str| copy_all(&source, &MemoryTree::new(), words).unwrap().warnings;
    let lost = |destination: &str, lost: &str, kept: &str, renamed| PlaceWarning::SourceLost {
        destination: destination.to_owned(),
        lost: lost.to_owned(),
        kept: kept.to_owned(),
        renamed,
    };
    assert_eq!(warnings("a b /new"), [lost("/new", "a", "b", true)]);
    assert_eq!(warnings("x/c y/c /o/"), [lost("/o/c", "x/c", "y/c", false)]);
    assert_eq!(warnings("a b t /o/"), []);
}

#[test]
fn digests_tell_what_matters() {
    let options = |source: &str| SelectOptions { sources: vec![source.into()], wildcards: true, ..Default::default() };
    let digest = |lines: &[&str], source: &str| select(&tree(lines), &options(source)).unwrap().digest();
    let base = digest(&["file t/a A", "file t/b B"], "t");
    assert_eq!(base, digest(&["file t/a A", "file t/b B", "file other O"], "t"));
    for changed in [
        &["file t/a X", "file t/b B"][..],
        &["file t/a A 0600", "file t/b B"],
        &["file t/a A 0644 1:0", "file t/b B"],
        &["file t/c A", "file t/b B"],
        &["file t/a A", "file t/b B", "dir t/c"],
        &["link t/a A", "file t/b B"],
        &["file t/a A"],
    ] {
        assert_ne!(base, digest(changed, "t"), "{changed:?}");
    }
    assert_ne!(digest(&["hard t/a 1 A", "hard t/b 1 A"], "t"), digest(&["file t/a A", "file t/b A"], "t"));
    assert_ne!(digest(&["file a A"], "a"), digest(&["file b A"], "b"));
    let mut described = Vec::new();
    let selection = select(&tree(&["file t/a A", "link t/l x"]), &options("t")).unwrap();
    selection.describe(&mut |path, facts, mark| described.push((path.to_owned(), facts.to_owned(), mark))).unwrap();
    // Of several sources in the order of paths, and what is copied twice once.
    let mut paths = Vec::new();
    let sources = [b"u".to_vec(), b"t".to_vec(), b"t/b".to_vec(), b"t".to_vec()].to_vec();
    let several = select(&tree(&["file u U", "file t/a A", "file t/b B"]), &SelectOptions { sources, ..options("t") });
    several.unwrap().describe(&mut |path, _, _| paths.push(path.to_owned())).unwrap();
    assert_eq!(paths, ["t/a", "t/b", "u"]);
    let mark = Some((&blake3::hash(b"A")).into());
    let want = [("t/a", "file 0644 0:0", mark), ("t/l", "link to x 0777 0:0", None)];
    assert_eq!(described, want.map(|(path, facts, mark)| (path.to_owned(), facts.to_owned(), mark)));
}

#[test]
fn a_folder_alone_is_placed_as_one_among_others_is() {
    let source = [
        "file t/a/f A 0600 1:2",
        "dir t/a/empty 0700",
        "hard t/a/h 1 H",
        "hard t/b/h 1 H",
        "link t/l a",
        "fifo t/p",
        "file t/x/y/z Z",
        "file t.c C",
    ];
    let below: [&[&str]; 8] = [
        &[],
        &["dir d 0711 3:4"],
        &["dir d/a 0711", "file d/a/f old", "file d/a/g old"],
        &["link d e", "dir e/x 0700", "file e/l old"],
        &["file d/x old"],
        &["dir d/a/f"],
        &["file d old"],
        &["link d/x a"],
    ];
    for below in below {
        for flags in ["", "--chmod=0640 ", "--chown=5:6 ", "--link ", "--exclude=**/h ", "--parents "] {
            for destination in ["/d", "/d/", "/d/deep/er/"] {
                let copied = |sources: &str| {
                    let words = format!("{flags}{sources} {destination}");
                    copy(&source, below, &words).map_err(|error| error.to_string())
                };
                assert_eq!(copied("t"), copied("t t"), "{below:?} {flags}{destination}");
            }
        }
    }
}
