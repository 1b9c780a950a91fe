//! Trees that try to lead somewhere else.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::tree::{Content, Node, Timestamp, TreePath, TreeView};

fn shell(directory: &Path, script: &str) {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(directory).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    assert!(command.status().unwrap().success(), "{script}");
}

fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes())
}

fn tree(script: &str) -> (tempfile::TempDir, Root) {
    let folder = tempfile::tempdir().unwrap();
    shell(folder.path(), &format!("mkdir tree; echo secret > canary; cd tree; umask 022; {script}"));
    let root = Root::open(&folder.path().join("tree")).unwrap();
    (folder, root)
}

#[test]
fn no_path_leads_out() {
    let (_folder, root) = tree(
        "mkdir a; echo in > a/file; ln -s a alias; ln -s ../canary up; ln -s /canary absolute; ln -s /a/file inside; \
         ln -s /proc/self/root magic; ln -s loop loop; ln -s ../../../../a/./../a/file dots",
    );
    let read = |file: std::fs::File| std::io::read_to_string(file).unwrap();
    assert_eq!(read(root.open_file(&path("a/file")).unwrap()), "in\n");
    for link in ["alias/file", "up", "absolute", "inside", "magic/etc/passwd", "loop", "a", "none"] {
        assert!(root.open_file(&path(link)).is_err(), "{link}");
    }
    for link in ["alias/file", "inside", "/alias/../a/file", "dots", "../../a/file"] {
        assert_eq!(read(root.open_file_following(link.as_bytes()).unwrap()), "in\n", "{link}");
    }
    for link in ["up", "absolute", "magic/etc/passwd", "loop", "../canary", "alias", ""] {
        assert!(root.open_file_following(link.as_bytes()).is_err(), "{link}");
    }
    assert!(root.metadata(&path("alias/file")).unwrap().is_none());
    assert!(root.read_dir(&path("alias")).unwrap().is_empty());
    assert!(root.open_dir(&path("alias")).is_err());
    assert_eq!(root.open_dir_following(b"alias").unwrap().read_dir(&TreePath::root()).unwrap().len(), 1);
    assert_eq!(root.read_link(&path("up")).unwrap(), b"../canary");
    assert!(root.read_link(&path("a")).is_err());
}

#[test]
fn entries_are_what_they_are() {
    let (_folder, root) = tree(
        "mkdir d; mkfifo f; mknod c c 1 3; mknod b b 7 1; echo text > file; ln file other; ln -s file s; \
         chown -h 5:6 s; chmod 4711 file; touch -d @3.000000004 file; touch -d @9 d",
    );
    let found = root.list(&TreePath::root()).unwrap();
    let names: Vec<_> = found.iter().map(|status| status.entry.path.to_string()).collect();
    assert_eq!(names, ["/b", "/c", "/d", "/f", "/file", "/other", "/s"]);
    let nodes: Vec<_> = found.iter().map(|status| status.entry.node.clone()).collect();
    assert_eq!(
        nodes,
        [
            Node::BlockDevice { major: 7, minor: 1 },
            Node::CharDevice { major: 1, minor: 3 },
            Node::Directory { opaque: false },
            Node::Fifo,
            Node::File { size: 5 },
            Node::File { size: 5 },
            Node::Symlink { target: b"file".to_vec() },
        ]
    );
    assert_eq!(found[4].inode, found[5].inode);
    assert!(found[4].is_linked() && !found[3].is_linked());
    let file = &found[4].entry.metadata;
    assert_eq!((file.mode, file.modified), (0o4711, Timestamp { seconds: 3, nanoseconds: 4 }));
    assert_eq!((found[6].entry.metadata.uid, found[6].entry.metadata.gid), (5, 6));
    assert_eq!(root.metadata(&path("d")).unwrap().unwrap(), found[2].entry);
    assert!(root.metadata(&TreePath::root()).unwrap().unwrap().node.is_directory());
    assert!(root.metadata(&path("file/x")).unwrap().is_none());
}

#[test]
fn fifos_are_not_waited_for() {
    let (_folder, root) = tree("mkfifo f; mknod c c 1 3");
    assert!(root.open_file(&path("f")).is_err());
    assert!(root.open_file(&path("c")).is_err());
    assert!(root.open_file_following(b"f").is_err());
}

#[test]
fn attributes_are_filtered() {
    let (_folder, root) = tree("touch f; mkdir d");
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = |name: &[u8], attribute: &[u8], value: &[u8]| set_xattr(root.as_fd(), name, attribute, value).unwrap();
    set(b"f", b"security.capability", &capability);
    set(b"f", b"user.comment", b"x");
    set(b"f", b"user.long", &[b'x'; 1000]);
    set(b"d", b"user.overlay.opaque", b"y");
    let file = root.status(&path("f")).unwrap().unwrap();
    let kept: Vec<_> = file.entry.metadata.xattrs.into_iter().collect();
    assert_eq!(kept, [(b"security.capability".to_vec(), capability.to_vec())]);
    let directory = root.status(&path("d")).unwrap().unwrap();
    assert!(directory.marks.opaque && directory.entry.metadata.xattrs.is_empty());
}

#[test]
fn directories_are_trees() {
    let (_folder, root) = tree(
        "mkdir d; echo one > d/one; ln d/one two; touch empty; \
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'",
    );
    let tree = DirectoryTree::new(root);
    assert!(tree.get(&path("s")).unwrap().is_none());
    assert_eq!(tree.read_dir(&TreePath::root()).unwrap().len(), 3);
    assert_eq!(tree.content_digest(&path("two")).unwrap(), blake3::hash(b"one\n"));
    assert_eq!(tree.link_id(&path("two")).unwrap(), tree.link_id(&path("d/one")).unwrap());
    assert!(tree.link_id(&path("two")).unwrap().is_some() && tree.link_id(&path("empty")).unwrap().is_none());
    assert!(matches!(tree.content(&path("empty")).unwrap(), Content::None));
    let Content::Source(source) = tree.content(&path("two")).unwrap() else { unreachable!("it has bytes") };
    for _ in 0..2 {
        assert_eq!(std::io::read_to_string(source.open().unwrap()).unwrap(), "one\n");
    }
}

#[test]
fn removing_follows_no_link() {
    let (folder, root) = tree(
        "mkdir -p x/locked/in x/empty; echo > x/locked/in/file; ln -s ../../canary x/l; ln -s ../.. x/up; mkfifo x/f; \
         chmod 000 x/locked/in x/locked; echo > .hidden",
    );
    remove_tree(root.as_fd(), c"x").unwrap();
    remove_tree(root.as_fd(), c"x").unwrap();
    assert_eq!(root.read_dir(&TreePath::root()).unwrap().len(), 1);
    assert!(folder.path().join("canary").exists());
    remove_contents(root.as_fd()).unwrap();
    remove_tree(folder_fd(&folder).as_fd(), c"tree").unwrap();
    assert!(!folder.path().join("tree").exists() && folder.path().join("canary").exists());
}

fn folder_fd(folder: &tempfile::TempDir) -> Root {
    Root::open(folder.path()).unwrap()
}
