//! The same operations on a real overlay and on a full copy must give the same changes.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::rootfs::{DirectoryTree, Root};
use crate::tree::{ChangeList, Content, Node, TreePath};

const TIMES: &str = "find . -exec touch -h -d @1000000000 {} +";

fn shell(directory: &Path, script: &str) {
    let status = Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

fn point(path: &str, kind: MountKind) -> MountPoint {
    MountPoint { path: TreePath::clean(path.as_bytes()), kind }
}

fn describe(changes: &ChangeList) -> Vec<String> {
    changes
        .iter()
        .map(|change| {
            let change = change.unwrap();
            let (entry, m) = (&change.entry, &change.entry.metadata);
            let kind = match &entry.node {
                Node::Directory { opaque } => {
                    assert!(!opaque);
                    "dir".to_owned()
                }
                Node::File { .. } => {
                    let text = match &change.content {
                        Content::None => String::new(),
                        Content::Bytes(_) | Content::Part(_) => unreachable!("contents are on disk"),
                        Content::Source(source) => std::io::read_to_string(source.open().unwrap()).unwrap(),
                    };
                    format!("file {:?}", text.trim_end())
                }
                Node::Symlink { target } => format!("symlink {}", String::from_utf8_lossy(target)),
                Node::HardLink { target } => format!("link {target}"),
                Node::Fifo => "fifo".to_owned(),
                Node::CharDevice { major, minor } => format!("char {major}:{minor}"),
                Node::BlockDevice { major, minor } => format!("block {major}:{minor}"),
                Node::Whiteout => "gone".to_owned(),
            };
            let capability = if m.xattrs.is_empty() { "" } else { " capability" };
            match entry.node {
                Node::Whiteout | Node::HardLink { .. } => format!("{} {kind}", entry.path),
                Node::Symlink { .. } => format!("{} {kind} {}:{}", entry.path, m.uid, m.gid),
                _ => format!("{} {kind} {:o} {}:{}{capability}", entry.path, m.mode, m.uid, m.gid),
            }
        })
        .collect()
}

/// Runs `operations` in an overlay over what `setup` makes, and in a full copy of it, with mounts at `points`.
fn both_ways(setup: &str, operations: &str, points: &[MountPoint]) -> Vec<String> {
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    shell(at, "mkdir lower points work merged copy");
    shell(&at.join("lower"), &format!("umask 022; {setup}\n{TIMES}"));
    let below = DirectoryTree::new(Root::open(&at.join("lower")).unwrap());
    let layer = mount_point_layer(&below, points).unwrap();
    assert_eq!(write_changes(&at.join("points"), &layer.changes).unwrap(), []);
    make_upper(&at.join("upper"), &below).unwrap();
    let mounts: String = layer
        .targets
        .iter()
        .zip(points)
        .map(|(target, point)| match point.kind {
            MountKind::Directory => format!("mount -t tmpfs tmpfs merged{target};"),
            MountKind::File => format!("mount --bind /dev/null merged{target};"),
        })
        .collect();
    let script = format!(
        "mount -t overlay overlay -o userxattr,lowerdir=points:lower,upperdir=upper,workdir=work merged; {mounts} \
         cd merged; umask 022; {operations}"
    );
    let status = Command::new("unshare").args(["-m", "sh", "-euc", &script]).current_dir(at).status();
    assert!(status.unwrap().success(), "{script}");
    let overlay = describe(&upper_changes(&at.join("upper"), &below, &layer.own, at).unwrap());

    let copy = FullCopy::create(&below, &at.join("copy")).unwrap();
    assert_eq!(describe(&copy.changes(&below, &StepPaths::default(), at).unwrap()), [""; 0]);
    copy.add_mount_points(&layer).unwrap();
    shell(&at.join("copy"), &format!("umask 022; {operations}"));
    let copied = describe(&copy.changes(&below, &layer.own, at).unwrap());
    assert_eq!(overlay, copied, "{operations}");
    assert_eq!(overlay, describe(&diff(&below, &at.join("copy"), &layer.own, at).unwrap()), "{operations}");
    overlay
}

const BASE: &str = "mkdir -p etc usr/bin var/lib/app empty; echo one > etc/one; echo two > etc/two; \
    echo tool > usr/bin/tool; chmod 755 usr/bin/tool; ln -s tool usr/bin/alias; ln usr/bin/tool usr/bin/hard; \
    echo data > var/lib/app/data; mkdir var/lib/app/sub; echo deep > var/lib/app/sub/deep";

#[test]
fn operations_give_their_changes() {
    let cases: &[(&str, &[&str])] = &[
        ("true", &[]),
        ("touch empty/x; rm empty/x; mkdir -p a/b; rm -r a", &[]),
        ("chown 0:0 etc/one; chmod 644 etc/two; chmod 755 var", &[]),
        ("chmod 600 etc/one", &["/etc dir 755 0:0", "/etc/one file \"one\" 600 0:0"]),
        ("echo new > etc/new; rm etc/one", &["/etc dir 755 0:0", "/etc/new file \"new\" 644 0:0", "/etc/one gone"]),
        ("rm -r var/lib/app", &["/var dir 755 0:0", "/var/lib dir 755 0:0", "/var/lib/app gone"]),
        (
            "rm -r var/lib/app; mkdir -p var/lib/app/sub; echo x > var/lib/app/sub/x",
            &[
                "/var dir 755 0:0",
                "/var/lib dir 755 0:0",
                "/var/lib/app dir 755 0:0",
                "/var/lib/app/data gone",
                "/var/lib/app/sub dir 755 0:0",
                "/var/lib/app/sub/deep gone",
                "/var/lib/app/sub/x file \"x\" 644 0:0",
            ],
        ),
        (
            "rm -r var/lib/app; echo f > var/lib/app",
            &["/var dir 755 0:0", "/var/lib dir 755 0:0", "/var/lib/app file \"f\" 644 0:0"],
        ),
        (
            "rm etc/one; mkdir etc/one; touch etc/one/in",
            &["/etc dir 755 0:0", "/etc/one dir 755 0:0", "/etc/one/in file \"\" 644 0:0"],
        ),
        ("ln -sfn two etc/one", &["/etc dir 755 0:0", "/etc/one symlink two 0:0"]),
        (
            "mkfifo pipe; mknod node c 1 3; mknod disk b 7 200",
            &["/disk block 7:200 644 0:0", "/node char 1:3 644 0:0", "/pipe fifo 644 0:0"],
        ),
        ("echo x > b; ln b a; ln b c", &["/a file \"x\" 644 0:0", "/b link /a", "/c link /a"]),
        ("ln etc/one z", &["/z file \"one\" 644 0:0"]),
        ("mkdir -p n/m; chown 7:8 n/m; chmod 1777 n", &["/n dir 1777 0:0", "/n/m dir 755 7:8"]),
        (
            "mkdir n; setcap cap_net_raw+ep n 2>/dev/null || true; cp usr/bin/tool n/t; \
          setcap cap_net_raw+ep n/t 2>/dev/null || chmod 700 n/t; chmod 755 n/t",
            &["/n dir 755 0:0", "/n/t file \"tool\" 755 0:0"],
        ),
        (
            "mv etc etc2",
            &["/etc gone", "/etc2 dir 755 0:0", "/etc2/one file \"one\" 644 0:0", "/etc2/two file \"two\" 644 0:0"],
        ),
        ("python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind(\\\"s\\\")\"", &[]),
        (
            "touch -d @1000000000 reference; printf own > etc/one; touch -r reference etc/one; rm reference",
            &["/etc dir 755 0:0", "/etc/one file \"own\" 644 0:0"],
        ),
    ];
    for (operations, want) in cases {
        let got: Vec<_> =
            both_ways(BASE, operations, &[]).into_iter().map(|line| line.replace(" capability", "")).collect();
        assert_eq!(got, *want, "{operations}");
    }
}

#[test]
fn mount_points_leave_no_trace() {
    let points = [
        point("proc", MountKind::Directory),
        point("etc/resolv.conf", MountKind::File),
        point("run/secrets/token", MountKind::File),
        point("var/run/cache", MountKind::Directory),
        point("var/run/cache/inner", MountKind::Directory),
        point("etc/one", MountKind::File),
    ];
    let setup = format!("{BASE}; mkdir run; chmod 711 run; ln -s ../run var/run; ln -s /absent/link etc/resolv.conf");
    let cases: &[(&str, &[&str])] = &[
        ("true", &[]),
        ("touch run/x; rm run/x; chown -R 0:0 etc run usr", &[]),
        ("echo x > run/x", &["/run dir 711 0:0", "/run/x file \"x\" 644 0:0"]),
        (
            "echo x > run/secrets/other",
            &["/run dir 711 0:0", "/run/secrets dir 755 0:0", "/run/secrets/other file \"x\" 644 0:0"],
        ),
        ("chmod 700 etc", &["/etc dir 700 0:0"]),
    ];
    for (operations, want) in cases {
        // The second mount inside the first needs a directory there, which only its owner can make.
        let got = both_ways(&setup, operations, &points[..4]);
        assert_eq!(got, *want, "{operations}");
    }

    let temporary = tempfile::tempdir().unwrap();
    shell(temporary.path(), &setup);
    let below = DirectoryTree::new(Root::open(temporary.path()).unwrap());
    let layer = mount_point_layer(&below, &points).unwrap();
    let targets: Vec<_> = layer.targets.iter().map(ToString::to_string).collect();
    assert_eq!(targets, ["/proc", "/absent/link", "/run/secrets/token", "/run/cache", "/run/cache/inner", "/etc/one"]);
    assert_eq!(
        describe(&layer.changes.into()),
        [
            "/absent dir 755 0:0",
            "/absent/link file \"\" 644 0:0",
            "/proc dir 755 0:0",
            "/run dir 711 0:0",
            "/run/cache dir 755 0:0",
            "/run/secrets dir 755 0:0",
            "/run/secrets/token file \"\" 644 0:0",
        ]
    );
    for (path, kind) in [("etc", MountKind::File), ("etc/one", MountKind::Directory)] {
        let refused = mount_point_layer(&below, &[point(path, kind)]);
        assert!(matches!(refused, Err(SnapshotError::MountPoint { .. })), "{path}");
    }
    assert!(mount_point_layer(&below, &[point("etc/one/x", MountKind::File)]).is_err());
}

#[test]
fn mount_points_keep_the_time_of_directories() {
    let temporary = tempfile::tempdir().unwrap();
    shell(temporary.path(), "mkdir tree out; mkdir tree/run; touch -d @7 tree/run; chown 3:4 tree/run");
    let below = DirectoryTree::new(Root::open(&temporary.path().join("tree")).unwrap());
    let layer = mount_point_layer(&below, &[point("run/a", MountKind::File)]).unwrap();
    write_changes(&temporary.path().join("out"), &layer.changes).unwrap();
    let written = Root::open(&temporary.path().join("out")).unwrap();
    assert_eq!(
        written.metadata(&TreePath::clean(b"run")).unwrap(),
        below.root().metadata(&TreePath::clean(b"run")).unwrap()
    );
}

#[test]
fn reserved_names_and_depths_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    shell(at, "mkdir lower upper copy; mkdir upper/d; touch upper/d/.wh.x");
    let below = DirectoryTree::new(Root::open(&at.join("lower")).unwrap());
    let own = StepPaths::default();
    assert!(matches!(upper_changes(&at.join("upper"), &below, &own, at), Err(SnapshotError::ReservedName { .. })));
    shell(at, "rm -r upper/d; mknod copy/zero c 0 0");
    assert!(matches!(diff(&below, &at.join("copy"), &own, at), Err(SnapshotError::ReservedName { .. })));
    shell(
        at,
        "python3 -c 'import os\nos.chdir(\"upper\")\nfor i in range(170): os.mkdir(\"d\"*200); os.chdir(\"d\"*200)'",
    );
    assert!(matches!(upper_changes(&at.join("upper"), &below, &own, at), Err(SnapshotError::PathTooLong { .. })));
    let root = Root::open(at).unwrap();
    crate::rootfs::remove_tree(std::os::fd::AsFd::as_fd(&root), c"upper").unwrap();
    assert!(!at.join("upper").exists());
}

