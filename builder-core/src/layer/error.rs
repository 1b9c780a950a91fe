//! What can go wrong with layers.

use std::io;

use crate::oci::DiffId;

/// A layer could not be written, read or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A file that goes into the layer can't be read.
    #[error("could not read `{path}`")]
    ReadContent {
        /// The path in the layer.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file's size is not the one that was seen before.
    #[error("`{path}` changed while it was read: it had {expected} bytes, and now has {found}")]
    ContentSize {
        /// The path in the layer.
        path: String,
        /// The size in bytes that it was to have.
        expected: u64,
        /// What was found instead: a size in bytes, or `more`.
        found: String,
    },
    /// Files of which it is known what they hold hold something else.
    #[error("its files changed while the build used them")]
    Changed,
    /// An entry can't be written into a layer.
    #[error("`{path}` can't be part of a layer: {reason}")]
    Entry {
        /// The path in the layer.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// Compressing failed.
    #[error("could not compress the layer")]
    Compress {
        /// Why.
        source: io::Error,
    },
    /// The finished bytes can't be put where they are to go.
    #[error("could not write the layer")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// The record of the layer's entries, or what is put by for it, can't be written or read again.
    #[error("could not keep the list of the layer's entries")]
    Record {
        /// Why.
        source: io::Error,
    },
    /// The blob can't be read or decompressed.
    #[error("could not read the layer's {compression} data")]
    Decompress {
        /// What it is compressed with.
        compression: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The blob's bytes are not what the media type says.
    #[error("the layer is said to be `{media_type}`, but begins like {found} data")]
    MediaType {
        /// The media type.
        media_type: String,
        /// What the first bytes say.
        found: &'static str,
    },
    /// The uncompressed bytes have another digest.
    #[error("the layer's content has diff ID `{found}`, and not `{want}`")]
    DiffId {
        /// The diff ID that was asked for.
        want: DiffId,
        /// The one of the bytes.
        found: DiffId,
    },
    /// The archive breaks the format, or tries what no layer may.
    #[error("the layer's entry `{member}` is refused: {reason}")]
    Member {
        /// The member's name as the archive gives it, or where it begins.
        member: String,
        /// Why.
        reason: String,
    },
    /// The archive is larger than a limit allows.
    #[error("the layer is refused: more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The unpacked form can't be written.
    #[error("could not {action} `{path}`")]
    Unpack {
        /// What was tried.
        action: &'static str,
        /// The path in the layer.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}
