//! An image's file tree as a tar stream: `type=tar`.

use std::io::{self, Write};
use std::path::Path;

use crate::layer::{Compression, encode};
use crate::tree::{MergedTree, flatten};

use super::{ImageError, OutputFile};

/// Writes the whole tree as one uncompressed tar stream: sorted, without whiteouts, owners by number only.
///
/// # Errors
/// When the tree can't be read or `out` not be written.
pub fn write_rootfs_tar(tree: &MergedTree, out: &mut dyn Write) -> Result<(), ImageError> {
    let changes = flatten(tree)?;
    let mut out = io::BufWriter::with_capacity(1 << 20, out);
    encode(&changes.into(), Compression::Uncompressed, &mut out).map_err(|source| ImageError::Encode { source })?;
    out.flush().map_err(|source| ImageError::Write { what: "archive", source })
}

/// Writes the whole tree as a tar file that appears only when it is complete.
///
/// # Errors
/// When the tree can't be read or the file not be written.
pub fn export_rootfs_tar(tree: &MergedTree, target: &Path) -> Result<(), ImageError> {
    let mut file = OutputFile::create(target)?;
    write_rootfs_tar(tree, &mut file)?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::Arc;

    use super::*;
    use crate::image::{LocalOptions, export_local};
    use crate::tree::{Change, Content, Entry, Metadata, Node, OpenContent, TreeLayer, TreePath};

    /// A layer's files in a folder.
    struct Folder(PathBuf);

    impl OpenContent for Folder {
        fn open(&self, path: &TreePath, _: u64) -> io::Result<File> {
            File::open(self.0.join(path.as_path()))
        }
    }

    fn layer(folder: PathBuf, nodes: &[(&str, Node, &str)]) -> TreeLayer {
        let mut changes = Vec::new();
        for (path, node, text) in nodes {
            let path = TreePath::clean(path.as_bytes());
            let metadata = Metadata { mode: 0o755, uid: 5, gid: 6, ..Metadata::default() };
            let content = if text.is_empty() { Content::None } else { Content::Bytes(text.as_bytes().into()) };
            if let Node::File { .. } = node {
                fs::create_dir_all(folder.join(path.as_path()).parent().unwrap()).unwrap();
                fs::write(folder.join(path.as_path()), text).unwrap();
            }
            changes.push(Change { entry: Entry { path, node: node.clone(), metadata }, content });
        }
        let tree = encode(&changes.into(), Compression::Uncompressed, &mut io::sink()).unwrap().tree;
        TreeLayer { tree: Arc::new(tree), files: Arc::new(Folder(folder)) }
    }

    fn merged(dir: &Path) -> MergedTree {
        let (folder, first) = (Node::Directory { opaque: false }, TreePath::clean(b"a/file"));
        let below = [
            ("a", folder.clone(), ""),
            ("a/file", Node::File { size: 3 }, "one"),
            ("a/gone", Node::File { size: 3 }, "two"),
            ("a/second", Node::HardLink { target: first }, ""),
        ];
        let above =
            [("a", folder, ""), ("a/gone", Node::Whiteout, ""), ("b", Node::Symlink { target: b"a".to_vec() }, "")];
        MergedTree::new(vec![layer(dir.join("below"), &below), layer(dir.join("above"), &above)])
    }

    #[test]
    fn gives_the_whole_tree_without_marks() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out.tar");
        export_rootfs_tar(&merged(dir.path()), &target).unwrap();
        let mut again = Vec::new();
        write_rootfs_tar(&merged(dir.path()), &mut again).unwrap();
        assert_eq!(fs::read(&target).unwrap(), again);
        let script = "import sys, tarfile\n\
            for m in tarfile.open(sys.argv[1]): print(m.name, m.type.decode(), m.uid, m.uname, m.linkname)";
        match Command::new("python3").args(["-c", script]).arg(&target).output() {
            Ok(output) => assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "a 5 5  \na/file 0 5  \na/second 1 5  a/file\nb 2 5  a\n",
                "{}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => println!("skipped: can't run python3: {error}"),
        }
    }

    #[test]
    fn the_same_tree_fits_into_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        export_local(&merged(dir.path()), &target, LocalOptions::default()).unwrap();
        assert_eq!(fs::read(target.join("b/second")).unwrap(), b"one");
        assert!(!target.join("a/gone").exists());
    }
}
