//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};

use crate::layer::LayerError;
use crate::oci::{Digest, Platform};
use crate::store::StoreError;
use crate::tree::{TreeError, TreePath};

/// Work on an image failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A system call failed.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An output stream failed.
    #[error("could not write the {what}")]
    Write {
        /// What was written, such as `archive`.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The store failed.
    #[error("could not {action} in the store")]
    Store {
        /// What was tried, such as `read the manifest`.
        action: &'static str,
        /// Why it failed.
        source: StoreError,
    },
    /// A manifest, index or configuration can't be understood.
    #[error("the {kind} is not valid: {reason}")]
    Invalid {
        /// What it should be.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A document is larger than rbuild reads.
    #[error("the {kind} `{digest}` has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// What it is.
        kind: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The largest size in bytes.
        limit: u64,
    },
    /// An index has no image for the platform.
    #[error("there is no image for `{wanted}`, only for {}", list(available))]
    NoPlatform {
        /// The platform that was asked for.
        wanted: Box<Platform>,
        /// The platforms that there are.
        available: Vec<String>,
    },
    /// The layers do not fit the configuration.
    #[error("the image has {layers} layers but its configuration names {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Diff IDs in the configuration.
        diff_ids: usize,
    },
    /// A layer's form does not exist in the format asked for.
    #[error("a layer of the type `{media_type}` can't be in an image with Docker's media types")]
    NotInDockerFormat {
        /// The layer's media type.
        media_type: String,
    },
    /// A Docker archive holds images of one platform only.
    #[error("an archive for `docker load` can't hold images for several platforms ({})", list(platforms))]
    SeveralPlatforms {
        /// The platforms.
        platforms: Vec<String>,
    },
    /// An address is none of a layout.
    #[error("`{address}` is not an address of an OCI layout: {reason}")]
    BadAddress {
        /// The address.
        address: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A path is no OCI layout.
    #[error("`{}` is not an OCI layout: {reason}", path.display())]
    NotALayout {
        /// The folder or file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A layout does not have the image asked for.
    #[error("the OCI layout `{}` has no image `{name}`, only {}", path.display(), list(available))]
    NoSuchImage {
        /// The folder or file.
        path: PathBuf,
        /// The tag or digest asked for.
        name: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// A layout lacks a blob, or has other bytes under its digest.
    #[error("could not read the blob `{digest}` of the OCI layout `{}`", path.display())]
    LayoutBlob {
        /// The folder or file.
        path: PathBuf,
        /// The blob's digest.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The root file system can't be read.
    #[error("could not read the root file system")]
    Tree {
        /// Why.
        source: TreeError,
    },
    /// The root file system can't be written as a tar stream.
    #[error("could not write the root file system as a tar stream")]
    Encode {
        /// Why.
        source: LayerError,
    },
    /// An entry of the root file system can't be put into the output folder.
    #[error("could not {action} `{entry}` in `{}`", path.display())]
    Local {
        /// What was tried.
        action: &'static str,
        /// The entry.
        entry: TreePath,
        /// The output folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ImageError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn store(action: &'static str) -> impl FnOnce(StoreError) -> Self {
        move |source| Self::Store { action, source }
    }

    pub(super) fn invalid(kind: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { kind, reason: reason.into() }
    }
}

impl From<TreeError> for ImageError {
    fn from(source: TreeError) -> Self {
        Self::Tree { source }
    }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    match names {
        [] => "none".to_owned(),
        names if names.len() > SHOWN => format!("`{}` and {} more", names[..SHOWN].join("`, `"), names.len() - SHOWN),
        names => format!("`{}`", names.join("`, `")),
    }
}
