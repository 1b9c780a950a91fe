//! Reading a whole tree, wherever it is: a build context, a stack of layers, an unpacked archive.

use std::io;

use rayon::prelude::*;

use super::{Content, Entry, Metadata, Node, TreePath};

/// The BLAKE3 digest of a file's bytes: rbuild's own key for contents, never written into an image.
pub type ContentDigest = blake3::Hash;

/// A tree could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A system call failed.
    #[error("could not {action} `{path}`")]
    Io {
        /// What was tried: `read`, `list`.
        action: &'static str,
        /// The path, as a user knows it.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Following symbolic links led in a circle, or through too many of them.
    #[error("too many symbolic links in `{path}`")]
    LinkLoop {
        /// The path that was resolved.
        path: String,
    },
    /// A part of the path is no directory.
    #[error("`{path}` is not a directory")]
    NotADirectory {
        /// The part.
        path: String,
    },
    /// A file is larger than what its use can need.
    #[error("`{path}` has {size} bytes, more than the {limit} that are read of it")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The most that is read, in bytes.
        limit: u64,
    },
}

/// A tree that can be looked into. Ignored and removed entries are not there.
///
/// Nothing here follows symbolic links. Entries are never whiteouts, and a further name of a file is given as that
/// file, with its metadata; [`TreeView::link_id`] tells which names belong together.
pub trait TreeView: Send + Sync {
    /// The entry of a path, or `None` where there is none. The root always exists.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn get(&self, path: &TreePath) -> Result<Option<Entry>, TreeError>;

    /// The entries of a directory, sorted; empty where the path is no directory.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn read_dir(&self, path: &TreePath) -> Result<Vec<Entry>, TreeError>;

    /// Where the bytes of a regular file come from.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn content(&self, path: &TreePath) -> Result<Content, TreeError>;

    /// The digest of a regular file's bytes.
    ///
    /// # Errors
    /// When the file can't be read.
    fn content_digest(&self, path: &TreePath) -> Result<ContentDigest, TreeError>;

    /// The same number for all names of one regular file that has several, `None` for one with a single name.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn link_id(&self, path: &TreePath) -> Result<Option<u64>, TreeError>;

    /// Hands over the entries of a directory in order, with what a step's key needs of them: all directories, and
    /// what else `wants` says yes to by its name. Nothing where the path is no directory.
    ///
    /// It is one pass over the directory that keeps nothing, for trees of a million files.
    ///
    /// # Errors
    /// When the tree or a wanted file can't be read, and what `take` fails with.
    fn visit(&self, directory: &TreePath, wants: &Wants<'_>, take: &mut Take<'_>) -> Result<(), TreeError> {
        visit_listed(self, directory, wants, take)
    }
}

/// Does what [`TreeView::visit`] says, with what [`TreeView::read_dir`] gives.
pub(crate) fn visit_listed<V: TreeView + ?Sized>(
    view: &V,
    directory: &TreePath,
    wants: &Wants<'_>,
    take: &mut Take<'_>,
) -> Result<(), TreeError> {
    let name_of = |entry: &Entry| entry.path.file_name().unwrap_or_default().to_vec();
    let mut entries = view.read_dir(directory)?;
    entries.retain(|entry| entry.node.is_directory() || wants(&name_of(entry)));
    let digest = |entry: &Entry| match entry.node {
        Node::File { .. } => view.content_digest(&entry.path).map(Some),
        _ => Ok(None),
    };
    let digests: Vec<_> = entries.par_iter().map(digest).collect::<Result<_, _>>()?;
    for (entry, digest) in entries.iter().zip(digests) {
        take(Seen {
            name: &name_of(entry),
            node: &entry.node,
            metadata: &entry.metadata,
            digest,
            link: if digest.is_some() { view.link_id(&entry.path)? } else { None },
            hollow: false,
            content: &|| if digest.is_some() { view.content(&entry.path) } else { Ok(Content::None) },
        })?;
    }
    Ok(())
}

/// Says by its name whether something that is no directory is wanted.
pub type Wants<'a> = dyn Fn(&[u8]) -> bool + Sync + 'a;

/// Takes an entry.
pub type Take<'a> = dyn FnMut(Seen<'_>) -> Result<(), TreeError> + 'a;

/// An entry as [`TreeView::visit`] hands it over.
pub struct Seen<'a> {
    /// Its name in the directory.
    pub name: &'a [u8],
    /// What it is.
    pub node: &'a Node,
    /// Its owner, mode, time and attributes.
    pub metadata: &'a Metadata,
    /// The digest of a regular file's bytes.
    pub digest: Option<ContentDigest>,
    /// The same as [`TreeView::link_id`].
    pub link: Option<u64>,
    /// Whether it is a directory that is there for the sake of what is in it: one that turns out to be empty is not there.
    pub hollow: bool,
    /// The same as [`TreeView::content`], of the file as it was seen.
    pub content: &'a dyn Fn() -> Result<Content, TreeError>,
}
