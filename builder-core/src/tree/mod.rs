//! File trees as data: entries, the changes that make a layer, and the records of layers.
//!
//! A layer is a sorted list of [`Change`]s to the tree below it. Paths are relative to the root, byte strings, and
//! sorted so that a directory stands before everything in it and nothing else stands between them.

mod entry;
mod path;
mod view;

pub use entry::{Change, Content, Entry, Metadata, Node, OpenContent, Timestamp, Xattrs, sort_changes};
pub use path::{TreePath, TreePathError};
pub use view::{ContentDigest, TreeError, TreeView};