#[test]
fn deep_paths_are_read_in_pieces() {
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    shell(at, "mkdir lower upper");
    shell(
        at,
        "python3 -c 'import os\nos.chdir(\"upper\")\nfor i in range(100): os.mkdir(\"d\"*200); os.chdir(\"d\"*200)\n\
         open(\"end\",\"w\").write(\"deep\")'",
    );
    let below = DirectoryTree::new(Root::open(&at.join("lower")).unwrap());
    let changes = upper_changes(&at.join("upper"), &below, &StepPaths::default(), at).unwrap();
    assert_eq!(changes.len(), 101);
    assert!(describe(&changes)[100].ends_with("/end file \"deep\" 644 0:0"));
    let root = Root::open(at).unwrap();
    crate::rootfs::remove_tree(std::os::fd::AsFd::as_fd(&root), c"upper").unwrap();
}

#[test]
fn times_are_clamped() {
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    shell(at, "mkdir lower upper; touch -d @50 upper/old; touch -d @200.5 upper/new");
    let below = DirectoryTree::new(Root::open(&at.join("lower")).unwrap());
    let changes = upper_changes(&at.join("upper"), &below, &StepPaths::default(), at).unwrap();
    let times: Vec<_> = changes.iter().map(|change| clamp_time(change.unwrap(), 100).entry.metadata.modified).collect();
    assert_eq!(times, [crate::tree::Timestamp::from_seconds(100), crate::tree::Timestamp::from_seconds(50)]);
}

