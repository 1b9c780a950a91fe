//! How much disk space a store takes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rayon::prelude::*;

use super::{Store, StoreError, file};
use crate::oci::Digest;

/// Disk space by kind, in bytes as `du` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Manifests, configurations and compressed layers.
    pub blobs_bytes: u64,
    /// Unpacked layers and their records.
    pub layers_bytes: u64,
    /// Records of steps and notes.
    pub records_bytes: u64,
    /// Cache mounts.
    pub mounts_bytes: u64,
    /// Records of builds.
    pub builds_bytes: u64,
    /// What running processes work on, stat caches, locks, the store's own folder and the rest.
    pub other_bytes: u64,
}

impl Usage {
    /// All of it: what `du` says of the store's folder.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.blobs_bytes
            + self.layers_bytes
            + self.records_bytes
            + self.mounts_bytes
            + self.builds_bytes
            + self.other_bytes
    }
}

impl Store {
    /// Counts the disk space that the store takes.
    ///
    /// # Errors
    /// When the store's folder can't be listed.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        let mut seen = BTreeSet::new();
        for name in file::list(self.root())? {
            let bytes = disk_usage(&self.path(&name), &mut seen);
            *match name.as_str() {
                "blobs" => &mut usage.blobs_bytes,
                "layers" => &mut usage.layers_bytes,
                "steps" | "notes" => &mut usage.records_bytes,
                "mounts" => &mut usage.mounts_bytes,
                "builds" => &mut usage.builds_bytes,
                _ => &mut usage.other_bytes,
            } += bytes;
        }
        usage.other_bytes += own_bytes(self.root());
        Ok(usage)
    }

    /// The objects of a folder, whose names are digests, and their sizes on disk.
    pub(super) fn sizes(&self, folder: &str) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let folder = self.path(folder);
        let names = file::list(&folder)?;
        let sizes = names.par_iter().filter_map(|name| {
            let digest = format!("sha256:{name}").parse().ok()?;
            Some((digest, disk_usage(&folder.join(name), &mut BTreeSet::new())))
        });
        Ok(sizes.collect())
    }
}

/// The disk space of a file or of a folder without what is in it.
pub(super) fn own_bytes(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |metadata| metadata.blocks() * 512)
}

/// The disk space of a file or a tree, each file counted once; what can't be read counts as nothing.
pub(super) fn disk_usage(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> u64 {
    let walk = walkdir::WalkDir::new(path).follow_links(false).follow_root_links(false).same_file_system(true);
    let sizes = walk.into_iter().filter_map(|entry| {
        let metadata = entry.ok()?.metadata().ok()?;
        let counted = metadata.is_dir() || metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino()));
        counted.then(|| metadata.blocks() * 512)
    });
    sizes.sum()
}
