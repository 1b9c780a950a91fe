//! Layers stacked with overlayfs.
//!
//! The kernel takes 500 layers for one overlay and lets file systems be stacked two deep. A higher stack has its lowest
//! layers in an overlay of their own, which is the lowest layer of the other:
//!
//! ```text
//! upper directory
//! 499 layers at most
//! a read-only overlay: the lowest 500 layers
//! ```
//!
//! What the layers above say of a path (a whiteout, an opaque folder) counts for the overlay below as for any layer.
//! The other way round, with the topmost layers in the inner overlay, their whiteouts would be lost.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, open_tree};

use super::{FileSystem, MountError, Restrictions, attach, bind, descriptor_path, in_private_namespace, open_path};
use crate::sys::call;

/// The layers of an overlay mount. Always mounted with `userxattr`, so root and rootless share one form on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// Where changes go; without it the mount is read-only.
    pub writable: Option<WritableLayer>,
}

/// The writable part of an overlay: two folders on one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritableLayer {
    /// Receives the changes.
    pub upper: PathBuf,
    /// Empty folder for the kernel's own use.
    pub work: PathBuf,
}

/// The most lower layers of one overlay (`OVL_MAX_STACK` of the kernel).
const MOST_OF_ONE: usize = 500;

/// The most layers that can be mounted; Docker refuses images with more than 127.
pub const MOST_LAYERS: usize = 2 * MOST_OF_ONE - 1;

/// Makes a detached overlay mount.
///
/// One read-only layer alone becomes a read-only bind mount, because overlayfs wants two. Writes are `volatile`
/// (never synced: a step that was cut off is thrown away), so ending a step does not flush the whole disk.
///
/// # Errors
/// When a layer cannot be opened, there are more than [`MOST_LAYERS`], or the file system under `upper` cannot carry an
/// overlay.
pub fn overlay(layers: &Overlay, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
    let layers = &Overlay { lower: without_repetitions(&layers.lower), writable: layers.writable.clone() };
    match (layers.lower.len(), &layers.writable) {
        (1, None) => bind(&layers.lower[0], restrictions.with_read_only(true)),
        (..=MOST_OF_ONE, _) => one_overlay(layers, restrictions),
        (..=MOST_LAYERS, _) => overlay_on_overlay(layers, restrictions),
        (count, _) => Err(MountError::TooManyLayers { count, most: MOST_LAYERS }),
    }
}

fn one_overlay(layers: &Overlay, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
    match overlay_by_layer(layers, restrictions) {
        // Before 6.5 the layers cannot be given one at a time; some kernels say so only at the end.
        Err(error @ MountError::Create { .. }) if error.is_invalid_argument() => {
            overlay_classic(layers, restrictions).map_err(|_| error)
        }
        result => result,
    }
}

/// The lowest layers go into an overlay of their own. Overlayfs takes only what is attached in the mount namespace of
/// its caller (before 6.15), so that one is put over its lowest layer, in a namespace that nobody else sees.
fn overlay_on_overlay(layers: &Overlay, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
    in_private_namespace(|| {
        let (above, below) = layers.lower.split_at(layers.lower.len() - MOST_OF_ONE);
        let place = &below[MOST_OF_ONE - 1];
        let base = one_overlay(&Overlay { lower: below.to_vec(), writable: None }, Restrictions::default())?;
        attach(base.as_fd(), place)?;
        let lower = above.iter().chain([place]).cloned().collect();
        one_overlay(&Overlay { lower, writable: layers.writable.clone() }, restrictions)
    })
}

/// Every folder once, where it is topmost: what it says of a path there hides what it says of that path further down.
/// The kernel refuses a folder that is named twice, and two steps that change nothing have the same layer.
fn without_repetitions(lower: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = std::collections::BTreeSet::new();
    lower.iter().filter(|folder| seen.insert(folder.as_path())).cloned().collect()
}

fn overlay_by_layer(layers: &Overlay, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
    let context = FileSystem::open("overlay")?;
    for layer in &layers.lower {
        let directory = open_path(layer)?;
        // The kernel resolves the path at once, so the descriptor can go; the short name keeps long store paths
        // below the call's limit of 255 bytes and out of the step's mountinfo.
        context.set("lowerdir+", &descriptor_path(directory.as_fd()))?;
    }
    if let Some(writable) = &layers.writable {
        let (upper, work) = (open_path(&writable.upper)?, open_path(&writable.work)?);
        context.set("upperdir", &descriptor_path(upper.as_fd()))?;
        context.set("workdir", &descriptor_path(work.as_fd()))?;
        context.flag("volatile")?;
    }
    context.set("index", "off")?;
    context.flag("userxattr")?;
    context.mount(restrictions)
}

/// The overlay made by `mount(2)` in a mount namespace of its own, so that it is never visible.
fn overlay_classic(layers: &Overlay, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
    let target = layers.writable.as_ref().map(|writable| &writable.upper).or(layers.lower.first());
    let target = target.map(std::path::absolute).transpose().unwrap_or_default().unwrap_or_default();
    let mount = in_private_namespace(|| {
        // The layers are opened here because they must belong to this namespace's copies of the mounts.
        let mut opened = Vec::new();
        let mut name = |path: &Path| {
            let directory = open_path(path)?;
            let name = directory.as_raw_fd().to_string();
            opened.push(directory);
            Ok::<_, MountError>(name)
        };
        let lower = layers.lower.iter().map(|layer| name(layer)).collect::<Result<Vec<_>, _>>()?.join(":");
        let mut options = format!("lowerdir={lower},index=off,userxattr");
        if let Some(writable) = &layers.writable {
            let (upper, work) = (name(&writable.upper)?, name(&writable.work)?);
            options.push_str(&format!(",upperdir={upper},workdir={work},volatile"));
        }
        let failed = |error: Errno| MountError::Create {
            file_system: "overlay",
            option: options.clone(),
            message: String::new(),
            source: error.into(),
        };
        let data = CString::new(options.as_str()).map_err(|_| failed(Errno::INVAL))?;
        // All options together must fit into a page, so layers go by their numbers alone. Only this thread moves: a
        // thread with mounts of its own has a working directory of its own.
        rustix::process::chdir("/proc/self/fd").map_err(failed)?;
        rustix::mount::mount("overlay", &target, "overlay", MountFlags::empty(), Some(&*data)).map_err(failed)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, &target, flags).map_err(failed)
    })?;
    call::restrict(mount.as_fd(), restrictions.flags(), false)
        .map_err(|error| MountError::Attributes { path: target.clone(), source: error.into() })?;
    Ok(mount)
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