#[test]
fn many_entries_are_read_in_order() {
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    shell(at, "mkdir lower lower/same lower/full upper; cd lower; cd full; seq -f f%g 1500 | xargs touch");
    shell(&at.join("lower"), TIMES);
    let operations = "mkdir -p deep/a deep/b.c deep/b; (cd deep/b; seq -f f%g 1300 | xargs touch); \
        seq -f dirs/d%g/in 300 | xargs mkdir -p; seq -f dirs/d%g/in/file 300 | xargs touch; ln deep/b/f7 dirs/d7/link; \
        rm -rf full; mkdir full; echo new > full/f2; echo 3 > full/f3; mkdir same; touch same/made";
    // What the same operations leave where everything was there before.
    let copy = at.join("copy");
    shell(at, &format!("cp -a lower copy; cd copy; rm -r same; {operations}"));
    let below = DirectoryTree::new(Root::open(&at.join("lower")).unwrap());
    let changes = diff(&below, &copy, &StepPaths::default(), at).unwrap();
    let paths: Vec<TreePath> = changes.iter().map(|change| change.unwrap().entry.path).collect();
    assert!(paths.windows(2).all(|pair| pair[0] < pair[1]), "sorted, each once");
    let gone = |path: &TreePath| changes.find(path).unwrap().is_some_and(|change| change.entry.node == Node::Whiteout);
    let lines = describe(&changes);
    let count = |start: &str, end: &str| lines.iter().filter(|l| l.starts_with(start) && l.ends_with(end)).count();
    assert_eq!((count("/full/", " gone"), count("/full/", "0:0"), count("/full ", "0:0")), (1498, 2, 1));
    assert_eq!((count("/deep/", "0:0"), count("/dirs/", " 0:0")), (1303, 900));
    assert!(lines.contains(&"/dirs/d7/link link /deep/b/f7".to_owned()));
    assert!(gone(&TreePath::clean(b"full/f1")) && !gone(&TreePath::clean(b"full/f2")));
    assert!(lines.iter().any(|line| line.starts_with("/same/made ")));
}
