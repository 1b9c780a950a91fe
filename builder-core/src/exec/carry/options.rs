//! Where caches are read from and written to, as the caller asks.

use std::path::PathBuf;
use std::time::Duration;

use crate::layer::Compression;
use crate::oci::Digest;
use crate::reference::Reference;

/// A place that holds caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// A name in a registry.
    Registry {
        /// The name.
        reference: Reference,
        /// Whether the registry is spoken to in the clear.
        insecure: bool,
    },
    /// An OCI layout in a folder.
    Layout {
        /// The folder.
        path: PathBuf,
        /// The tag in it.
        tag: String,
        /// The digest of the cache's manifest, in place of the tag. For reading only.
        digest: Option<Digest>,
    },
}

/// A cache that is read (`--cache-from`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSource {
    /// Where it is.
    pub place: CachePlace,
    /// How long reading its list of steps may take.
    pub timeout: Duration,
}

/// Which steps a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Those whose layers the image has.
    #[default]
    Min,
    /// Those of all stages.
    Max,
}

/// A cache that is written (`--cache-to`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where it goes; `None` for the image itself.
    pub place: Option<CachePlace>,
    /// Which steps it holds.
    pub mode: CacheMode,
    /// How its layers are compressed; as those of the image where absent.
    pub compression: Option<Compression>,
    /// Whether the cache mounts that the build's commands use go along.
    pub mounts: bool,
    /// Whether the build goes on where the cache can't be written.
    pub ignore_errors: bool,
    /// How long sending may take.
    pub timeout: Duration,
}

impl CacheSource {
    /// How long reading a list of steps may take, unless the caller says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(60);

    /// Reads the cache that is in a place.
    #[must_use]
    pub const fn new(place: CachePlace) -> Self {
        Self { place, timeout: Self::TIMEOUT }
    }
}

impl CacheTarget {
    /// How long sending may take, unless the caller says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(600);

    /// Writes a cache of the image's own steps to a place; `None` puts it into the image.
    #[must_use]
    pub const fn new(place: Option<CachePlace>) -> Self {
        let (mode, compression, timeout) = (CacheMode::Min, None, Self::TIMEOUT);
        Self { place, mode, compression, mounts: false, ignore_errors: true, timeout }
    }
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry { reference, .. } => f.write_str(&reference.familiar()),
            Self::Layout { path, tag, digest: None } => write!(f, "{}:{tag}", path.display()),
            Self::Layout { path, digest: Some(digest), .. } => write!(f, "{}@{digest}", path.display()),
        }
    }
}
