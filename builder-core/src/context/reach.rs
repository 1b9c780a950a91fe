//! Which directories a wildcard can be looked for in.
//!
//! COMPAT(buildkit): of a folder BuildKit sends itself only what the build's sources name. A directory of which nothing is
//! named is not there, and so a wildcard that matches nothing in it is an error, unless something else brings the directory.

use super::error::CopyError;
use super::glob::has_wildcards;
use super::select::{before_wildcards, expand, find};
use crate::tree::{TreePath, TreeView};

/// The directory before the first wildcard of a source that matches nothing; `None` for the top of the tree, which is always
/// there, and for any other source.
///
/// # Errors
/// When the directory does not exist, or the tree can't be read.
pub fn fruitless_directory(tree: &dyn TreeView, source: &[u8]) -> Result<Option<TreePath>, CopyError> {
    let path = TreePath::clean(source);
    if !has_wildcards(path.as_bytes()) || !matches_of(tree, &path)?.is_empty() {
        return Ok(None);
    }
    let directory = find(tree, &before_wildcards(&path).0, &String::from_utf8_lossy(source))?.path;
    Ok(Some(directory).filter(|directory| !directory.is_root()))
}

/// Whether what a source names is in `directory`, is it, or holds it. A source that is not there names nothing.
///
/// # Errors
/// When the tree can't be read.
pub fn names_something_at(tree: &dyn TreeView, source: &[u8], directory: &TreePath) -> Result<bool, CopyError> {
    let found = match matches_of(tree, &TreePath::clean(source)) {
        Err(CopyError::SourceNotFound { .. } | CopyError::DanglingLink { .. }) => return Ok(false),
        found => found?,
    };
    Ok(found.iter().any(|path| path.starts_with(directory) || directory.starts_with(path)))
}

fn matches_of(tree: &dyn TreeView, path: &TreePath) -> Result<Vec<TreePath>, CopyError> {
    let wanted = path.to_string();
    if has_wildcards(path.as_bytes()) { expand(tree, path, &wanted) } else { Ok(vec![find(tree, path, &wanted)?.path]) }
}
