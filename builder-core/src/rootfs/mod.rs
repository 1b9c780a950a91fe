//! Handles on file trees that somebody else wrote, from which no path leads out.
//!
//! A [`Root`] is an open directory. Everything below it is named by a [`TreePath`](crate::tree::TreePath), whose
//! components are never `..`, and opened relative to the directory's descriptor. Methods that take a `TreePath`
//! follow no symbolic link at all, neither on the way nor at the end; the ones that say `following` resolve links as
//! if the root were `/` (`openat2` with `RESOLVE_IN_ROOT` and `RESOLVE_NO_MAGICLINKS`), so `/proc` magic links and
//! links that point outside lead nowhere. FIFOs and devices are never opened in a way that waits or acts.
//!
//! Attributes: only `security.capability` is kept, as in the layers that BuildKit writes; what overlayfs keeps in
//! `user.overlay.*` is read apart (see [`OverlayMarks`]).

mod directory_tree;
mod file;
mod names;
mod remove;
mod root;
mod status;
mod xattr;

pub use directory_tree::DirectoryTree;
pub use file::digest_file;
pub use names::Names;
pub use remove::{remove_contents, remove_tree};
pub use root::Root;
pub use status::{Inode, Status};
pub(crate) use xattr::set_xattr;
pub use xattr::{OverlayMarks, is_kept_xattr, portable_capability};

#[cfg(test)]
mod tests;
