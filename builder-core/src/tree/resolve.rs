//! Following symbolic links inside a tree, as a process would whose root directory is the tree's root.

use std::collections::VecDeque;
use std::io::Read;

use super::{Content, Node, TreeError, TreePath, TreeView};

/// As many links as the kernel follows in one path.
const MOST_LINKS: usize = 40;

/// Whether a symbolic link that a path ends in is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowLast {
    /// It is.
    Yes,
    /// The link itself is meant.
    No,
}

/// Resolves a path, relative to the root or absolute, to the path that it stands for without links.
///
/// `..` never leaves the root. What does not exist is kept as it is written, so that a path to be made can be resolved.
///
/// # Errors
/// When links lead in a circle, when something in the middle of the path is no directory, or the tree can't be read.
pub fn resolve(view: &dyn TreeView, path: &[u8], last: FollowLast) -> Result<TreePath, TreeError> {
    let mut todo: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
    let mut found = TreePath::root();
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == b".." {
            found = found.parent().unwrap_or_default();
            continue;
        }
        let next = found.join(&name);
        match view.get(&next)?.map(|entry| entry.node) {
            Some(Node::Symlink { target }) if !todo.is_empty() || last == FollowLast::Yes => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(TreeError::LinkLoop { path: TreePath::clean(path).to_string() });
                }
                if target.first() == Some(&b'/') {
                    found = TreePath::root();
                }
                for name in components(&target).collect::<Vec<_>>().into_iter().rev() {
                    todo.push_front(name.to_vec());
                }
            }
            None | Some(Node::Directory { .. }) => found = next,
            Some(_) if todo.is_empty() => found = next,
            Some(_) => return Err(TreeError::NotADirectory { path: next.to_string() }),
        }
    }
    Ok(found)
}

/// Reads a small regular file, following links; `None` where there is none or something else is there.
///
/// # Errors
/// When the file has more than `limit` bytes, or the tree can't be read. A path through something that is no directory
/// is a file that is not there.
pub fn read_small(view: &dyn TreeView, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
    let path = match resolve(view, path, FollowLast::Yes) {
        Err(TreeError::NotADirectory { .. }) => return Ok(None),
        path => path?,
    };
    let Some(Node::File { size }) = view.get(&path)?.map(|entry| entry.node) else { return Ok(None) };
    let too_large = |size| TreeError::TooLarge { path: path.to_string(), size, limit };
    if size > limit {
        return Err(too_large(size));
    }
    let error = |source| TreeError::Io { action: "read", path: path.to_string(), source };
    let mut bytes = Vec::new();
    match view.content(&path)? {
        Content::None => {}
        Content::Bytes(content) => bytes.extend_from_slice(&content),
        Content::Source(source) => {
            let file = source.open().map_err(error)?;
            file.take(limit + 1).read_to_end(&mut bytes).map_err(error)?;
        }
        Content::Part(part) => drop(part.reader().take(limit + 1).read_to_end(&mut bytes).map_err(error)?),
    }
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(Some(bytes))
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    // The kernel could not be asked for a name with a NUL byte; such a name is the part before it.
    path.split(|&b| b == b'/')
        .map(|name| name.split(|&b| b == 0).next().unwrap_or_default())
        .filter(|name| !matches!(*name, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use super::super::merged::tests::{directory, file, merged, symlink};
    use super::*;

    #[test]
    fn resolves_like_a_chroot() {
        let view = merged(&[&[
            directory("usr/lib"),
            symlink("lib", "usr/lib"),
            symlink("abs", "/lib/x"),
            symlink("up", "../../../usr"),
            symlink("loop", "loop"),
            symlink("dangling", "no/such"),
            file("usr/f", "f"),
        ]]);
        for (path, last, want) in [
            ("lib/y", FollowLast::Yes, "usr/lib/y"),
            ("/lib", FollowLast::No, "lib"),
            ("lib/", FollowLast::Yes, "usr/lib"),
            ("abs", FollowLast::Yes, "usr/lib/x"),
            ("up/lib/../f", FollowLast::Yes, "usr/f"),
            ("../../up", FollowLast::Yes, "usr"),
            ("new/deep/./name", FollowLast::Yes, "new/deep/name"),
            ("dangling/more", FollowLast::Yes, "no/such/more"),
            ("lib/..", FollowLast::Yes, "usr"),
            ("loop", FollowLast::No, "loop"),
            ("", FollowLast::Yes, ""),
        ] {
            let found = resolve(&view, path.as_bytes(), last).unwrap();
            assert_eq!(found.as_bytes(), want.as_bytes(), "{path}");
        }
        assert!(matches!(resolve(&view, b"loop/x", FollowLast::Yes), Err(TreeError::LinkLoop { .. })));
        assert!(matches!(resolve(&view, b"usr/f/x", FollowLast::Yes), Err(TreeError::NotADirectory { .. })));
    }

    #[test]
    fn reads_small_files_only() {
        let view = merged(&[&[file("etc/passwd", "12345"), symlink("link", "etc/passwd"), directory("dir")]]);
        assert_eq!(read_small(&view, b"/link", 5).unwrap().as_deref(), Some(b"12345".as_slice()));
        assert!(matches!(read_small(&view, b"link", 4), Err(TreeError::TooLarge { size: 5, .. })));
        for path in ["dir", "none", "etc/passwd/x"] {
            assert_eq!(read_small(&view, path.as_bytes(), 5).unwrap(), None, "{path}");
        }
    }
}
