//! File trees as data: entries, the changes that make a layer, and the records of layers.
//!
//! A layer is a sorted list of [`Change`]s to the tree below it. Paths are relative to the root, byte strings, and
//! sorted so that a directory stands before everything in it and nothing else stands between them.

mod accounts;
mod change_list;
mod delta;
mod entry;
mod flatten;
mod merged;
mod packed;
mod path;
mod record;
mod record_builder;
mod record_entry;
mod record_file;
mod resolve;
mod spool;
mod view;

pub use accounts::{AccountError, ChownOwner, User, chown_needs_accounts, lookup_chown, lookup_user};
pub use change_list::{ChangeList, ChangeListBuilder, Changes};
pub use delta::Delta;
pub use entry::{
    Change, Content, ContentMark, Entry, FilePart, FilePartReader, Metadata, Node, OpenContent, SourceFile, Timestamp,
    Xattrs, sort_changes,
};
pub use flatten::{changes_of, flatten};
pub use merged::{MergedTree, TreeLayer, Walk};

pub(crate) use packed::{PackedReader, push_bytes, push_number, push_signed};
pub(crate) use path::compare_paths;
pub use path::{TreePath, TreePathError};
pub use record::{Tree, TreeEntry, TreeReader, TreeRecordError};
pub use record_builder::TreeBuilder;
pub use resolve::{FollowLast, read_small, resolve};
pub(crate) use spool::Appended;
pub(crate) use view::visit_listed;
pub use view::{ContentDigest, Seen, Take, TreeError, TreeView, Wants};
