//! Following symbolic links inside a part of a tree.

use std::collections::VecDeque;

use crate::tree::{Node, TreeError, TreePath};

/// As many links as BuildKit follows in one path.
const MOST_LINKS: usize = 255;

/// Whether a symbolic link that a path ends in is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Followed,
    Kept,
}

/// Resolves `path` as a process would whose root directory is `root`. What does not exist is kept as it is written.
pub(super) fn resolve(
    look_up: &dyn Fn(&TreePath) -> Result<Option<Node>, TreeError>,
    root: &TreePath,
    path: &TreePath,
    last: Last,
) -> Result<TreePath, TreeError> {
    let mut todo: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
    let mut found = root.clone();
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == b".." {
            if found != *root {
                found = found.parent().unwrap_or_default();
            }
            continue;
        }
        let next = found.join(&name);
        match look_up(&next)? {
            Some(Node::Symlink { target }) if !todo.is_empty() || last == Last::Followed => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(TreeError::LinkLoop { path: path.to_string() });
                }
                if target.first() == Some(&b'/') {
                    found = root.clone();
                }
                let parts = target.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b"."));
                for part in parts.collect::<Vec<_>>().into_iter().rev() {
                    todo.push_front(part.to_vec());
                }
            }
            None | Some(Node::Directory { .. }) => found = next,
            Some(_) if todo.is_empty() => found = next,
            Some(_) => return Err(TreeError::NotADirectory { path: next.to_string() }),
        }
    }
    Ok(found)
}
