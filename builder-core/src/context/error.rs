//! What can go wrong in a build context and while files are copied.

use std::io;
use std::path::PathBuf;

use super::glob::BadPattern;
use crate::tree::TreeError;

/// A pattern list can't be used.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IgnoreError {
    /// A line is no pattern.
    #[error("bad pattern `{pattern}` in line {line}")]
    BadPattern {
        /// The line, from 1.
        line: usize,
        /// The pattern.
        pattern: String,
    },
    /// A line is a bare `!`.
    #[error("the exception `!` in line {line} has no pattern")]
    EmptyException {
        /// The line, from 1.
        line: usize,
    },
}

/// A build context can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The folder can't be opened.
    #[error("could not open the build context `{path}`")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// An archive can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Its stream is damaged or could not be read.
    #[error("could not read the archive")]
    Read {
        /// Why it failed.
        source: io::Error,
    },
    /// A member's contents could not be stored for the layer.
    #[error("could not store the contents of `{member}`")]
    Store {
        /// The member's name.
        member: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A member has something that no layer can hold.
    #[error("the member `{member}` can't be extracted: {reason}")]
    Member {
        /// The member's name.
        member: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A limit is exceeded.
    #[error("the archive has more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Files can't be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A source does not exist. [`super::explain_missing`] finds out more.
    #[error("`{wanted}` was not found")]
    SourceNotFound {
        /// The source as it was written.
        wanted: String,
    },
    /// A wildcard matches nothing in a directory of which the build names nothing else.
    #[error("`{wanted}` matches nothing")]
    NothingMatches {
        /// The source as it was written.
        wanted: String,
    },
    /// A source is a symbolic link to something that is not in the tree.
    #[error("`{wanted}` is a symbolic link to `{target}`, which was not found")]
    DanglingLink {
        /// The source as it was written.
        wanted: String,
        /// Where the link leads, inside the source tree.
        target: String,
    },
    /// A source is no pattern.
    #[error("could not match a source")]
    BadPattern {
        /// The pattern.
        #[from]
        source: BadPattern,
    },
    /// An `--exclude` is no pattern.
    #[error("could not use `--exclude={pattern}`")]
    BadExclude {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: IgnoreError,
    },
    /// A directory would have to go where something else is.
    #[error("`{path}` is not a directory, so nothing can be copied into it")]
    NotADirectory {
        /// The path in the image.
        path: String,
    },
    /// A file would have to replace a directory.
    #[error("the directory `{path}` can't be replaced by a file")]
    IsADirectory {
        /// The path in the image.
        path: String,
    },
    /// A name means something else in a layer (OCI image spec, "Whiteouts").
    #[error("`{path}` can't be stored in a layer: names that begin with `.wh.` mark removed files")]
    ReservedName {
        /// The path in the image.
        path: String,
    },
    /// A device means something else in a layer that is unpacked for overlayfs.
    #[error("`{path}` can't be stored in a layer: character devices 0:0 mark removed files")]
    ReservedDevice {
        /// The path in the image.
        path: String,
    },
    /// An archive can't be extracted.
    #[error("could not extract `{path}`")]
    Archive {
        /// The archive.
        path: String,
        /// Why it failed.
        source: ArchiveError,
    },
    /// An archive that has no name can't be extracted.
    #[error(transparent)]
    ArchiveStream(ArchiveError),
    /// A tree can't be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}
